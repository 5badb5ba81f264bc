"""What a simulation leaves in its run folder: `summary.json`, figures, and a README that says what each file is."""

import hashlib
import heapq
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from segformer3d.checkpoint import read_weights
from segformer3d.errors import FederationError
from segformer3d.evaluation import Evaluation
from segformer3d.figures import Bar, RoundPoint, comparison_bars, round_curves
from segformer3d.files import write_atomic, write_json, write_text
from segformer3d.statistics import Summary
from segformer3d.tasks import Task
from server.records import Event, RoundFinished, RunFinished, RunRecord, SitesReady, mean_dice, plain
from server.rounds import LAST_FILE
from simulations.settings import SimulationSettings

History = Sequence[Mapping[str, Any]]


class Journal:
    """Listens to a federation's events, and keeps what the summary needs.

    Args:
        at_once: sites that compute at the same time.
        history: the rounds of an earlier, interrupted session, as JSON values.
    """

    def __init__(self, at_once: int, history: History) -> None:
        self._at_once = at_once
        self.earlier_seconds = math.fsum(record["seconds"] for record in history)
        self.rounds: list[Mapping[str, Any]] = list(history)
        self.result: RunRecord | None = None
        self._own_rounds: list[Mapping[str, Any]] = []
        self._preparing: list[float] = []
        self._began = self._seconds = 0.0

    def begin(self) -> None:
        """The federation starts now."""
        self._began = time.perf_counter()

    def end(self) -> None:
        """The federation is over."""
        self._seconds = time.perf_counter() - self._began

    def note(self, event: Event) -> None:
        """Keep an event."""
        if isinstance(event, SitesReady):
            self._preparing = [site.seconds for site in event.sites]
        elif isinstance(event, RoundFinished):
            self.rounds.append(plain(event.record))
            self._own_rounds.append(self.rounds[-1])
        elif isinstance(event, RunFinished):
            self.result = event.record

    @property
    def final(self) -> RunRecord:
        """The finished run."""
        if self.result is None:
            raise FederationError("the federation ended without a final measurement; go on with --resume")
        return self.result

    @property
    def overhead_share(self) -> float:
        """The share of the federation's time that is not the sites' preparing, training and measuring.

        That is messages, aggregation, process start and checkpoints. The sites' own time is what they would take on
        `at_once` cores with nothing in between, each site whole on one core.
        """
        final = [report.seconds for report in self.final.sites.values()]
        own = [_site_seconds(record) for record in self._own_rounds]
        computing = math.fsum(makespan(self._at_once, seconds) for seconds in (self._preparing, *own, final))
        return max(0.0, 1 - computing / self._seconds)


def makespan(at_once: int, seconds: Sequence[float]) -> float:
    """How long sites take on `at_once` cores, each in turn on the core that is free first."""
    free = [0.0] * at_once
    for site in seconds:
        heapq.heapreplace(free, free[0] + site)
    return max(free)


def _site_seconds(record: Mapping[str, Any]) -> list[float]:
    return [site["training_seconds"] + site["validation_seconds"] for site in record["sites"]]


