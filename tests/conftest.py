"""Fixtures for every part of the tests: shared data, a tiny task, small datasets on disk, a disk that is full."""

import os

# Before NumPy and PyTorch look: small arrays are slower on many threads. Workers and processes inherit it.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import fcntl
import gc
import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray
from xdist.remote import Producer

from segformer3d.config import ModelConfig
from segformer3d.tasks import Structure, Task

from .browser import CHROMIUM, MISSING, Browser, open_browser
from .commands import FASTER, TINY, blob_case, run, simulate
from .examples import examples
from .shares import LongestFirst

# No deadline: a loaded machine is not a bug. Derandomised: a failure is seen again on the next run.
settings.register_profile("segfed", deadline=None, derandomize=True, max_examples=examples(50))
settings.load_profile("segfed")

pytest_plugins = ["tests.work"]

SHARED = Path(__file__).resolve().parents[2] / "shared"
PRIVATE = ("--epsilon", 8, "--delta", 1e-4)

WriteNifti = Callable[..., Path]
MakeDataset = Callable[..., Path]


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: the tests of deployments wait most of the time, and all of them are one worker's."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests may take longer until they count as hanging."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


def pytest_collection_finish() -> None:
    """What was imported stays: no collection of garbage need look through it again."""
    gc.collect()
    gc.freeze()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LongestFirst | None:
    """For `--dist loadfile`."""
    return LongestFirst(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Sums on another number of threads differ in the last bit."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_works() -> Iterator[None]:
    """Also where the tests were started with Ctrl-C ignored, as a script's background job is; processes inherit it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_site_remembered() -> Iterator[None]:
    """As in a process that has served no site: the data of those that it served before is read anew."""
    from client import phases  # what needs no PyTorch of its own shall not wait for it

    phases._data_of_site.clear()
    yield
    phases._data_of_site.clear()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared reference data and scans beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """Two stages, 8 and 16 wide: every kind of layer, in milliseconds."""
    return ModelConfig(
        in_channels=1,
        num_classes=3,
        embed_dims=(8, 16),
        num_heads=(1, 2),
        mlp_ratios=(2, 2),
        depths=(1, 1),
        sr_ratios=(2, 1),  # type: ignore[arg-type]
        patch_kernel_size=(3, 3),  # type: ignore[arg-type]
        patch_stride=(2, 2),  # type: ignore[arg-type]
        patch_padding=(1, 1),  # type: ignore[arg-type]
        decoder_head_embedding_dim=16,
    )


@pytest.fixture(scope="session")
def tiny_task(tiny_config: ModelConfig) -> Task:
    """One contrast, structures 1 and 2, patches of 12 voxels a side."""
    return Task(
        name="tiny",
        modalities=("MRI",),
        structures=(Structure("first", (1,)), Structure("second", (2,))),
        label_values=(0, 1, 2),
        patch=(12, 12, 12),
        prior=(0.1, 0.1),
        model=tiny_config,
    )


def _write_nifti(path: Path, array: NDArray[np.generic], affine: NDArray[np.float64] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture(scope="session")
def write_nifti() -> WriteNifti:
    """`write_nifti(path, array, affine=identity)` writes one NIfTI file."""
    return _write_nifti


def _make_dataset(
    folder: Path,
    cases: Mapping[str, tuple[NDArray[np.generic], NDArray[np.generic]]],
    layout: str = "decathlon",
    affine: NDArray[np.float64] | None = None,
) -> Path:
    images, labels = ("imagesTr", "labelsTr") if layout == "decathlon" else ("images", "labels")
    for name, (image, label) in cases.items():
        _write_nifti(folder / images / f"{name}.nii.gz", image, affine)
        _write_nifti(folder / labels / f"{name}.nii.gz", label, affine)
    if layout == "decathlon":
        training = [{"image": f"./{images}/{name}.nii.gz", "label": f"./{labels}/{name}.nii.gz"} for name in cases]
        described = {
            "name": "tiny",
            "modality": {"0": "MRI"},
            "labels": {"0": "background", "1": "first", "2": "second"},
            "numTraining": len(training),
            "training": training,
        }
        (folder / "dataset.json").write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    """`make_dataset(folder, {name: (image, label)}, layout="decathlon" | "plain")` writes a dataset folder."""
    return _make_dataset


@contextmanager
def _full_disk(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # Python ignores SIGXFSZ, so a write fails with EFBIG
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="session")
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """`with full_disk(limit):` the system refuses to write more than `limit` bytes to any file."""
    return _full_disk


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium that opens pages of this machine and takes pictures of them."""
    if CHROMIUM is None:
        pytest.skip(MISSING)
    with open_browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


BuildOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> BuildOnce:
    """`built_once(name, build)`: the folder that `build(folder)` filled, once for all workers of pytest-xdist.

    Whoever comes later waits and finds it. It is everybody's, so nobody may change it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def build_or_find(name: str, build: Callable[[Path], object]) -> Path:
        place, built = root / "shared" / name, root / "shared" / f"{name}.built"
        place.parent.mkdir(exist_ok=True)
        with place.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not built.exists():
                shutil.rmtree(place, ignore_errors=True)  # of a worker that failed
                place.mkdir()
                build(place)
                built.touch()
        return place

    return build_or_find


# --- One tiny dataset, model and run for all tests of commands -------------------------------------------------------


@pytest.fixture(scope="session")
def dataset(built_once: BuildOnce) -> Path:
    """Sixteen cases in the Decathlon's layout."""
    return built_once("dataset", lambda place: _make_dataset(place, {f"case_{n:02d}": blob_case(n) for n in range(16)}))


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settings file with the tiny network."""
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def trained(built_once: BuildOnce, dataset: Path) -> Path:
    """`segfed train` of thirty passes over the dataset: a folder with a model that finds what it looks for."""

    def train(place: Path) -> None:
        (place / "faster.toml").write_text(FASTER + TINY)
        words = ["--data", dataset, "--config", place / "faster.toml", "--epochs", 30]
        (place / "printed.txt").write_text(run("train", *words, "--out", place / "model").stdout)

    return built_once("trained", train)


@pytest.fixture(scope="session")
def finished(built_once: BuildOnce, dataset: Path, config: Path) -> Path:
    """The run folder of a federation of two sites over three rounds."""
    return built_once("finished", lambda place: simulate(dataset, config, place / "run")) / "run"


@pytest.fixture(scope="session")
def private(built_once: BuildOnce, dataset: Path, config: Path) -> tuple[Path, str]:
    """The run folder of a private federation, and what it printed."""

    def play(place: Path) -> None:
        (place / "printed.txt").write_text(simulate(dataset, config, place / "run", *PRIVATE).stdout)

    place = built_once("private", play)
    return place / "run", (place / "printed.txt").read_text()
