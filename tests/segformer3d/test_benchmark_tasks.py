"""The built-in benchmarks: regions by their label values, grids that fit the model's strides, a step on every patch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from segformer3d.inference import masks_to_label
from segformer3d.model import build
from segformer3d.tasks import TASKS, get_task

BRATS = ("brats2017", "brats2021", "brats2023")
# Label values of each generation, from the challenge's description.
MEANING = {
    "brats2017": {"edema": 1, "core": 2, "enhancing": 3},
    "brats2021": {"edema": 2, "core": 1, "enhancing": 4},
    "brats2023": {"edema": 2, "core": 1, "enhancing": 3},
}


@pytest.mark.parametrize("name", BRATS)
def test_regions_nest_and_come_back_as_label_values(name: str) -> None:
    task, meaning = get_task(name), MEANING[name]
    label = np.array([0, meaning["edema"], meaning["core"], meaning["enhancing"]], np.int16)[None, None]
    whole, core, enhancing = task.structure_masks(label)[:, 0, 0]
    assert whole.tolist() == [False, True, True, True]
    assert core.tolist() == [False, False, True, True]
    assert enhancing.tolist() == [False, False, False, True]
    np.testing.assert_array_equal(masks_to_label(task.structure_masks(label), task), label)
    assert sorted(meaning.values()) == [value for value in task.label_values if value]


def test_brats_tasks_differ_in_labels_alone() -> None:
    """Weights move from one to the other: contrasts, regions and grid are the same."""
    first = get_task("brats2017")
    for name in BRATS[1:]:
        other = get_task(name)
        changed = {field: getattr(first, field) for field in ("name", "modalities", "structures", "label_values")}
        assert replace(other, **changed) == first
        assert [s.name for s in other.structures] == [s.name for s in first.structures]


def test_eight_organs_of_thirteen_labels() -> None:
    """The order and the label values of the published tables."""
    task = get_task("synapse")
    assert {s.name: s.labels for s in task.structures} == {
        "aorta": (8,),
        "gallbladder": (4,),
        "left kidney": (3,),
        "right kidney": (2,),
        "liver": (6,),
        "pancreas": (11,),
        "spleen": (1,),
        "stomach": (7,),
    }
    assert task.label_values == tuple(range(14))
    assert 0 not in task.flip_axes, "a mirrored abdomen has its left kidney on the right"


def test_the_thin_axis_of_the_heart_is_the_last() -> None:
    task = get_task("acdc")
    assert task.spacing is not None
    assert task.spacing.index(max(task.spacing)) == 2
    assert task.patch.index(min(task.patch)) == 2
    first = task.model.patch_stride[0]
    tokens = [mm * stride for mm, stride in zip(task.spacing, first, strict=True)]
    assert max(tokens) / min(tokens) < 1.1, "tokens are as long as they are wide"
    assert [s.labels for s in task.structures] == [(1,), (2,), (3,)]


@pytest.mark.parametrize(
    ("name", "spacing", "patch", "intensity", "window"),
    [
        ("brats2017", (1.0, 1.0, 1.0), (128, 128, 128), "zscore_nonzero", None),
        ("brats2021", (1.0, 1.0, 1.0), (128, 128, 128), "zscore_nonzero", None),
        ("brats2023", (1.0, 1.0, 1.0), (128, 128, 128), "zscore_nonzero", None),
        ("synapse", (0.76, 0.76, 3.0), (128, 128, 64), "window", (-125.0, 275.0)),
        ("acdc", (1.52, 1.52, 6.35), (160, 160, 16), "zscore", None),
        ("hippocampus", None, (36, 48, 36), "zscore", None),
        ("phantom", None, (48, 48, 48), "zscore_nonzero", None),
    ],
)
def test_preprocessing_is_what_the_protocols_say(
    name: str,
    spacing: tuple[float, ...] | None,
    patch: tuple[int, ...],
    intensity: str,
    window: tuple[float, float] | None,
) -> None:
    """Changing one of these makes results of earlier models incomparable: it takes a new task."""
    task = get_task(name)
    assert (task.spacing, task.patch, task.intensity, task.window) == (spacing, patch, intensity, window)


def test_every_built_in_task_is_pinned() -> None:
    pinned = {"brats2017", "brats2021", "brats2023", "synapse", "acdc", "hippocampus", "phantom"}
    assert set(TASKS) == pinned


@pytest.mark.parametrize("name", [*BRATS, "synapse", "acdc"])
def test_patches_are_divided_by_all_strides_and_reductions(name: str) -> None:
    """No stage pads its grid, and none meets a reduction that does not fit."""
    task = get_task(name)
    size = np.array(task.patch)
    for stride, reduction in zip(task.model.patch_stride, task.model.sr_ratios, strict=True):
        assert not (size % stride).any()
        size = size // stride
        assert not (size % reduction).any()


@pytest.mark.parametrize("name", ["brats2021", "synapse", "acdc"])
def test_a_step_on_a_whole_patch(name: str) -> None:
    """Forward and backward at a quarter of the width: logits on the patch's grid, a gradient for every weight."""
    task = get_task(name)
    narrow = replace(task.model, embed_dims=(8, 16, 40, 64), decoder_head_embedding_dim=64)
    torch.manual_seed(0)
    model = build(narrow, task.output_bias)
    logits = model(torch.randn(1, len(task.modalities), *task.patch))
    assert logits.shape == (1, task.channels, *task.patch)
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", ["synapse", "acdc"])
def test_the_whole_model_on_a_whole_patch(name: str) -> None:
    """At full width; the prior is what the first logits say."""
    task = get_task(name)
    torch.manual_seed(0)
    model = build(task.model, task.output_bias).eval()
    with torch.inference_mode():
        shares = model(torch.randn(1, 1, *task.patch)).softmax(dim=1).mean(dim=(0, 2, 3, 4))
    np.testing.assert_allclose(shares[1:], task.prior, rtol=0.5)
    assert 4.4e6 < sum(p.numel() for p in model.parameters()) < 4.6e6
