"""A small dataset of odd grids, and hashes of what a scenario makes of it."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segformer3d.tasks import Task
from simulations.partitions import write_partition
from simulations.phantoms import write_phantom_federation
from simulations.scenarios import get_scenario
from simulations.site_folders import FederationFolders
from tests.conftest import BuildOnce, MakeDataset

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


@pytest.fixture(scope="session")
def phantoms(built_once: BuildOnce) -> FederationFolders:
    """Three hospitals of one phantom each, and one that is held out. Copy them to change them."""
    place = built_once("phantoms", lambda place: write_phantom_federation(place / "sites", [1, 1, 1], 1, seed=0))
    return FederationFolders(tuple(place / "sites" / f"site-{n}" for n in (1, 2, 3)), place / "sites" / "held-out")


def _write(source: Path, task: Task, place: Path, name: str, sites: int, seed: int) -> list[Path]:
    scenario = get_scenario(name)
    folders = write_partition(source, place, scenario.partition, sites, seed, task=task.name)
    scenario.change(folders.sites, seed, task)
    return [*folders.sites, folders.held_out]


@pytest.fixture
def write_scenario(tmp_path: Path, source: Path, tiny_task: Task) -> WriteScenario:
    """`write_scenario(name, seed=0, place="sites")` writes the folders of a federation of four, held-out last."""
    return lambda name, seed=0, place="sites": _write(source, tiny_task, tmp_path / place, name, 4, seed)


@pytest.fixture(scope="session")
def scenario(tmp_path_factory: pytest.TempPathFactory, source: Path, tiny_task: Task) -> WriteScenario:
    """`scenario(name, seed=0)`: the same, written once. Nobody may change it."""
    root = tmp_path_factory.mktemp("scenarios")
    once = cache(lambda name, seed: _write(source, tiny_task, root / f"{name}-{seed}", name, 4, seed))
    return lambda name, seed=0: once(name, seed)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file's content, by its place."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def array(path: Path) -> np.ndarray:
    """What an image file holds."""
    return np.asanyarray(nib.load(path).dataobj)
