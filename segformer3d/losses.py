"""Losses of segmentation: soft Dice (Milletari et al. 2016), alone or with cross-entropy."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task

Loss = Callable[[Tensor, Tensor], Tensor]


def targets(label_BXYZ: Tensor, task: Task) -> Tensor:
    """Label values (B, X, Y, Z) to one 0/1 channel per output channel of the model (B, K, X, Y, Z), float32."""
    masks = [_any_of(label_BXYZ, structure.labels) for structure in task.structures]
    if task.activation == "softmax":
        masks.insert(0, ~torch.stack(masks).any(dim=0))
    return torch.stack(masks, dim=1).float()


def make_loss(task: Task, settings: TrainingSettings) -> Loss:
    """The scalar loss of logits (B, K, X, Y, Z) against `targets`; Dice leaves the background out, pools the batch."""
    from monai.losses import DiceLoss  # two seconds to import: only where it is used

    softmax = task.activation == "softmax"
    dice = DiceLoss(include_background=not softmax, batch=True)

    def dice_alone(logits: Tensor, target: Tensor) -> Tensor:
        value: Tensor = dice(logits.softmax(dim=1) if softmax else logits.sigmoid(), target)
        return value

    def dice_and_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
        if not softmax:
            return dice_alone(logits, target) + F.binary_cross_entropy_with_logits(logits, target)
        # One softmax for both, and no search for the class that each one-hot target stands for.
        log_probability = logits.log_softmax(dim=1)
        value: Tensor = dice(log_probability.exp(), target)
        return value - (target * log_probability).sum(dim=1).mean()

    return dice_alone if settings.loss == "dice" else dice_and_cross_entropy


def _any_of(label: Tensor, values: tuple[int, ...]) -> Tensor:
    return torch.stack([label == value for value in values]).any(dim=0)
