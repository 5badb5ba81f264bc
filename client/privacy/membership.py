"""Membership inference: can one tell from a model whose cases it was trained on?

Two attacks on a model that is about to be released, both by its loss on a patient's whole cases:

- **Threshold** (Yeom, Giacomelli, Fredrikson, Jha, CSF 2018): a low loss says "was trained on".
- **Likelihood ratio** ("LiRA", Carlini et al., "Membership inference attacks from first principles", S&P 2022): shadow
  models, each trained on a random half of the patients, show what the loss on this very patient is with and without him
  or her. Costs as many trainings as there are shadow models.

The attacks are scored by AUC (the chance that a trained-on patient looks more so than another; 1/2 is guessing) and by
the share of trained-on patients that are found while at most one in a hundred others is wrongly accused. With fewer
than 100 others, that is none of them, and the true rate of false accusations may be larger: `fpr_high` says how much.
An attack that fails proves nothing about better ones; differences between cohorts, such as scanners, can look like
membership.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segformer3d.errors import DataError
from segformer3d.model import SegFormer3D
from segformer3d.patients import Patient
from segformer3d.tasks import Task
from segformer3d.training import validate

FPR = 0.01
SHADOWS = 8
_CONFIDENCE = 0.95
_LEAST_DEVIATION = 1e-6  # of logits: Gaussians of shadow models that all agree

Floats = NDArray[np.float64]
Halves = NDArray[np.bool_]
# A model trained on these patients, the number of the shadow model being the seed.
Train = Callable[[Sequence[Patient], int], SegFormer3D]


@dataclass(frozen=True)
class MembershipResult:
    """How well an attack told members from others. Intervals are of 95 %.

    Attributes:
        auc, auc_low, auc_high: area under the ROC curve, in [0, 1].
        tpr, tpr_low, tpr_high: share of the members that are found at a false positive rate of at most 1 %.
        fpr_high: the largest false positive rate that goes with the others seen.
        members, others: how many patients.
    """

    auc: float
    auc_low: float
    auc_high: float
    tpr: float
    tpr_low: float
    tpr_high: float
    fpr_high: float
    members: int
    others: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def patient_losses(model: SegFormer3D, patients: Sequence[Patient], task: Task, device: torch.device) -> Floats:
    """Dice loss plus cross-entropy of each patient, the mean over his or her whole cases: (patients,)."""
    return np.array([validate(model, patient.cases, task, device=device).loss for patient in patients])


def membership_test(
    losses_members: Sequence[float] | Floats, losses_others: Sequence[float] | Floats
) -> MembershipResult:
    """The threshold attack.

    Args:
        losses_members: of patients that the model was trained on.
        losses_others: of patients that it never saw.

    Raises:
        DataError: one of the groups is empty, or a loss is not finite.
    """
    return score_attack(-np.asarray(losses_members, np.float64), -np.asarray(losses_others, np.float64))


def score_attack(members: Floats, others: Floats) -> MembershipResult:
    """Judge an attack by its scores, the higher the more like a member.

    Raises:
        DataError: one of the groups is empty, or a score is not finite.
    """
    if not len(members) or not len(others):
        raise DataError(
            f"a membership test needs patients of both kinds, got {len(members)} that were trained on and "
            f"{len(others)} others; hold some out"
        )
    if not (np.isfinite(members).all() and np.isfinite(others).all()):
        raise DataError("the model's loss on a case is not a finite number, so the model is of no use; train it anew")
    area = auc(members, others)
    allowed = math.floor(FPR * len(others))
    found = int((members > np.sort(others)[::-1][allowed]).sum())
    accused = int((others > np.sort(others)[::-1][allowed]).sum())
    low, high = clopper_pearson(found, len(members))
    return MembershipResult(
        area,
        *_auc_interval(area, min(len(members), len(others))),
        found / len(members),
        low,
        high,
        clopper_pearson(accused, len(others))[1],
        len(members),
        len(others),
    )


def auc(members: Floats, others: Floats) -> float:
    """The chance that a member scores above another, ties counting one half (Mann and Whitney)."""
    ranked = np.sort(others)
    below, upto = np.searchsorted(ranked, members, "left"), np.searchsorted(ranked, members, "right")
    return float((below + upto).mean() / 2 / len(others))


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """The exact 95 % interval of a probability (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    tail = (1 - _CONFIDENCE) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def _auc_interval(area: float, smaller: int) -> tuple[float, float]:
    """Wilson's 95 % interval, as of a share among the smaller group.

    An AUC varies no more than such a share (Birnbaum and Klose 1957), whatever the scores are distributed like.
    """
    from scipy.stats import norm

    z2 = float(norm.ppf((1 + _CONFIDENCE) / 2)) ** 2
    centre = (area + z2 / 2 / smaller) / (1 + z2 / smaller)
    reach = math.sqrt(z2 * (area * (1 - area) / smaller + z2 / 4 / smaller**2)) / (1 + z2 / smaller)
    return max(0.0, centre - reach), min(1.0, centre + reach)


# ---- Shadow models ----


def shadow_test(
    target: SegFormer3D,
    members: Sequence[Patient],
    others: Sequence[Patient],
    task: Task,
    train: Train,
    *,
    device: torch.device,
    shadows: int = SHADOWS,
    seed: int = 0,
    on_shadow: Callable[[int, int], None] = lambda done, total: None,
) -> MembershipResult:
    """The likelihood-ratio attack, with shadow models made for it.

    Args:
        target: the model that is about to be released.
        members: patients that it was trained on.
        others: patients that it never saw.
        task: what is segmented in what.
        train: trains as the target was trained, as far as an attacker can know.
        device: where losses are computed.
        shadows: how many models; an even number of 4 or more.
        seed: of the halves.
        on_shadow: told after every model how many of how many are done.

    Raises:
        DataError: one of the groups is empty, or a loss is not finite.
    """
    everyone = [*members, *others]
    inside = halves(len(everyone), shadows, seed)
    losses = []
    for number, chosen in enumerate(inside):
        shadow = train([patient for patient, is_in in zip(everyone, chosen, strict=True) if is_in], number)
        losses.append(patient_losses(shadow, everyone, task, device))
        on_shadow(number + 1, shadows)
    scores = likelihood_ratios(patient_losses(target, everyone, task, device), np.array(losses), inside)
    return score_attack(scores[: len(members)], scores[len(members) :])


def halves(patients: int, shadows: int, seed: int) -> Halves:
    """Who is in the training set of which shadow model: (shadows, patients).

    The second model of each pair gets the half that the first did not, so that everyone is in half of all models.

    Raises:
        DataError: too few patients to halve, or no even number of at least 4 models.
    """
    if patients < 2 or shadows < 4 or shadows % 2:
        raise DataError(f"shadow models need 2 patients and an even number of 4 models, got {patients} and {shadows}")
    generator = np.random.default_rng(seed)
    inside = np.zeros((shadows, patients), np.bool_)
    for first in range(0, shadows, 2):
        inside[first, generator.permutation(patients)[: patients // 2]] = True
        inside[first + 1] = ~inside[first]
    return inside


def likelihood_ratios(target: Floats, shadows: Floats, inside: Halves) -> Floats:
    """The logarithm of how much likelier a patient's loss is with than without him or her in training.

    The loss, as the probability exp(-loss), is scaled to a logit, which is nearly normal. Each patient has means of his
    or her own, with and without; the two variances are shared by all patients, as is best for few shadow models.

    Args:
        target: losses of the attacked model, (patients,).
        shadows: losses of the shadow models, (shadows, patients).
        inside: who each was trained on, (shadows, patients): everyone in some and not in others.

    Returns:
        (patients,)
    """
    from scipy.stats import norm

    logits = loss_logit(shadows)
    with_mean, with_deviation = _gaussians(logits, inside)
    without_mean, without_deviation = _gaussians(logits, ~inside)
    seen = loss_logit(target)
    ratio = norm.logpdf(seen, with_mean, with_deviation) - norm.logpdf(seen, without_mean, without_deviation)
    return np.asarray(ratio, np.float64)


def loss_logit(loss: Floats) -> Floats:
    """ln(p / (1 - p)) of p = exp(-loss), for losses > 0."""
    return np.asarray(-np.log(np.expm1(np.clip(loss, 1e-12, 700.0))), np.float64)


def _gaussians(logits: Floats, chosen: Halves) -> tuple[Floats, float]:
    """Each patient's mean over the chosen models, and the deviation from it over all patients."""
    counts = chosen.sum(axis=0)
    mean = np.where(chosen, logits, 0.0).sum(axis=0) / counts
    squares = np.where(chosen, (logits - mean) ** 2, 0.0).sum()
    deviation = math.sqrt(float(squares) / max(1, int((counts - 1).sum())))
    return mean, max(deviation, _LEAST_DEVIATION)
