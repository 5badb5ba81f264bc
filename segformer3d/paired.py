"""Is one model better than another? Paired differences on the same cases, with an interval and a test.

The interval is the bootstrap of the mean difference (`segformer3d.statistics`). The test is Wilcoxon's signed-rank
test, two-sided: pairs without a difference are dropped (Wilcoxon 1945), equal differences share their average rank. Its
p-value is exact for up to 13 pairs (all sign flips) and for up to 50 without equal differences; beyond, it is SciPy's
normal approximation, corrected for ties. Holm's step-down (1979) corrects each metric's p-values for the structures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from segformer3d.protocols import METRICS, Protocol
from segformer3d.results import CaseResult, PairedDifference
from segformer3d.statistics import MINIMUM_COUNT, Values, summarise

MEAN = "mean"
RULES = (
    "Differences are the model less the other, case by case; cases where either is undefined are excluded and counted. "
    "p is Wilcoxon's signed-rank test, two-sided: pairs without a difference are dropped, equal differences share "
    "their average rank; p_holm corrects it for the structures (Holm). "
    f"With fewer than {MINIMUM_COUNT} pairs nothing is tested."
)
_EXACT_PAIRS = 13
_DIGITS = 12  # what floating-point subtraction leaves beyond them must not tell equal differences apart
_SMALLER_IS_BETTER = {"hd95_mm", "lesion_hd95_mm"}


def paired_differences(
    cases: Sequence[CaseResult], others: Sequence[CaseResult], names: Sequence[str], protocol: Protocol, seed: int
) -> tuple[PairedDifference, ...]:
    """Compare two models on the same cases, in the same order: the mean Dice, then every structure's metrics.

    Args:
        cases: the scores of the model.
        others: the scores of the other model.
        names: the structures.
        protocol: which metrics there are.
        seed: of the bootstrap.
    """
    means = (np.array([case.mean_dice for case in side]) for side in (cases, others))
    found = [paired_difference(*means, structure=MEAN, metric=METRICS[0], seed=seed)]
    for metric in protocol.metrics:
        columns = [
            [np.array([getattr(case.scores[index], metric) for case in side], np.float64) for side in (cases, others)]
            for index in range(len(names))
        ]
        of_metric = [
            paired_difference(*sides, structure=name, metric=metric, seed=seed)
            for name, sides in zip(names, columns, strict=True)
        ]
        found.extend(_corrected(of_metric))
    return tuple(found)


def paired_difference(first: Values, second: Values, *, structure: str, metric: str, seed: int) -> PairedDifference:
    """Compare one metric of two models, case by case; NaN is undefined."""
    difference = np.round(first - second, _DIGITS)
    known = difference[~np.isnan(difference)]
    better = -known if metric in _SMALLER_IS_BETTER else known
    return PairedDifference(
        structure,
        metric,
        summarise(difference, seed),
        wins=int(np.count_nonzero(better > 0)),
        losses=int(np.count_nonzero(better < 0)),
        ties=int(np.count_nonzero(better == 0)),
        p_value=signed_rank_p(known),
        p_holm=None,
    )


def signed_rank_p(differences: Values) -> float | None:
    """The two-sided p-value of Wilcoxon's signed-rank test; None for fewer than `MINIMUM_COUNT` differences."""
    from scipy.stats import PermutationMethod, wilcoxon

    if differences.size < MINIMUM_COUNT:
        return None
    apart = differences[differences != 0]
    if apart.size <= 1:  # either sign of a single difference is as unlikely
        return 1.0
    method = PermutationMethod(n_resamples=2**_EXACT_PAIRS) if apart.size <= _EXACT_PAIRS else "auto"
    return float(wilcoxon(apart, method=method).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction: the k-th smallest of m, times m - k + 1, never below the one before and never above 1."""
    corrected, highest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, p_values[name] * (len(p_values) - rank)))
        corrected[name] = highest
    return corrected


def _corrected(differences: Sequence[PairedDifference]) -> list[PairedDifference]:
    corrected = holm({d.structure: d.p_value for d in differences if d.p_value is not None})
    return [replace(d, p_holm=corrected.get(d.structure)) for d in differences]


def spoken_p(p_value: float | None) -> str:
    """A p-value for people: "0.031", "< 0.001", "-" where nothing was tested."""
    if p_value is None or math.isnan(p_value):
        return "-"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
