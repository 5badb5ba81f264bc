"""Fixtures for every part of the tests: shared data, a tiny task, small datasets on disk, a disk that is full."""

import json
import os
import resource
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
from xdist.scheduler import LoadFileScheduling

from segformer3d.config import ModelConfig
from segformer3d.tasks import Structure, Task

from .browser import CHROMIUM, MISSING, Browser, open_browser

# No deadline: a loaded machine is not a bug. Derandomised: a failure is seen again on the next run.
settings.register_profile("segfed", deadline=None, derandomize=True)
settings.load_profile("segfed")

SHARED = Path(__file__).resolve().parents[2] / "shared"

DEPLOYMENT = "tests/deployment/"

WriteNifti = Callable[..., Path]
MakeDataset = Callable[..., Path]


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: the tests of deployments wait most of the time, and all of them are one worker's."""
    return (os.cpu_count() or 1) + 1


class _Shares(LoadFileScheduling):
    """What is dealt to a worker as one: a file, and all tests of deployments, which share one federation."""

    def _split_scope(self, nodeid: str) -> str:
        return DEPLOYMENT if nodeid.startswith(DEPLOYMENT) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Shares | None:
    """With `--dist loadfile`, see `_Shares`."""
    return _Shares(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small tensors are slower on many threads, and sums on another number of threads differ in the last bit.

    The processes that tests start are told, too.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


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
