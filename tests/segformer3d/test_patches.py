"""Training patches: exact crops where nothing is turned, image and label turned together, one generator."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segformer3d import patches
from segformer3d.cases import find_cases
from segformer3d.dataset import PreparedCase, prepare_case
from segformer3d.patches import Patch, sample_patch
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Structure, Task
from tests.conftest import MakeDataset
from tests.examples import examples

PLAIN = TrainingSettings(augment=False, foreground=0.0)
CENTRED = TrainingSettings(augment=False, foreground=1.0)
AUGMENTED = TrainingSettings(augment=True)
VALUES = 9


@pytest.fixture(scope="session")
def value_task(tiny_task: Task) -> Task:
    """Intensities 0 to 9 become 0 to 1; every value is a structure of its own."""
    return replace(
        tiny_task,
        structures=tuple(Structure(str(value), (value,)) for value in range(1, VALUES + 1)),
        label_values=tuple(range(VALUES + 1)),
        intensity="window",
        window=(0.0, float(VALUES)),
        patch=(8, 9, 10),
        prior=(),
        model=replace(tiny_task.model, num_classes=VALUES + 1),
    )


def make_case(make_dataset: MakeDataset, folder: Path, task: Task, label: NDArray[Any]) -> PreparedCase:
    """A case whose image is its label."""
    (files,) = find_cases(make_dataset(folder / "data", {"a": (label.astype(np.float32), label.astype(np.int16))}))
    return prepare_case(files, task, folder / "cache")


@pytest.fixture(scope="session")
def noise_case(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset, value_task: Task) -> PreparedCase:
    """Every voxel is a value of its own, so that only the exact crop looks like the crop."""
    label = np.random.default_rng(0).integers(0, VALUES + 1, (20, 21, 22))
    return make_case(make_dataset, tmp_path_factory.mktemp("noise"), value_task, label)


@pytest.fixture(scope="session")
def block_case(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset, value_task: Task) -> PreparedCase:
    """Blocks of 6 voxels a side: away from their faces, interpolation does not change the value."""
    blocks = np.random.default_rng(0).integers(0, VALUES + 1, (5, 5, 5))
    return make_case(make_dataset, tmp_path_factory.mktemp("block"), value_task, np.kron(blocks, np.ones((6, 6, 6))))


def draw(case: PreparedCase, task: Task, settings: TrainingSettings, seed: int) -> Patch:
    return sample_patch(case, task, settings, np.random.default_rng(seed))


# --- Determinism -----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32))
def test_the_generator_decides_everything(noise_case: PreparedCase, value_task: Task, seed: int) -> None:
    first, second = (draw(noise_case, value_task, AUGMENTED, seed) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.label, second.label)
    assert first.image.shape == (1, *value_task.patch)
    assert first.label.shape == value_task.patch
    assert (first.image.dtype, first.label.dtype) == (torch.float32, torch.int16)
    assert torch.isfinite(first.image).all()


def test_patches_vary(noise_case: PreparedCase, value_task: Task) -> None:
    images = [draw(noise_case, value_task, AUGMENTED, seed).image for seed in range(5)]
    assert not any(torch.equal(a, b) for number, a in enumerate(images) for b in images[:number])


def test_the_number_of_threads_does_not_matter(tmp_path: Path, make_dataset: MakeDataset, value_task: Task) -> None:
    label = np.random.default_rng(0).integers(0, VALUES + 1, (60, 60, 60))
    task = replace(value_task, patch=(56, 56, 56))
    case = make_case(make_dataset, tmp_path, task, label)
    alone = [draw(case, task, AUGMENTED, seed) for seed in range(4)]
    torch.set_num_threads(2)
    try:
        together = [draw(case, task, AUGMENTED, seed) for seed in range(4)]
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a.image, b.image) for a, b in zip(alone, together, strict=True))


# --- Where nothing is turned -----------------------------------------------------------------------------------------


@settings(max_examples=examples(50))
@given(seed=st.integers(0, 2**32))
def test_without_augmentation_a_patch_is_a_crop(noise_case: PreparedCase, value_task: Task, seed: int) -> None:
    patch = draw(noise_case, value_task, PLAIN, seed)
    windows = np.lib.stride_tricks.sliding_window_view(noise_case.label(), value_task.patch)
    (place,) = np.argwhere((windows == patch.label.numpy()).all(axis=(3, 4, 5)))
    x, y, z = (slice(low, low + side) for low, side in zip(place, value_task.patch, strict=True))
    np.testing.assert_allclose(patch.image.numpy(), noise_case.image()[:, x, y, z], atol=1e-5)


def test_every_place_is_met_the_corners_included(noise_case: PreparedCase, value_task: Task) -> None:
    task = replace(value_task, patch=(19, 20, 20))
    windows = np.lib.stride_tricks.sliding_window_view(noise_case.label(), task.patch)
    met = set()
    for seed in range(120):
        label = draw(noise_case, task, PLAIN, seed).label.numpy()
        met.add(tuple(np.argwhere((windows == label).all(axis=(3, 4, 5)))[0]))
    assert met == set(np.ndindex(2, 2, 3))


@pytest.mark.parametrize("shape", [(3, 4, 5), (8, 2, 3), (1, 9, 10), (8, 9, 1), (1, 1, 2)])
def test_a_small_volume_is_padded_evenly(
    tmp_path: Path, make_dataset: MakeDataset, value_task: Task, shape: tuple[int, int, int]
) -> None:
    """The image goes on with its last voxel, the label is background."""
    label = np.arange(np.prod(shape)).reshape(shape) % VALUES + 1
    patch = draw(make_case(make_dataset, tmp_path, value_task, label), value_task, PLAIN, 0)
    missing = [side - n for n, side in zip(shape, value_task.patch, strict=True)]
    pads = [((m + 1) // 2, m // 2) for m in missing]
    np.testing.assert_array_equal(patch.label, np.pad(label, pads))
    np.testing.assert_allclose(patch.image[0] * VALUES, np.pad(label, pads, mode="edge"), atol=1e-4)


def test_a_single_slice_is_cropped_and_padded(tmp_path: Path, make_dataset: MakeDataset, value_task: Task) -> None:
    label = np.arange(400).reshape(20, 20, 1) % VALUES + 1
    case = make_case(make_dataset, tmp_path, value_task, label)
    for settings_ in (PLAIN, CENTRED):
        patch = draw(case, value_task, settings_, 0)
        assert (patch.label > 0).sum(dim=(0, 1)).tolist() == [0] * 5 + [72] + [0] * 4


# --- Foreground ------------------------------------------------------------------------------------------------------


def test_centred_patches_hit_structures_small_ones_as_often(
    tmp_path: Path, make_dataset: MakeDataset, value_task: Task
) -> None:
    label = np.zeros((40, 40, 40), int)
    label[20:36, 20:36, 20:36], label[2, 3, 4] = 1, 2
    case = make_case(make_dataset, tmp_path, value_task, label)
    centred = [draw(case, value_task, CENTRED, seed).label for seed in range(60)]
    assert all((patch > 0).any() for patch in centred)
    small = sum(bool((patch == 2).any()) for patch in centred)
    assert 15 <= small <= 45, "a structure is drawn first, then one of its voxels"
    elsewhere = [draw(case, value_task, PLAIN, seed).label for seed in range(60)]
    assert sum(bool((patch > 0).any()) for patch in elsewhere) < 50


def test_a_case_without_structures_is_sampled_anywhere(
    tmp_path: Path, make_dataset: MakeDataset, value_task: Task
) -> None:
    label = np.zeros((12, 12, 12), np.int16)
    (files,) = find_cases(
        make_dataset(tmp_path / "data", {"a": (np.random.default_rng(0).normal(size=label.shape), label)})
    )
    patch = draw(prepare_case(files, value_task, tmp_path / "cache"), value_task, CENTRED, 0)
    assert not patch.label.any()


# --- Augmentation ----------------------------------------------------------------------------------------------------


@settings(max_examples=examples(60))
@given(seed=st.integers(0, 2**32))
def test_image_and_label_turn_together(block_case: PreparedCase, value_task: Task, seed: int) -> None:
    """The image is the label's value: where a voxel and its neighbours agree, the image must say the same.

    Intensities are left alone here; only rotation, scaling, mirroring and position are drawn.
    """
    generator = np.random.default_rng(seed)
    task = replace(value_task, flip_axes=(0, 1, 2))
    image, label = block_case.image(), block_case.label()
    size = np.array(label.shape)
    turn = patches._random_turn(task, AUGMENTED, generator)
    centre = patches._random_centre(block_case, size, task, AUGMENTED, generator)
    patch = patches._cut(image, label, turn, centre, task.patch)
    seen, told = patch.image[0].numpy() * VALUES, patch.label.numpy()
    places = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in task.patch), indexing="ij"), axis=-1)
    source = places @ turn.T + centre
    inside = ((source >= 0) & (source <= size - 1)).all(axis=-1)
    # A voxel is safe from interpolation across a face when it lies well inside its block of 6.
    safe = inside & ((source % 6 > 0.01) & (source % 6 < 4.99)).all(axis=-1)
    assert safe.any()
    np.testing.assert_allclose(seen[safe], told[safe], atol=1e-3)
    nearest = np.round(source[safe]).astype(int)
    np.testing.assert_array_equal(told[safe], label[tuple(nearest.T)])
    outside = ((source < -0.51) | (source > size - 0.49)).any(axis=-1)
    assert not told[outside].any()


def test_mirroring_is_exact_and_only_along_the_tasks_axes(
    noise_case: PreparedCase, value_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "SPATIAL_SHARE", 0.0)
    task = replace(value_task, flip_axes=(1,), patch=(20, 21, 22))
    seen = set()
    for seed in range(20):
        label = draw(noise_case, task, AUGMENTED, seed).label.numpy()
        straight = np.array_equal(label, noise_case.label())
        assert straight or np.array_equal(label, noise_case.label()[:, ::-1])
        seen.add(straight)
    assert seen == {True, False}


def test_rotations_and_scales_stay_in_their_range(value_task: Task) -> None:
    for seed in range(200):
        turn = patches._random_turn(replace(value_task, flip_axes=(0, 2)), AUGMENTED, np.random.default_rng(seed))
        scale = np.abs(np.linalg.det(turn)) ** (1 / 3)
        assert np.exp(-0.15) - 1e-9 <= scale <= np.exp(0.15) + 1e-9
        rotation = turn / scale
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)


def test_intensities_vary_for_each_channel_alone_and_labels_never() -> None:
    image = torch.rand(3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    varied = [patches._vary_intensity(image, np.random.default_rng(seed)) for seed in range(20)]
    assert all(torch.isfinite(v).all() and v.shape == image.shape and v.dtype == image.dtype for v in varied)
    changes = torch.stack([(v - image).abs().amax(dim=(1, 2, 3)) for v in varied])
    assert (changes == 0).any(), "some channels are left alone"
    assert (changes > 0).any()


@pytest.mark.parametrize("gamma", [0.7, 1.5])
def test_gamma_keeps_mean_spread_and_order(gamma: float) -> None:
    channel = torch.randn(6, 6, 6, generator=torch.Generator().manual_seed(0)) * 3 + 7
    curved = patches._gamma(channel, gamma)
    assert curved.dtype == torch.float32
    torch.testing.assert_close(curved.mean(), channel.mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(curved.std(), channel.std(), rtol=1e-4, atol=1e-4)
    assert torch.equal(curved.flatten().argsort(), channel.flatten().argsort())
    flat = torch.full((2, 2, 2), 3.0)
    assert torch.equal(patches._gamma(flat, gamma), flat)
