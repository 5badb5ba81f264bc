"""What the federation is worth: every site alone and all data pooled, with the same budget of samples.

Pooled and alone start from the same weights, walk the same schedule and are measured on the same held-out cases as the
federation. Then all of them, the federation's model too, are measured on the cases that each site keeps from training,
which none of them has seen. As many are trained at a time as sites compute; several have processes of their own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from segformer3d.allocator import keep_freed_memory
from segformer3d.cases import find_cases
from segformer3d.checkpoint import load
from segformer3d.dataset import SiteData, prepare
from segformer3d.evaluation import evaluate
from segformer3d.files import write_text
from segformer3d.fit import Plan, fit
from segformer3d.inference import choose_device
from segformer3d.measuring import Contest, forecast_of, measure_cases
from segformer3d.model import SegFormer3D
from segformer3d.processes import map_cases, map_in_processes
from segformer3d.protocols import choose_protocol
from segformer3d.report.charts import Bar
from segformer3d.results import Evaluation
from segformer3d.score_tables import case_table
from segformer3d.settings import TrainingSettings
from segformer3d.statistics import MINIMUM_COUNT, Summary
from segformer3d.tasks import Task, task_from_json
from simulations.gains import ALONE, MATRIX_SITES, CrossSite, Way, cross_site, gains_of

FEDERATED, POOLED, PERSONAL = "federated", "pooled", "personal"


@dataclass(frozen=True)
class Rival:
    """A model of the comparison.

    Attributes:
        name: "federated", "pooled", the site that it is alone at, or "personal" and the site whose model it is.
        kind: "federated", "pooled", "alone" or "personal".
        folders: the site folders that it is trained on.
        out: where what belongs to it is written.
        measured_at: the site folders on whose own cases it is measured.
        model: the model file, where it is trained already.
    """

    name: str
    kind: str
    folders: tuple[Path, ...]
    out: Path
    measured_at: tuple[Path, ...] = ()
    model: Path | None = None


@dataclass(frozen=True)
class Budget:
    """What every rival gets, as the federation did."""

    task: Task
    training: TrainingSettings
    rounds: int
    local_epochs: int
    seed: int
    device: str
    threads: int
    held_out: Path
    work: Path  # the sites' working folders, whose caches are used again
    patient_pattern: str | None  # as the sites have it, or they would keep other cases from training
    start: Path | None  # the model file that the federation began with; None: random weights


@dataclass(frozen=True)
class Compared:
    """What came out.

    Attributes:
        held_out: the `metrics.json` of every rival of the federation on the held-out cases, by its name.
        sites: every model's mean Dice on the cases that sites keep from training, over what labels tell, by model, site
            and case; empty where nothing is kept.
    """

    held_out: Mapping[str, Mapping[str, Any]]
    sites: Mapping[str, Way]

    @property
    def ways(self) -> Mapping[str, Way]:
        """The same by way of training: the models of single sites together are one way, each at its own site."""
        own = {site: scores[site] for site, scores in self.sites.items() if site in scores}
        theirs = {site: self.sites[f"{PERSONAL} {site}"][site] for site in own if f"{PERSONAL} {site}" in self.sites}
        everyones = {way: self.sites[way] for way in (FEDERATED, POOLED) if way in self.sites}
        return {ALONE: own, **everyones, **({PERSONAL: theirs} if theirs else {})}


def rivals_of(sites: Sequence[Path], out: Path, federated: Path, *, kept: bool) -> tuple[Rival, ...]:
    """All sites pooled, then each alone, then the federation's model; the longest work first.

    Args:
        sites: the sites' folders.
        out: where each rival gets a folder.
        federated: the federation's model.
        kept: whether sites keep cases from training, on which all are measured. Of many sites, only the first
            `MATRIX_SITES` see each other's models.
    """
    everywhere = tuple(sites) if kept else ()
    several = everywhere[:MATRIX_SITES]
    alone = tuple(
        Rival(site.name, ALONE, (site,), out / site.name, several if site in several else (site,) if kept else ())
        for site in sites
    )
    pooled = Rival(POOLED, POOLED, tuple(sites), out / POOLED, everywhere)
    own = Rival(FEDERATED, FEDERATED, tuple(sites), out / FEDERATED, everywhere, federated)
    return (pooled, *alone, *((own,) if kept else ()))


def personal_rivals(sites: Sequence[Path], models: Sequence[Path], out: Path) -> tuple[Rival, ...]:
    """The model of each site's own that a strategy has left there, measured at its site: Ditto's, or FedBN's norms."""
    return tuple(
        Rival(f"{PERSONAL} {site.name}", PERSONAL, (site,), out / f"{PERSONAL}-{site.name}", (site,), model)
        for site, model in zip(sites, models, strict=True)
    )


