"""Whole-volume inference: oracles that know the answer go in, and it must come out on the volume's own grid."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from segformer3d.cases import CaseFiles
from segformer3d.errors import ConfigurationError
from segformer3d.inference import (
    _foreground_box,
    choose_device,
    decide,
    inference_dtype,
    masks_to_label,
    predict_masks,
    predict_probabilities,
)
from segformer3d.model import build
from segformer3d.tasks import Task, get_task
from segformer3d.volumes import Volume, read_case
from tests.conftest import WriteNifti

CPU = torch.device("cpu")


class Oracle(nn.Module):
    """Reads the class of each voxel off its intensity, 0 to 1 in equal steps, and is sure of it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x_B1XYZ: Tensor) -> Tensor:
        """Logits that interpolate between the two nearest classes."""
        levels = torch.arange(self.classes).view(1, -1, 1, 1, 1)
        return -40 * (x_B1XYZ * (self.classes - 1) - levels).abs()


class Constant(nn.Module):
    """Says the same everywhere."""

    def __init__(self, logits: tuple[float, ...]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x_BCXYZ: Tensor) -> Tensor:
        """The same logits for each voxel."""
        return self.logits.view(1, -1, 1, 1, 1).expand(x_BCXYZ.shape[0], -1, *x_BCXYZ.shape[2:])


@pytest.fixture(scope="session")
def label_task(tiny_task: Task) -> Task:
    """Intensities 0, 1, 2 are the labels."""
    return replace(tiny_task, intensity="window", window=(0.0, 2.0))


