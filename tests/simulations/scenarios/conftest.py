"""A small dataset of odd grids, and hashes of what a scenario makes of it."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segformer3d.tasks import Task
from simulations.partitions import write_partition
from simulations.scenarios import get_scenario
from tests.conftest import MakeDataset

OBLIQUE = np.array([[-0.9, 0.1, 0.0, 20.0], [0.1, 0.0, 1.1, -7.0], [0.0, 1.2, 0.1, 3.0], [0.0, 0.0, 0.0, 1.0]])

WriteScenario = Callable[..., list[Path]]


def blobs(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image in raw units with structures 1 and 2 side by side, and its label; part of the rim is exactly 0."""
    generator = np.random.default_rng(number)
    label = np.zeros((14, 17, 20), np.uint8)
    label[3:9, 4:12, 5:12], label[4:10, 5:11, 12:16] = 1, 2
    image = 200.0 + 100.0 * label + generator.normal(0, 5, label.shape)
    image[:, :2] = 0
    return image.astype(np.float32), label


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> Path:
    """Twelve cases; names of Task04, so that two neighbours are one patient."""
    folder = tmp_path_factory.mktemp("source") / "data"
    return make_dataset(folder, {f"hippocampus_{n:03d}": blobs(n) for n in range(1, 13)}, affine=OBLIQUE)


@pytest.fixture
def write_scenario(tmp_path: Path, source: Path, tiny_task: Task) -> WriteScenario:
    """`write_scenario(name, sites=4, seed=0, place="sites")` writes the folders of a federation, held-out last."""

    def write(name: str, sites: int = 4, seed: int = 0, place: str = "sites") -> list[Path]:
        scenario = get_scenario(name)
        folders = write_partition(source, tmp_path / place, scenario.partition, sites, seed, task=tiny_task.name)
        scenario.change(folders.sites, seed, tiny_task)
        return [*folders.sites, folders.held_out]

    return write


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file's content, by its place."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def array(path: Path) -> np.ndarray:
    """What an image file holds."""
    return np.asanyarray(nib.load(path).dataobj)