def compare_rivals(rivals: Sequence[Rival], budget: Budget, at_once: int) -> Compared:
    """Train every rival that is not trained yet, and measure all of them.

    Raises:
        SegfedError: a rival's data or the disk is not as it must be, or its process died.
    """
    told = [_spoken(rival) for rival in rivals]
    # Other kernels, and memory of its own, are what a federation leaves this process on a GPU.
    spread = map_cases if choose_device(budget.device).type == "cpu" else map_in_processes
    measured = spread(partial(_work, told=_told(budget)), told, at_once)
    by_name = {rival.name: result for rival, result in zip(rivals, measured, strict=True)}
    return Compared(
        {name: result["held_out"] for name, result in by_name.items() if result["held_out"] is not None},
        {name: result["sites"] for name, result in by_name.items() if result["sites"]},
    )


def _work(rival: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """One rival, here or in a process of its own. Arguments and result are plain JSON values."""
    keep_freed_memory()
    torch.set_num_threads(told["threads"])
    task, device, out = task_from_json(told["task"]), choose_device(told["device"]), Path(rival["out"])
    held_out = None
    if rival["model"] is None:
        model = _train(rival, told, task, device)
        cases = find_cases(Path(told["held_out"]))
        found = evaluate(model, task, cases, out, device=device, seed=told["seed"], pictures=False)
        held_out = found.to_json()
    else:
        model = load(Path(rival["model"]))
    places = [Path(site) for site in rival["measured_at"]]
    sites = {site.name: _measure_at(site, told, model, task, device, out) for site in places}
    return {"held_out": held_out, "sites": sites}


def _train(rival: dict[str, Any], told: dict[str, Any], task: Task, device: torch.device) -> SegFormer3D:
    data = _together([_data_of(Path(folder), told, task) for folder in rival["folders"]])
    plan = Plan(told["rounds"], told["local_epochs"], told["seed"], rival["name"])
    settings, start = TrainingSettings.from_json(told["training"]), told["start"]
    begun = None if start is None else load(Path(start))
    return fit(data, task, settings, plan, Path(rival["out"]), device=device, start=begun)


def _measure_at(
    site: Path, told: Mapping[str, Any], model: SegFormer3D, task: Task, device: torch.device, out: Path
) -> dict[str, float]:
    """Dice of every case that a site keeps from training, over what labels tell; all scores lie beside the model."""
    kept = {case.name for case in _data_of(site, told, task).validation}
    cases = [case for case in find_cases(site) if case.name in kept]
    protocol, names = choose_protocol(task.name), [structure.name for structure in task.structures]
    contest = Contest(task, protocol, partial(forecast_of, model, task, device, None), None)
    results = [case.result for case in measure_cases(contest, cases, None)[0]]
    write_text(out / "sites" / f"{site.name}.csv", case_table(results, names, protocol))
    return {case.name: case.dice_of_told for case in results}


def _data_of(site: Path, told: Mapping[str, Any], task: Task) -> SiteData:
    return prepare(site, task, Path(told["work"]) / site.name / "cache", patient_pattern=told["patient_pattern"])


def _together(parts: Sequence[SiteData]) -> SiteData:
    return SiteData(
        tuple(case for part in parts for case in part.train),
        tuple(case for part in parts for case in part.validation),
        tuple(item for part in parts for item in part.set_aside),
    )


def _spoken(rival: Rival) -> dict[str, Any]:
    folders, places = ([str(folder) for folder in some] for some in (rival.folders, rival.measured_at))
    model = None if rival.model is None else str(rival.model)
    return {"name": rival.name, "folders": folders, "out": str(rival.out), "measured_at": places, "model": model}


def _told(budget: Budget) -> dict[str, Any]:
    paths = {name: str(value) for name, value in vars(budget).items() if isinstance(value, Path)}
    told = {**vars(budget), **paths, "task": budget.task.to_json(), "training": budget.training.to_json()}
    return json.loads(json.dumps(told))  # type: ignore[no-any-return]


NOT_MEASURED: Mapping[str, Any] = {"gains": None, "cross_site": None}


def at_the_sites(compared: Compared, seed: int) -> Mapping[str, Any]:
    """For the summary: what each site gained, and every model at every site; null where nothing was measured there."""
    if not compared.sites:
        return NOT_MEASURED
    gains = {
        "minimum_cases": MINIMUM_COUNT,
        "measured_on": "the cases that each site keeps from training; mean Dice over what labels tell",
        "sites": {site.site: site.to_json() for site in gains_of(compared.ways, seed)},
    }
    return {"gains": gains, "cross_site": matrix_of(compared, seed).to_json()}


def matrix_of(compared: Compared, seed: int) -> CrossSite:
    """Every model at the first `MATRIX_SITES` sites: those of single sites first."""
    own = compared.ways[ALONE]
    ordered = {name: compared.sites[name] for name in (*own, FEDERATED, POOLED)}
    return cross_site(ordered, list(own)[:MATRIX_SITES], seed)


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


def comparison_of(evaluation: Evaluation, compared: Compared) -> list[Bar]:
    """The federation, all data pooled, and each site alone, on the held-out cases."""
    bars = [Bar("federated", "federated", evaluation.mean_dice)]
    for name, metrics in compared.held_out.items():
        summary = Summary(**metrics["mean_dice_over_cases"])
        bars.append(Bar(name, "pooled", summary) if name == "pooled" else Bar(f"{name} alone", "alone", summary))
    return bars
