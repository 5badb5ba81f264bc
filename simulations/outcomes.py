"""What came of a run or of pooled training, from what they have left on disk. A hostile site has no say in it."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer3d.errors import DataError
from segformer3d.files import write_json
from segformer3d.training_reports import ValidationReport
from server.records import ROUNDS_FILE, mean_dice, score
from simulations.run_folder import Run, read_run
from simulations.run_rivals import personal_dice, pooled_of

POOLED = "pooled"
PERSONAL_FILE = "personal.json"
CurvePoint = tuple[int, int, float | None]


@dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Attributes:
        label: of the combination, the same for all seeds; "pooled" for pooled training.
        seed: of the run.
        dice: mean Dice on the held-out cases.
        worst: mean Dice of the honest site that is served worst, on the cases that it keeps from training, by the model
            that it would use: the global one (with the site's own norms under FedBN), or its personal one; None where
            no site could measure any.
        seconds: of the run; None for pooled training.
        curve: after each round, the bytes that all sites have sent and received so far, and the mean validation Dice of
            the honest ones.
        kept: how many cases each honest site keeps from training, in no order: what `worst` rests on.
    """

    label: str
    seed: int
    dice: float
    worst: float | None
    seconds: float | None
    curve: tuple[CurvePoint, ...] = ()
    kept: tuple[int, ...] = ()


def outcome_of(place: Path, label: str, seed: int) -> Outcome:
    """What came of a finished run, from its folder. Personal models are measured the first time.

    Raises:
        SegfedError: the folder is no run folder, or a personal model or its site's data is not as it must be.
    """
    run = read_run(place)
    summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
    rounds = [json.loads(line) for line in (place / ROUNDS_FILE).read_text(encoding="utf-8").splitlines()]
    if not all("bytes_up" in record for record in rounds):
        raise DataError(f"{place} was played by an earlier version of segfed; begin the study anew in another folder")
    final = json.loads((place / "result.json").read_text(encoding="utf-8"))["sites"]
    at_sites = _personal(run) if run.settings.strategy.rule.personal else _measured(run, final)
    kept = tuple(told["cases"] for name, told in final.items() if name not in run.settings.hostile_sites)
    curve = tuple(_curve(run, rounds, final))
    return Outcome(label, seed, summary["mean_dice"], _least(at_sites), summary["seconds"], curve, kept)


def pooled_outcome(place: Path, seed: int, out: Path, threads: int) -> Outcome:
    """What comes of all honest data in one place, with the budget and the sites of a run; trained the first time.

    Args:
        place: folder of a finished run.
        seed: its seed.
        out: where the model and its scores belong.
        threads: to train with.

    Raises:
        SegfedError: data or disk are not as they must be.
    """
    result = out / "outcome.json"
    if not result.is_file():
        held_out, sites = pooled_of(read_run(place), out, threads)
        write_json(result, {"dice": held_out["mean_dice"], "worst": _least(sites)})
    told = json.loads(result.read_text(encoding="utf-8"))
    return Outcome(POOLED, seed, told["dice"], told["worst"], None)


def _personal(run: Run) -> Mapping[str, float]:
    path = run.folder / PERSONAL_FILE
    if not path.is_file():
        write_json(path, personal_dice(run))
    found: Mapping[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _measured(run: Run, final: Mapping[str, Any]) -> Mapping[str, float]:
    """What the honest sites have measured of the final model."""
    scores = {name: mean_dice(report["dice"]) for name, report in final.items() if report["cases"]}
    hostile = run.settings.hostile_sites
    return {name: dice for name, dice in scores.items() if name not in hostile and not math.isnan(dice)}


def _least(scores: Mapping[str, float]) -> float | None:
    return min(scores.values(), default=None)


def _curve(run: Run, rounds: Sequence[Mapping[str, Any]], final: Mapping[str, Any]) -> Iterator[CurvePoint]:
    """A round's message measures the model that the round before has left."""
    measured = [{site["site"]: (site["dice"], site["validation_cases"]) for site in r["sites"]} for r in rounds[1:]]
    measured.append({name: (report["dice"], report["cases"]) for name, report in final.items()})
    up = down = 0
    for record, reports in zip(rounds, measured, strict=True):
        up, down = up + record["bytes_up"], down + record["bytes_down"]
        yield up, down, _together(run, reports)


def _together(run: Run, reports: Mapping[str, tuple[Sequence[float | None], int]]) -> float | None:
    """The honest sites' mean Dice, put together as the server puts all sites' together; None where there is none."""
    honest = {
        name: ValidationReport(tuple(math.nan if value is None else value for value in dice), math.nan, cases, 0.0)
        for name, (dice, cases) in reports.items()
        if name not in run.settings.hostile_sites
    }
    found = score(0, honest, len(run.task.structures)).mean_dice
    return None if math.isnan(found) else found