def write_report(
    folder: Path,
    settings: SimulationSettings,
    task: Task,
    journal: Journal,
    evaluation: Evaluation,
    rivals: Mapping[str, Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """Write figures, README and, last of all, `summary.json`, which is also returned."""
    _copy_overlays(folder)
    round_curves(folder / "curves.png", round_points(journal))
    if rivals:
        comparison_bars(folder / "comparison.png", _bars(evaluation, rivals), "Mean Dice on the held-out cases")
    write_text(folder / "README.md", _README.format(task=task.name, compared=_COMPARED if rivals else ""))
    summary = summarise_run(folder, settings, task, journal, evaluation, rivals, seconds)
    write_json(folder / "summary.json", summary)
    return summary


def summarise_run(
    folder: Path,
    settings: SimulationSettings,
    task: Task,
    journal: Journal,
    evaluation: Evaluation,
    rivals: Mapping[str, Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """The run in one JSON value: scores on held-out cases, time, bytes per site and round, and the model's hash."""
    measured = evaluation.to_json()
    sites = [site for record in journal.rounds for site in record["sites"]]
    return {
        "task": task.name,
        "sites": settings.sites,
        "rounds": settings.rounds,
        "local_epochs": settings.local_epochs,
        "partition": settings.partition,
        "engine": settings.engine,
        "seed": settings.seed,
        "cases": measured["cases"],
        "set_aside": measured["set_aside"],
        "mean_dice": measured["mean_dice"],
        "classes": measured["classes"],
        "validation_dice": plain(journal.final.final)["mean_dice"],
        "seconds": round(seconds, 3),
        "overhead_share": round(journal.overhead_share, 4),
        "bytes_up": _mean([site["bytes_up"] for site in sites]),
        "bytes_down": _mean([site["bytes_down"] for site in sites]),
        "bytes_are": "mean size of one message of one site in one round",
        "weights_sha256": weights_sha256(folder / LAST_FILE),
        "model": LAST_FILE,
        "compared": {
            name: {"mean_dice": metrics["mean_dice"], "classes": metrics["classes"]} for name, metrics in rivals.items()
        },
    }


def weights_sha256(model: Path) -> str:
    """A hash of a model's weights alone: names, shapes, types and values, in the order of the names."""
    weights, _ = read_weights(model)
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def round_points(journal: Journal) -> list[RoundPoint]:
    """Losses and Dice against rounds of training: a round's message measures the model that the round before left."""
    losses = {record["round"]: record for record in journal.rounds}
    measured = {record["measured"]["round"]: record for record in journal.rounds}
    last = journal.final.final
    points = []
    for number in sorted({*losses, *measured, last.round}):
        trained, seen = losses.get(number), measured.get(number)
        dice = {site["site"]: _known(mean_dice(site["dice"])) for site in seen["sites"]} if seen else {}
        overall = seen["measured"]["mean_dice"] if seen else None
        if number == last.round:
            dice = {name: _known(mean_dice(report.dice)) for name, report in journal.final.sites.items()}
            overall = plain(last)["mean_dice"]
        points.append(
            RoundPoint(
                number,
                {site["site"]: site["loss"] for site in trained["sites"]} if trained else {},
                dice,
                math.fsum(site["share"] * site["loss"] for site in trained["sites"]) if trained else None,
                overall,
            )
        )
    return points


def print_comparison(console: Console, summary: Mapping[str, Any], task: Task) -> None:
    """The federation, all data pooled, and each site alone, side by side on the same held-out cases."""
    table = Table(title="Mean Dice on the held-out cases", title_justify="left", box=None, pad_edge=False)
    table.add_column("trained", min_width=12)
    for structure in (*(structure.name for structure in task.structures), "mean"):
        table.add_column(structure, justify="right", min_width=10)
    for name, metrics in (("federated", summary), *summary["compared"].items()):
        dice = [metrics["classes"][structure.name]["dice"]["mean"] for structure in task.structures]
        label = name if name in ("federated", "pooled") else f"{name} alone"
        table.add_row(label, *(f"{value:.4f}" for value in (*dice, metrics["mean_dice"])))
    console.print(table)


def _bars(evaluation: Evaluation, rivals: Mapping[str, Mapping[str, Any]]) -> list[Bar]:
    bars = [Bar("federated", "federated", evaluation.mean_dice)]
    for name, metrics in rivals.items():
        summary = Summary(**metrics["mean_dice_over_cases"])
        bars.append(Bar(name, "pooled", summary) if name == "pooled" else Bar(f"{name} alone", "alone", summary))
    return bars


def _copy_overlays(folder: Path) -> None:
    for overlay in sorted((folder / "evaluation").glob("overlay-*.png")):
        write_atomic(folder / overlay.name, partial(shutil.copyfile, overlay))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(values: Sequence[int]) -> int:
    return round(sum(values) / len(values)) if values else 0


_COMPARED = """| `comparison.png` | mean Dice of the federation, of all data pooled, and of each site alone |
| `compared/` | the models of that comparison, with their own measurements |
"""

_README = """# A federation of {task}

| file | what it is |
| --- | --- |
| `summary.json` | the run in one page: scores on the held-out cases, time, bytes, the final weights' hash |
| `last.safetensors` | the final global model; use it with `segfed predict` and `segfed evaluate` |
| `best.safetensors` | the global model that scored best on the sites' validation cases |
| `curves.png` | training loss and validation Dice of every site, round by round |
| `overlay-best.png`, `overlay-median.png`, `overlay-worst.png` | truth and prediction of three held-out cases |
| `evaluation/` | every held-out case: `cases.csv`, `set_aside.csv`, `metrics.json`, the overlays |
| `rounds.jsonl` | one line a round: each site's loss, Dice, cases, seconds, bytes, and what was set aside |
| `result.json` | the final model measured at every site |
{compared}| `sites/` | the sites' data in the layout that a real site has, and `held-out/`, which no site saw |
| `work/` | each site's working folder: cache of preprocessed cases, optimizer states, its own log |
| `state-*.safetensors` | what `segfed simulate --resume` needs; may be deleted once the run is complete |
| `run.json` | the settings of the run |
| `engine.log` | what Flower and the sites' processes had to say; look here when a site was set aside |

Figures and tables in `evaluation/`, and the overlays, show cases: they belong where the cases belong.
"""
