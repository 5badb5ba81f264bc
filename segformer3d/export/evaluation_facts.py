"""What an evaluation says of a model: `metrics.json` of `segfed evaluate`, without the cases that it names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer3d.errors import ConfigurationError, DataError
from segformer3d.tasks import Task

METRICS_FILE = "metrics.json"
_SUMMARY = ("mean", "standard_deviation", "low", "high", "count", "excluded")

Score = Mapping[str, float | int | None]


@dataclass(frozen=True)
class EvaluationFacts:
    """Mean and 95 % bootstrap interval of every metric over the cases, see `segformer3d.statistics.Summary`.

    Attributes:
        held_out: whether the records say that no site trained on the cases.
        cases, set_aside: used, and not used.
        mean_dice: of each case's mean Dice over the structures.
        structures: by name of the structure, then of the metric; distances are in mm.
        protocol: the name of the way in which it was measured.
        sentence: what that is: which part of a scan, which averaging.
        rules: how the scores were computed.
    """

    held_out: bool
    cases: int
    set_aside: int
    mean_dice: Score
    structures: Mapping[str, Mapping[str, Score]]
    protocol: str
    sentence: str
    rules: str


def read_evaluation(folder: Path, task: Task, sha256: str, held_out: bool) -> EvaluationFacts:
    """Read the folder that `segfed evaluate` wrote.

    Args:
        folder: with `metrics.json`.
        task: of the model.
        sha256: of its weights.
        held_out: see `EvaluationFacts`.

    Raises:
        ConfigurationError: the evaluation is of another model, or of other structures than the task's.
        DataError: there is none, or it is damaged.
    """
    path = folder / METRICS_FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        measured, facts = told["weights_sha256"], _parsed(told, held_out)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; --evaluation takes a folder that segfed evaluate wrote"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged or of another version ({type(error).__name__}: {error})") from error
    expected = {structure.name for structure in task.structures}
    if set(facts.structures) != expected:
        raise ConfigurationError(
            f"{path} measures {', '.join(sorted(facts.structures))}; the model's task has {', '.join(sorted(expected))}"
        )
    if measured != sha256:
        raise ConfigurationError(
            f"{path} measures another model (its weights hash to {str(measured)[:12]}, the model's to {sha256[:12]}); "
            "run segfed evaluate on this model, or leave --evaluation out"
        )
    return facts


def _parsed(values: Mapping[str, Any], held_out: bool) -> EvaluationFacts:
    structures = {
        name: {metric: _score(score) for metric, score in metrics.items()}
        for name, metrics in values["classes"].items()
    }
    overall, counts = _score(values["mean_dice_over_cases"]), (int(values["cases"]), int(values["set_aside"]))
    named = (str(values["protocol"]["name"]), str(values["protocol"]["sentence"]))
    return EvaluationFacts(held_out, *counts, overall, structures, *named, str(values["rules"]))


def _score(values: Mapping[str, Any]) -> Score:
    """The numbers of a summary and nothing else."""
    score = {name: values[name] for name in _SUMMARY}
    if not all(value is None or type(value) in (int, float) for value in score.values()):
        raise TypeError("a score is no number")
    return score
