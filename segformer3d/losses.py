"""Losses of segmentation: soft Dice (Milletari et al. 2016), alone or with cross-entropy.

Labels that do not tell all structures (`segformer3d.lacks`) get the marginal loss: the same loss of fewer channels,
each the sum of those that the label does not tell apart. The logit of a sum is the log sum exp of the logits.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segformer3d.lacks import Groups
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task

Loss = Callable[[Tensor, Tensor], Tensor]
SMOOTH = 1e-5  # what a structure that is neither there nor predicted is judged by


def targets(label_BXYZ: Tensor, task: Task) -> Tensor:
    """Label values (B, X, Y, Z) to one 0/1 channel per output channel of the model (B, K, X, Y, Z), float32."""
    masks = [_any_of(label_BXYZ, structure.labels) for structure in task.structures]
    if task.activation == "softmax":
        masks.insert(0, ~torch.stack(masks).any(dim=0))
    return torch.stack(masks, dim=1).float()


def make_loss(task: Task, settings: TrainingSettings) -> Loss:
    """The scalar loss of logits (B, K, X, Y, Z) against `targets`; Dice leaves the background out, pools the batch."""
    softmax = task.activation == "softmax"

    def dice_alone(logits: Tensor, target: Tensor) -> Tensor:
        if softmax:
            return soft_dice_loss(logits.softmax(dim=1)[:, 1:], target[:, 1:])
        return soft_dice_loss(logits.sigmoid(), target)

    def dice_and_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
        if not softmax:
            return dice_alone(logits, target) + F.binary_cross_entropy_with_logits(logits, target)
        # One softmax for both, and no search for the class that each one-hot target stands for.
        log_probability = logits.log_softmax(dim=1)
        value = soft_dice_loss(log_probability.exp()[:, 1:], target[:, 1:])
        return value - (target * log_probability).sum(dim=1).mean()

    return dice_alone if settings.loss == "dice" else dice_and_cross_entropy


def soft_dice_loss(probability_BKXYZ: Tensor, target_BKXYZ: Tensor) -> Tensor:
    """1 minus soft Dice, of each channel over the whole batch, averaged over channels: MONAI's with `batch=True`.

    MONAI itself takes seconds to load, at every start of a site.
    """
    over = (0, *range(2, probability_BKXYZ.ndim))
    common = (probability_BKXYZ * target_BKXYZ).sum(over)
    both = probability_BKXYZ.sum(over) + target_BKXYZ.sum(over)
    return (1 - (2 * common + SMOOTH) / (both + SMOOTH)).mean()


def known_loss(loss: Loss, known: Sequence[Groups | None]) -> Loss:
    """The loss of a batch whose samples have labels that tell as much as `known` says, None being all.

    Samples that tell the same are put together, and their losses weighted by their numbers.
    """
    kinds = tuple(dict.fromkeys(known))
    if kinds in ((), (None,)):
        return loss

    def value(logits: Tensor, target: Tensor) -> Tensor:
        total = logits.new_zeros(())
        for kind in kinds:
            rows = [row for row, groups in enumerate(known) if groups == kind]
            own = (logits, target) if len(kinds) == 1 else (logits[rows], target[rows])
            if kind is not None:
                own = marginal_logits(own[0], kind), marginal(own[1], kind)
            total = total + loss(*own) * (len(rows) / len(known))
        return total

    return value


def marginal(values_BKXYZ: Tensor, groups: Groups) -> Tensor:
    """Probabilities, or 0/1 targets, of channels that exclude each other in each group: (B, len(groups), X, Y, Z)."""
    return torch.stack([values_BKXYZ[:, list(group)].sum(dim=1) for group in groups], dim=1)


def marginal_logits(logits_BKXYZ: Tensor, groups: Groups) -> Tensor:
    """The logits whose softmax is `marginal` of the softmax; of groups of one channel, those channels."""
    return torch.stack([_joint(logits_BKXYZ, group) for group in groups], dim=1)


def _joint(logits_BKXYZ: Tensor, group: tuple[int, ...]) -> Tensor:
    return logits_BKXYZ[:, group[0]] if len(group) == 1 else logits_BKXYZ[:, list(group)].logsumexp(dim=1)


def _any_of(label: Tensor, values: tuple[int, ...]) -> Tensor:
    return torch.stack([label == value for value in values]).any(dim=0)
