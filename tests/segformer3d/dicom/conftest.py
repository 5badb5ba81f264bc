"""One written series for all tests that only read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset

from .writing import write_series


@dataclass(frozen=True)
class Written:
    """A series in a folder of its own, and its datasets in the order of k."""

    folder: Path
    slices: Sequence[Dataset]


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """`noise()` on the oblique grid; nobody may change it."""
    folder = tmp_path_factory.mktemp("plain") / "scan"
    return Written(folder, tuple(write_series(folder)))
