"""Losses and targets against values worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch import Tensor

from segformer3d.losses import make_loss, soft_dice_loss, targets
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task, get_task

DICE, BOTH = TrainingSettings(loss="dice"), TrainingSettings(loss="dice_ce")


@pytest.fixture
def sigmoid_task(tiny_task: Task) -> Task:
    return replace(tiny_task, activation="sigmoid", model=replace(tiny_task.model, num_classes=2))


def voxels(*rows: tuple[float, ...]) -> Tensor:
    """One row of numbers per voxel as (1, K, X, 1, 1)."""
    return torch.tensor(rows).T[None, :, :, None, None]


# --- Targets ---------------------------------------------------------------------------------------------------------


def test_softmax_targets_have_the_background_first(tiny_task: Task) -> None:
    label = torch.tensor([0, 1, 2, 1]).view(2, 2, 1, 1)
    expected = torch.tensor([[[1, 0], [0, 1], [0, 0]], [[0, 0], [0, 1], [1, 0]]]).view(2, 3, 2, 1, 1)
    assert torch.equal(targets(label, tiny_task), expected.float())


def test_a_legal_value_of_no_structure_is_background(tiny_task: Task) -> None:
    task = replace(tiny_task, label_values=(0, 1, 2, 3))
    assert targets(torch.tensor([3]).view(1, 1, 1, 1), task).flatten().tolist() == [1, 0, 0]


def test_regions_may_overlap() -> None:
    label = torch.tensor([0, 1, 2, 3], dtype=torch.int16).view(1, 4, 1, 1)
    expected = {
        "brats2017": [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]],
        "phantom": [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]],
    }
    for name, masks in expected.items():
        target = targets(label, get_task(name))
        assert target.dtype == torch.float32
        assert target.view(3, 4).tolist() == masks
        np.testing.assert_array_equal(target[0].numpy(), get_task(name).structure_masks(label[0].numpy()))


# --- Values ----------------------------------------------------------------------------------------------------------


def test_softmax_losses_of_two_voxels(tiny_task: Task) -> None:
    """P = (1/2, 1/4, 1/4) and (1/4, 1/2, 1/4), truth background and structure 1.

    Dice of structure 1: 2 · 1/2 / (3/4 + 1) = 4/7; of structure 2, which is absent: 0. Cross-entropy: log 2.
    """
    logits = voxels((0.5, 0.25, 0.25), (0.25, 0.5, 0.25)).log()
    target = targets(torch.tensor([0, 1]).view(1, 2, 1, 1), tiny_task)
    dice = ((1 - 4 / 7) + 1) / 2
    assert make_loss(tiny_task, DICE)(logits, target).item() == pytest.approx(dice, abs=5e-5)
    assert make_loss(tiny_task, BOTH)(logits, target).item() == pytest.approx(dice + math.log(2), abs=5e-5)


def test_sigmoid_losses_of_two_voxels(sigmoid_task: Task) -> None:
    """P = (3/4, 1/4) and (1/2, 1/4), truth structure 1 and structure 2.

    Dice: 2 · 3/4 / (5/4 + 1) = 2/3 and 2 · 1/4 / (1/2 + 1) = 1/3. Cross-entropy: the mean -log of 3/4, 3/4, 1/2, 1/4.
    """
    logits = voxels((0.75, 0.25), (0.5, 0.25)).logit()
    target = targets(torch.tensor([1, 2]).view(1, 2, 1, 1), sigmoid_task)
    dice = (1 / 3 + 2 / 3) / 2
    entropy = -(2 * math.log(3 / 4) + math.log(1 / 2) + math.log(1 / 4)) / 4
    assert make_loss(sigmoid_task, DICE)(logits, target).item() == pytest.approx(dice, abs=5e-5)
    assert make_loss(sigmoid_task, BOTH)(logits, target).item() == pytest.approx(dice + entropy, abs=5e-5)


def test_dice_pools_the_batch(tiny_task: Task) -> None:
    """A volume without a structure does not cost a whole point: both volumes count as one."""
    logits = voxels((0.5, 0.25, 0.25), (0.25, 0.5, 0.25)).log()
    target = targets(torch.tensor([0, 1]).view(1, 2, 1, 1), tiny_task)
    together = make_loss(tiny_task, DICE)(logits, target)
    apart = make_loss(tiny_task, DICE)(logits[0].movedim(1, 0)[..., None], target[0].movedim(1, 0)[..., None])
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("settings", [DICE, BOTH], ids=["dice", "dice_ce"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_perfect_prediction_costs_nothing_and_the_opposite_costs_more_than_a_guess(
    tiny_task: Task, sigmoid_task: Task, settings: TrainingSettings, activation: str
) -> None:
    task = tiny_task if activation == "softmax" else sigmoid_task
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (2, 4, 5, 6)))
    target, loss = targets(label, task), make_loss(task, settings)
    perfect, guess, opposite = (loss(scale * (target - 0.5), target).item() for scale in (60.0, 0.0, -60.0))
    assert perfect == pytest.approx(0, abs=1e-4)
    assert perfect < guess < opposite


def test_gradients_lead_downhill(tiny_task: Task) -> None:
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (1, 4, 4, 4)))
    target, loss = targets(label, tiny_task), make_loss(tiny_task, BOTH)
    logits = torch.zeros(1, 3, 4, 4, 4, requires_grad=True)
    before = loss(logits, target)
    (gradient,) = torch.autograd.grad(before, logits)
    assert loss(logits - gradient, target).item() < before.item()


def test_soft_dice_is_that_of_monai() -> None:
    """Its value and its gradient, with a structure that no voxel of the batch has."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, generator=generator)
    target = (torch.rand(2, 3, 4, 5, 6, generator=generator) > 0.7).double()
    target[:, 1] = 0
    found = []
    for loss in (soft_dice_loss, DiceLoss(batch=True)):
        leaf = logits.clone().requires_grad_(True)
        value = loss(leaf.sigmoid(), target)
        value.backward()
        found.append((value, leaf.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)
