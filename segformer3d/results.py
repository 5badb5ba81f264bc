"""What an evaluation found, as frozen values: the cases, their summary, strata, calibration and comparison.

`Evaluation` is all that tables and reports are made of; `Evaluation.to_json` is `metrics.json`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from segformer3d.calibration import StructureCalibration
from segformer3d.comparability import PublishedCases, why_not_comparable
from segformer3d.metrics import StructureScore
from segformer3d.protocols import Protocol
from segformer3d.published_scores import PublishedRow
from segformer3d.statistics import MINIMUM_COUNT, Summary

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CaseResult:
    """The scores and volumes of one case, by structure, in the order of the task, and what is known of the case."""

    name: str
    scores: tuple[StructureScore, ...]
    truth_ml: tuple[float, ...]
    predicted_ml: tuple[float, ...]
    facts: Facts = ()

    @property
    def mean_dice(self) -> float:
        """The mean Dice over the structures; NaN where the case's labels do not tell them all."""
        return math.fsum(score.dice for score in self.scores) / len(self.scores)

    @property
    def dice_of_told(self) -> float:
        """The mean Dice over the structures that the case's labels tell; NaN where they tell none."""
        told = [score.dice for score in self.scores if not math.isnan(score.dice)]
        return math.fsum(told) / len(told) if told else math.nan


@dataclass(frozen=True)
class SetAside:
    """A case that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class StructureSummary:
    """One structure over all cases that were used; the lesion-wise scores are None where the protocol has none."""

    name: str
    dice: Summary
    hd95_mm: Summary
    surface_dice: Summary
    lesion_dice: Summary | None = None
    lesion_hd95_mm: Summary | None = None

    def to_json(self) -> dict[str, Any]:
        """The summaries as plain JSON values, by metric."""
        summaries = {json_name: getattr(self, name) for name, json_name in _JSON_NAMES.items()}
        return {name: summary.to_json() for name, summary in summaries.items() if summary is not None}


_JSON_NAMES: Mapping[str, str] = {
    "dice": "dice",
    "hd95_mm": "hd95",
    "surface_dice": "surface_dice",
    "lesion_dice": "lesion_dice",
    "lesion_hd95_mm": "lesion_hd95",
}


@dataclass(frozen=True)
class Stratum:
    """One structure over a group of cases that have something in common.

    Attributes:
        by: what they have in common: the name of a fact ("scanner"), or "size" of the structure.
        group: its value, "small", "medium", "large" or "absent" for a size.
        structure: the structure, or "mean" for each case's mean over the structures (without HD95).
        count: the cases of the group.
        dice, hd95_mm: their scores. Of fewer than `MINIMUM_COUNT` cases only the interval is told, of one nothing.
        volume_ml: the smallest and largest true volume of a group by size.
    """

    by: str
    group: str
    structure: str
    count: int
    dice: Summary
    hd95_mm: Summary | None = None
    volume_ml: tuple[float, float] | None = None

    @property
    def enough(self) -> bool:
        """Whether there are enough cases for a mean."""
        return self.count >= MINIMUM_COUNT

    def to_json(self) -> dict[str, Any]:
        """The stratum as plain JSON values."""
        return {
            "by": self.by,
            "group": self.group,
            "structure": self.structure,
            "count": self.count,
            "enough": self.enough,
            "dice": self.dice.to_json(),
            "hd95": None if self.hd95_mm is None else self.hd95_mm.to_json(),
            "volume_ml": None if self.volume_ml is None else list(self.volume_ml),
        }


@dataclass(frozen=True)
class PairedDifference:
    """One metric of one structure: the model less the other model, case by case.

    Attributes:
        structure: the structure, or "mean" for each case's mean over the structures.
        metric: its name, as in `cases.csv`.
        difference: model less other, over the cases where both are defined.
        wins, losses, ties: cases where the model is better, worse, and alike.
        p_value: of the Wilcoxon signed-rank test (`segformer3d.paired`); None for fewer than `MINIMUM_COUNT` pairs.
        p_holm: the same, corrected for as many structures as there are (Holm); None for "mean".
    """

    structure: str
    metric: str
    difference: Summary
    wins: int
    losses: int
    ties: int
    p_value: float | None
    p_holm: float | None

    def to_json(self) -> dict[str, Any]:
        """The difference as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """A second model on the same cases.

    Attributes:
        against: the name of the second model.
        cases: its scores, in the order of the first model's.
        structures, mean_dice: their summary.
        differences: first model less second, "mean" first, then each structure's metrics.
        rules: how the test treats ties and zeros.
    """

    against: str
    cases: tuple[CaseResult, ...]
    structures: tuple[StructureSummary, ...]
    mean_dice: Summary
    differences: tuple[PairedDifference, ...]
    rules: str

    def to_json(self) -> dict[str, Any]:
        """The content of `comparison.json`: plain JSON values."""
        return {
            "against": self.against,
            "cases": len(self.cases),
            "mean_dice": self.mean_dice.mean,
            "mean_dice_over_cases": self.mean_dice.to_json(),
            "classes": {structure.name: structure.to_json() for structure in self.structures},
            "differences": [difference.to_json() for difference in self.differences],
            "rules": self.rules,
        }