def blocks(shape: tuple[int, ...]) -> NDArray[np.int16]:
    """Blocks of 4 voxels a side with a random label each."""
    coarse = np.random.default_rng(0).integers(0, 3, [-(-n // 4) for n in shape])
    whole = np.kron(coarse, np.ones((4, 4, 4)))
    return whole[: shape[0], : shape[1], : shape[2]].astype(np.int16)


def volume_of(label: NDArray[np.int16], spacing: tuple[float, float, float] = (1, 1, 1)) -> Volume:
    affine = np.diag([*spacing, 1.0])
    return Volume(label[None].astype(np.float32), label, affine, affine)


# --- Sliding window --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 12, 12), (30, 17, 12), (5, 40, 3), (1, 1, 1), (13, 11, 25)])
def test_an_oracle_is_heard_in_every_voxel(label_task: Task, shape: tuple[int, int, int]) -> None:
    label = blocks(shape)
    masks = predict_masks(Oracle(3), label_task, volume_of(label), CPU)  # type: ignore[arg-type]
    assert masks.dtype == np.bool_
    np.testing.assert_array_equal(masks, label_task.structure_masks(label))
    np.testing.assert_array_equal(masks_to_label(masks, label_task), label)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_constant_model_gives_its_probabilities_everywhere(tiny_task: Task, mirror: bool) -> None:
    task = replace(tiny_task, flip_axes=(0, 2))
    image = np.zeros((1, 20, 11, 30), np.float32)
    logits = (0.0, 1.0, -2.0)
    probabilities = predict_probabilities(Constant(logits), task, image, CPU, mirror=mirror)  # type: ignore[arg-type]
    expected = torch.tensor(logits).softmax(0).view(3, 1, 1, 1).expand(3, 20, 11, 30)
    torch.testing.assert_close(probabilities, expected, rtol=1e-5, atol=1e-6)


def test_probabilities_are_those_of_the_activation(tiny_task: Task) -> None:
    image = np.random.default_rng(0).normal(size=(1, 14, 15, 16)).astype(np.float32)
    torch.manual_seed(0)
    softmax = predict_probabilities(build(tiny_task.model), tiny_task, image, CPU)
    torch.testing.assert_close(softmax.sum(0), torch.ones(14, 15, 16), rtol=1e-5, atol=1e-5)
    regions = replace(tiny_task, activation="sigmoid", model=replace(tiny_task.model, num_classes=2))
    sigmoid = predict_probabilities(build(regions.model, (9.0, 9.0)), regions, image, CPU)
    assert (sigmoid.sum(0) > 1.5).all(), "regions may overlap"


def test_one_window_is_the_model_itself(tiny_task: Task) -> None:
    torch.manual_seed(0)
    model = build(tiny_task.model).eval()
    image = np.random.default_rng(0).normal(size=(1, *tiny_task.patch)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(image)[None]).softmax(1)[0]
    torch.testing.assert_close(predict_probabilities(model, tiny_task, image, CPU, mirror=False), expected)


def test_prediction_is_in_evaluation_mode_and_repeatable(tiny_task: Task) -> None:
    torch.manual_seed(0)
    model = build(replace(tiny_task.model, decoder_dropout=0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = np.random.default_rng(0).normal(size=(1, 20, 12, 12)).astype(np.float32)
    first, second = (predict_probabilities(model, tiny_task, image, CPU) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not first.requires_grad


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_mirrored_scan_has_the_mirrored_prediction(tiny_task: Task, axis: int) -> None:
    task = replace(tiny_task, flip_axes=(0, 1, 2))
    torch.manual_seed(0)
    model = build(task.model)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    image = np.random.default_rng(0).normal(size=(1, 18, 12, 24)).astype(np.float32)
    mirrored = predict_probabilities(model, task, np.flip(image, axis + 1).copy(), CPU, mirror=True)
    straight = predict_probabilities(model, task, image, CPU, mirror=True)
    torch.testing.assert_close(mirrored.flip(axis + 1), straight, rtol=1e-4, atol=1e-5)
    alone = predict_probabilities(model, task, image, CPU, mirror=False)
    assert (alone - straight).abs().max() > 1e-3, "the average is more than one view"


# --- The volume's own space ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 2.0, 1.0), (1.0, 1.0, 1.0), None])
def test_a_prediction_comes_back_on_the_scans_own_grid(label_task: Task, spacing: Any) -> None:
    """The model's grid is coarser by 2 at most and the blocks fit it, so that nothing is lost on the way."""
    label = blocks((20, 16, 28))
    masks = predict_masks(Oracle(3), replace(label_task, spacing=spacing), volume_of(label), CPU)  # type: ignore[arg-type]
    assert masks.shape == (2, *label.shape)
    agreement = (masks == label_task.structure_masks(label)).mean()
    assert agreement > (0.97 if spacing and max(spacing) > 1 else 0.9999)


def test_a_coarse_scan_is_predicted_on_the_finer_grid_of_the_task(label_task: Task) -> None:
    label = blocks((8, 8, 8))
    task = replace(label_task, spacing=(1.0, 1.0, 1.0))
    masks = predict_masks(Oracle(3), task, volume_of(label, (1, 1, 3)), CPU)  # type: ignore[arg-type]
    np.testing.assert_array_equal(masks, label_task.structure_masks(label))


def test_a_scan_read_from_a_file_is_predicted_in_its_space(
    tmp_path: Path, label_task: Task, write_nifti: WriteNifti
) -> None:
    label = blocks((16, 12, 20))
    path = write_nifti(tmp_path / "scan.nii.gz", label[::-1].copy(), np.diag([-1.0, 1, 1, 1]))
    volume = read_case(CaseFiles("scan", (path,), None), label_task)
    masks = predict_masks(Oracle(3), label_task, volume, CPU)  # type: ignore[arg-type]
    np.testing.assert_array_equal(masks, label_task.structure_masks(label))


# --- Decisions -------------------------------------------------------------------------------------------------------


def test_decisions_by_hand(tiny_task: Task) -> None:
    probabilities = torch.tensor([[0.5, 0.2, 0.3], [0.3, 0.5, 0.3], [0.2, 0.3, 0.4]]).view(3, 3, 1, 1)
    assert decide(probabilities, tiny_task)[:, :, 0, 0].tolist() == [[False, True, False], [False, False, True]]
    regions = get_task("brats2017")
    assert decide(probabilities + 0.05, regions)[:, :, 0, 0].tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, False],
    ]


@pytest.mark.parametrize("name", ["brats2017", "phantom", "hippocampus"])
@given(data=st.data())
def test_labels_survive_masks_and_back(name: str, data: st.DataObject) -> None:
    task = get_task(name)
    label = np.array(data.draw(st.lists(st.sampled_from(task.label_values), min_size=1, max_size=30)), np.int16)
    masks = task.structure_masks(label[:, None, None])
    np.testing.assert_array_equal(masks_to_label(masks, task), label[:, None, None])


def test_the_innermost_region_wins_where_regions_are_not_nested() -> None:
    """An enhancing voxel outside the predicted whole tumour is still called enhancing."""
    masks = np.array([[False, True], [False, True], [True, False]])[:, :, None, None]
    assert masks_to_label(masks, get_task("brats2017")).flatten().tolist() == [3, 2]


# --- Devices ---------------------------------------------------------------------------------------------------------


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "", "meta", "cuda:x", "cuda:-1", "CPU", "mps"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got"):
        choose_device(name)


def test_a_missing_gpu_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="this machine has no GPU 'cuda:77'"):
        choose_device("cuda:77")


# --- The foreground box ----------------------------------------------------------------------------------------------

SIDES = st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(1, 30))


@given(size=SIDES, data=st.data())
def test_the_box_holds_every_voxel_that_shows_something_and_a_whole_window_where_there_is_room(
    tiny_task: Task, size: tuple[int, int, int], data: st.DataObject
) -> None:
    image = np.zeros((1, *size), np.float32)
    places = st.tuples(*(st.integers(0, side - 1) for side in size))
    for x, y, z in data.draw(st.lists(places, min_size=1, max_size=3)):
        image[0, x, y, z] = -1
    box = _foreground_box(image, replace(tiny_task, intensity="zscore_nonzero"))
    assert np.count_nonzero(image[:, *box]) == np.count_nonzero(image)
    for place, side, patch in zip(box, size, tiny_task.patch, strict=True):
        assert 0 <= place.start < place.stop <= side
        assert place.stop - place.start >= min(side, patch)


def test_a_scan_without_known_background_is_looked_at_whole(tiny_task: Task) -> None:
    image = np.zeros((1, 30, 20, 20), np.float32)
    image[0, 14:16, 9:11, 9:11] = 1
    assert _foreground_box(image, tiny_task) == (slice(0, 30), slice(0, 20), slice(0, 20))


def test_outside_the_box_there_is_background_and_inside_what_the_model_says(tiny_task: Task) -> None:
    image = np.zeros((1, 60, 30, 30), np.float32)
    image[0, 25:35, 10:20, 10:20] = 1
    for activation, outside in (("softmax", (1.0, 0.0, 0.0)), ("sigmoid", (0.0, 0.0))):
        softmax = activation == "softmax"
        model = tiny_task.model if softmax else replace(tiny_task.model, num_classes=2)
        task = replace(tiny_task, intensity="zscore_nonzero", activation=activation, model=model)
        constant: Any = Constant((0.0, 5.0, 0.0) if softmax else (0.0, 5.0))
        probabilities = predict_probabilities(constant, task, image, CPU)
        assert probabilities.shape == (task.channels, 60, 30, 30)
        assert probabilities[:, 0, 0, 0].tolist() == list(outside)
        assert probabilities[1, 30, 15, 15] > 0.9


# --- Sixteen bits ----------------------------------------------------------------------------------------------------


def test_sixteen_bits_change_the_logits_by_a_hundredth(tiny_task: Task) -> None:
    torch.manual_seed(0)
    model = build(tiny_task.model).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    image = torch.randn(1, 1, 24, 24, 24)
    with torch.inference_mode():
        exact = model(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(image).float()
    assert ((rounded - exact).norm() / exact.norm()) < 0.03
    assert inference_dtype(torch.device("cuda")) is torch.float16
    assert inference_dtype(CPU) in (torch.float32, torch.bfloat16)
