"""What a simulation leaves in its run folder: `summary.json`, figures, and a README that says what each file is."""

import heapq
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from client.privacy.promise import Promise
from segformer3d.checkpoint import read_weights, weights_sha256
from segformer3d.errors import FederationError
from segformer3d.files import write_atomic, write_json, write_text
from segformer3d.report.charts import RoundPoint, comparison_bars, round_curves
from segformer3d.results import Evaluation
from segformer3d.tasks import Task
from server.federation import norms_kept
from server.records import Event, RoundFinished, RunFinished, RunRecord, SitesReady, mean_dice, plain
from server.rounds import LAST_FILE
from simulations.comparison import NOT_MEASURED, Compared, at_the_sites, comparison_of
from simulations.run_folder import START_FILE
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
        self.promises: Mapping[str, Promise] = {}
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
            self.promises = {site.site: site.promise for site in event.sites if site.promise is not None}
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
    def overhead_share(self) -> float | None:
        """The share of the federation's time that is not the sites' preparing, training and measuring.

        None in a private run, whose sites do not tell how long they took.

        That is messages, aggregation, process start and checkpoints. The sites' own time is what they would take on
        `at_once` cores with nothing in between, each site whole on one core.
        """
        if self.promises:
            return None
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


def write_summary(
    folder: Path,
    settings: SimulationSettings,
    task: Task,
    journal: Journal,
    evaluation: Evaluation,
    compared: Compared | None,
    seconds: float,
) -> dict[str, Any]:
    """Write figures, README and, last of all, `summary.json`, which is also returned."""
    _copy_overlays(folder)
    if not journal.promises:
        round_curves(folder / "curves.png", round_points(journal))
    if compared is not None:
        bars = comparison_of(evaluation, compared)
        comparison_bars(folder / "comparison.png", bars, "Mean Dice on the held-out cases")
    summary = summarise_run(folder, settings, task, journal, evaluation, compared, seconds)
    write_text(folder / "README.md", readme(task, summary))
    write_json(folder / "summary.json", summary)
    return summary


def summarise_run(
    folder: Path,
    settings: SimulationSettings,
    task: Task,
    journal: Journal,
    evaluation: Evaluation,
    compared: Compared | None,
    seconds: float,
) -> dict[str, Any]:
    """The run in one JSON value: scores on held-out cases, time, bytes per site and round, and the model's hash."""
    measured = evaluation.to_json()
    rivals = {} if compared is None else compared.held_out
    sites = [site for record in journal.rounds for site in record["sites"]]
    return {
        "task": task.name,
        "sites": settings.sites,
        "rounds": settings.rounds,
        "local_epochs": settings.local_epochs,
        "partition": settings.dealt,
        "scenario": settings.scenario,
        "hostile": list(settings.hostile_sites),
        "strategy": settings.strategy.name,
        "norms": norms_kept(settings.strategy) if settings.strategy.rule.local_norms else None,
        "engine": settings.engine,
        "exchange": settings.exchange,
        "seed": settings.seed,
        "cases": measured["cases"],
        "set_aside": measured["set_aside"],
        "mean_dice": measured["mean_dice"],
        "classes": measured["classes"],
        "validation_dice": plain(journal.final.final)["mean_dice"],
        "seconds": round(seconds, 3),
        "overhead_share": None if journal.overhead_share is None else round(journal.overhead_share, 4),
        "privacy": _privacy(journal),
        "bytes_up": _mean([site["bytes_up"] for site in sites]),
        "bytes_down": _mean([site["bytes_down"] for site in sites]),
        "bytes_are": "mean size of one message of one site in one round",
        "all_bytes_up": sum(record["bytes_up"] for record in journal.rounds) + journal.final.bytes_up,
        "all_bytes_down": sum(record["bytes_down"] for record in journal.rounds) + journal.final.bytes_down,
        "weights_sha256": weights_sha256(read_weights(folder / LAST_FILE)[0]),
        "model": LAST_FILE,
        "start": None if settings.start is None else START_FILE,
        "compared": {
            name: {"mean_dice": metrics["mean_dice"], "classes": metrics["classes"]} for name, metrics in rivals.items()
        },
        **(NOT_MEASURED if compared is None else at_the_sites(compared, settings.seed)),
    }


def _privacy(journal: Journal) -> dict[str, Any] | None:
    """What was promised and what was spent, per site; None in a run without privacy."""
    if not journal.promises:
        return None
    spent: dict[str, float] = {}
    for record in journal.rounds:
        spent |= {site["site"]: site["epsilon"] for site in record["sites"]}
    sites = {name: promise.having_spent(spent.get(name, 0.0)) for name, promise in journal.promises.items()}
    return {
        "unit": "patient",
        "claimed": all(promise.proven for promise in sites.values()),
        "sites": {name: promise.to_json() for name, promise in sites.items()},
    }


