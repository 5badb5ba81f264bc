"""A federation, simulated once and running between processes for all tests of this folder, and a larger one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .federation import LARGER, Simulated, running, simulate
from .rig import Rig


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Simulated:
    """The federation on one machine."""
    return simulate(shared / "data" / "hippocampus", tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="session")
def larger(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Simulated:
    """The larger federation on one machine."""
    return simulate(shared / "data" / "hippocampus", tmp_path_factory.mktemp("larger"), **LARGER)


@pytest.fixture(scope="package")
def rig(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The same sites, with a coordinator, all of them running."""
    with running(simulated, tmp_path_factory.mktemp("rig")) as made:
        yield made
