"""Folders of sound cases, none like another, which the tests then damage one way each."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from segformer3d.data_check.check import Checked, check_folder
from segformer3d.task import Task
from tests.conftest import MakeDataset

SHAPE = (26, 24, 22)
CASES = 12

Array = NDArray[Any]
MakeCases = Callable[..., Path]


def sound_case(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[Array, Array]:
    """Tissue with a grain of its own, a bright structure 1 and, beside it, a brighter structure 2."""
    generator = np.random.default_rng(seed)
    grain = ndimage.gaussian_filter(generator.normal(size=shape), 1.5)
    x, y, z = np.indices(shape) - np.array(shape).reshape(3, 1, 1, 1) / 2 + generator.uniform(-2, 2, (3, 1, 1, 1))
    inside = (x**2 + y**2 + z**2) < generator.uniform(5, 6) ** 2
    label = np.where(inside, np.where(x > 0, 2, 1), 0).astype(np.int16)
    image = 100 + 20 * grain / grain.std() + 25 * label + generator.normal(0, 2, shape)
    return (image * generator.uniform(0.8, 1.2)).astype(np.float32), label


@pytest.fixture(scope="session")
def make_cases(make_dataset: MakeDataset) -> MakeCases:
    """`make_cases(folder, count=CASES)` writes sound cases called a, b, c, ... in the Decathlon layout."""

    def make(folder: Path, count: int = CASES) -> Path:
        return make_dataset(folder, {chr(ord("a") + number): sound_case(number) for number in range(count)})

    return make


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory, make_cases: MakeCases) -> Path:
    """Twelve sound cases; to be copied, not changed."""
    return make_cases(tmp_path_factory.mktemp("sound") / "data")


@pytest.fixture
def folder(tmp_path: Path, sound: Path) -> Path:
    """A copy of the sound cases, to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "data"))


def image_of(folder: Path, name: str) -> Path:
    """The image file of a case."""
    return folder / "imagesTr" / f"{name}.nii.gz"


def label_of(folder: Path, name: str) -> Path:
    """The label file of a case."""
    return folder / "labelsTr" / f"{name}.nii.gz"


def read(path: Path) -> Array:
    """The stored values of a file."""
    return np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]


def write(path: Path, array: Array, affine: Array | None = None) -> None:
    """Values into a file, with its own affine or another."""
    kept = nib.load(path).affine if affine is None and path.exists() else affine  # type: ignore[attr-defined]
    nib.save(nib.Nifti1Image(array, np.eye(4) if kept is None else kept), path)  # type: ignore[attr-defined]


def found(folder: Path, task: Task, **asked: Any) -> list[tuple[str, str | None, str]]:
    """What the gate finds: rule, case, words. Notes are left out."""
    return told(check_folder(folder, task, **asked))


def told(checked: Checked) -> list[tuple[str, str | None, str]]:
    """Errors and warnings."""
    graver = [finding for finding in checked.findings if finding.rule.severity != "note"]
    return [(finding.rule.name, finding.case, finding.found) for finding in graver]