def add_audit(folder: Path, task: Task, summary: dict[str, Any], audit: Mapping[str, Any]) -> None:
    """State in a private run's summary and README what the attacks on it have found."""
    threshold = audit["membership"]["threshold"]
    summary["privacy"]["audit"] = {
        "verdict": audit["verdict"],
        "epsilon_at_least": max(found["lower_bound"] for found in audit["mechanism"]),
        "membership_auc": threshold["auc"],
        "membership_tpr_at_1_percent_fpr": threshold["tpr"],
    }
    text = readme(task, summary).replace("\n| file |", f"\n{audit_line(audit)}\n\n| file |", 1)
    write_text(folder / "README.md", text)
    write_json(folder / "summary.json", summary)


def audit_line(audit: Mapping[str, Any]) -> str:
    """What the attacks on a private run have found, in a sentence."""
    found = max(found["lower_bound"] for found in audit["mechanism"])
    threshold = audit["membership"]["threshold"]
    return (
        f"Attacked: canary patients prove an epsilon of {found:.2f} at the least ({audit['verdict']}); telling the "
        f"model's own patients from others by its loss has AUC {threshold['auc']:.3f} "
        f"[{threshold['auc_low']:.2f}, {threshold['auc_high']:.2f}] where guessing has 0.5, and finds "
        f"{threshold['tpr']:.1%} of them at 1 % false alarms."
    )


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


def _copy_overlays(folder: Path) -> None:
    for overlay in sorted((folder / "evaluation").glob("overlay-*.png")):
        write_atomic(folder / overlay.name, partial(shutil.copyfile, overlay))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(values: Sequence[int]) -> int:
    return round(sum(values) / len(values)) if values else 0


def readme(task: Task, summary: Mapping[str, Any]) -> str:
    """What is in the run folder, and in a private run what is promised."""
    private = summary["privacy"] is not None
    return _README.format(
        task=task.name,
        privacy=privacy_statement(summary["privacy"]) if private else "",
        more="" if private else _BEST + _CURVES,
        norms="" if summary["norms"] is None else _NORMS,
        rest=(_STARTED if summary["start"] else "")
        + (_COMPARED if summary["compared"] else "")
        + (_ATTACKED if private else ""),
    )


def privacy_statement(privacy: Mapping[str, Any]) -> str:
    """The claim of a private run, for people; without secure noise there is none."""
    worst = max(privacy["sites"].values(), key=lambda site: site["spent"])
    if not privacy["claimed"]:
        return '\nNo privacy is claimed: the noise came from a seed (`noise = "seeded"`), for an experiment.\n'
    return (
        f"\nWhoever sees all that the sites sent in this run, the models included, learns about any one patient at "
        f"most what differential privacy with epsilon {worst['spent']:.3f} and delta {worst['delta']:g} allows "
        "(adding or removing a patient with all of his or her cases). See docs/privacy.md for what that means, and "
        "`summary.json` for each site.\n"
    )


_BEST = """| `best.safetensors` | the global model that scored best on the sites' validation cases |
"""

_ATTACKED = """| `privacy.json` | what attacks on promise and model have found; `segfed privacy audit` tries harder |
"""

_STARTED = """| `start.safetensors` | the model that the run began with |
"""

_NORMS = " with `--norms mean`, or a site's own (see docs/heterogeneity.md)"

_CURVES = """| `curves.png` | training loss and validation Dice of every site, round by round |
"""

_COMPARED = """| `comparison.png` | mean Dice of the federation, of all data pooled, and of each site alone |
| `compared/` | the models of that comparison, with their own measurements, also at every site (`sites/`) |
"""

_README = """# A federation of {task}
{privacy}
| file | what it is |
| --- | --- |
| `report.html` | the run for people: what the model is worth, what each hospital gained, how it went; names no case |
| `report.md` | the same as Markdown; its pictures are in `report-pictures/` |
| `summary.json` | the run in one page: scores on the held-out cases, time, bytes, the final weights' hash |
| `last.safetensors` | the final global model; use it with `segfed predict` and `segfed evaluate`{norms} |
{more}| `overlay-best.png`, `overlay-median.png`, `overlay-worst.png` | truth and prediction; `-worst-2`, `-3` next |
| `evaluation/` | every held-out case: `report.html`, `cases.csv`, `set_aside.csv`, `metrics.json`, the overlays |
| `rounds.jsonl` | one line a round: each site's loss, Dice, cases, seconds, bytes, and what was set aside |
| `result.json` | the final model measured at every site |
{rest}| `sites/` | the sites' data in the layout that a real site has, and `held-out/`, which no site saw |
| `work/` | each site's working folder: cache of preprocessed cases, optimizer states, its own log |
| `state-*.safetensors` | what `segfed simulate --resume` needs; may be deleted once the run is complete |
| `run.json` | the settings of the run |
| `engine.log` | what Flower and the sites' processes had to say; look here when a site was set aside |

Figures and tables in `evaluation/`, and the overlays, show cases: they belong where the cases belong.
"""