@dataclass(frozen=True)
class Evaluation:
    """The outcome over all cases.

    Attributes:
        task: the name of the task.
        protocol: how it was measured.
        cases: the cases that were used, in the order given.
        set_aside: those that were not.
        structures: a summary for each structure.
        mean_dice: each case's mean over the structures, summarised over the cases; its mean is the headline number.
        strata: the scores of groups of cases, by each fact that is known of them and by the size of each structure.
        ungrouped: facts of the cases that make too many groups, in words.
        calibration: what predicted probabilities are worth, for each structure; empty where only masks were predicted.
        published: rows of published tables of the task.
        published_cases: how the cases stand to those that its published protocol holds out, if it has one.
        weights_sha256: of the model, see `segformer3d.checkpoint.weights_sha256`; None where only a predictor is known.
        comparison: the second model on the same cases, if there was one.
    """

    task: str
    protocol: Protocol
    cases: tuple[CaseResult, ...]
    set_aside: tuple[SetAside, ...]
    structures: tuple[StructureSummary, ...]
    mean_dice: Summary
    strata: tuple[Stratum, ...] = ()
    ungrouped: tuple[str, ...] = ()
    calibration: tuple[StructureCalibration, ...] = ()
    published: tuple[PublishedRow, ...] = ()
    published_cases: PublishedCases | None = None
    weights_sha256: str | None = None
    comparison: Comparison | None = None

    @property
    def not_comparable(self) -> str:
        """Why the published rows are no measure for this result; empty where they are."""
        return why_not_comparable(self.protocol, self.published_cases)

    def to_json(self) -> dict[str, Any]:
        """The content of `metrics.json`: plain JSON values, null for what is undefined."""
        return {
            "task": self.task,
            "weights_sha256": self.weights_sha256,
            "protocol": self.protocol.to_json(),
            "cases": len(self.cases),
            "set_aside": len(self.set_aside),
            "set_aside_cases": [{"case": case.name, "reason": case.reason} for case in self.set_aside],
            "mean_dice": self.mean_dice.mean,
            "mean_dice_over_cases": self.mean_dice.to_json(),
            "classes": {structure.name: structure.to_json() for structure in self.structures},
            "overlays": {rank: case.name for rank, case in ranked(self.cases).items()},
            "rules": self.protocol.rules,
            "strata": [stratum.to_json() for stratum in self.strata],
            "ungrouped": list(self.ungrouped),
            "calibration": {structure.name: structure.to_json() for structure in self.calibration},
            "published": [row.to_json() for row in self.published],
            "published_cases": None if self.published_cases is None else self.published_cases.to_json(),
            "comparable_with_published": bool(self.published) and not self.not_comparable,
            "not_comparable_because": (self.not_comparable or None) if self.published else None,
            "comparison": None if self.comparison is None else self.comparison.to_json(),
        }


def by_dice(cases: Sequence[CaseResult]) -> list[CaseResult]:
    """The worst case first, by mean Dice and name; last those that have none, whose labels do not tell a structure."""
    return sorted(cases, key=lambda case: (math.isnan(case.mean_dice), case.mean_dice, case.name))


def ranked(cases: Sequence[CaseResult]) -> dict[str, CaseResult]:
    """The best, median and worst case by mean Dice; of two alike, the first by name ranks lower.

    "worst-2" and "worst-3" are the next ones, as far as they are not the best.
    """
    order = [case for case in by_dice(cases) if not math.isnan(case.mean_dice)] or by_dice(cases)
    next_ones = {f"worst-{number}": case for number, case in enumerate(order[1:-1][:2], start=2)}
    return {
        "best": order[-1],
        "median": order[(len(order) - 1) // 2],
        **dict(reversed(next_ones.items())),
        "worst": order[0],
    }


def spoken_rank(rank: str) -> str:
    """A name of `ranked` in words."""
    return {"worst-2": "second worst", "worst-3": "third worst"}.get(rank, rank)
