"""What the federation is worth: every site alone and all data pooled, with the same budget of samples.

Pooled and alone start from the same weights, walk the same schedule and are measured on the same held-out cases as the
federation. They run in processes of their own, as many at a time as sites do.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segformer3d.allocator import keep_freed_memory
from segformer3d.cases import find_cases
from segformer3d.dataset import SiteData, prepare
from segformer3d.evaluation import evaluate
from segformer3d.fit import Plan, fit
from segformer3d.inference import choose_device
from segformer3d.processes import map_in_processes
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task, task_from_json


@dataclass(frozen=True)
class Rival:
    """A model to compare the federation with: a name, and the site folders it is trained on."""

    name: str
    kind: str  # "pooled" or "alone"
    folders: tuple[Path, ...]
    out: Path


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


def rivals_of(sites: Sequence[Path], out: Path) -> tuple[Rival, ...]:
    """All sites pooled, then each alone; the longest training first, so that the cores finish together."""
    alone = (Rival(site.name, "alone", (site,), out / site.name) for site in sites)
    return (Rival("pooled", "pooled", tuple(sites), out / "pooled"), *alone)


def train_rivals(rivals: Sequence[Rival], budget: Budget, at_once: int) -> dict[str, dict[str, Any]]:
    """Train and measure every rival; their metrics by name, as in their `metrics.json`.

    Raises:
        SegfedError: a rival's data or the disk is not as it must be, or its process died.
    """
    measured = map_in_processes(partial(_train_rival, told=_told(budget)), [_spoken(r) for r in rivals], at_once)
    return {rival.name: metrics for rival, metrics in zip(rivals, measured, strict=True)}


def _train_rival(rival: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """One rival, in a process of its own. Arguments and result are plain JSON values."""
    keep_freed_memory()
    torch.set_num_threads(told["threads"])
    task, device, out = task_from_json(told["task"]), choose_device(told["device"]), Path(rival["out"])
    data = _together([_data_of(Path(folder), Path(told["work"]), task) for folder in rival["folders"]])
    plan = Plan(told["rounds"], told["local_epochs"], told["seed"], rival["name"])
    model = fit(data, task, TrainingSettings.from_json(told["training"]), plan, out, device=device)
    result = evaluate(model, task, find_cases(Path(told["held_out"])), out, device=device, seed=told["seed"])
    return result.to_json()


def _data_of(site: Path, work: Path, task: Task) -> SiteData:
    return prepare(site, task, work / site.name / "cache")


def _together(parts: Sequence[SiteData]) -> SiteData:
    return SiteData(
        tuple(case for part in parts for case in part.train),
        tuple(case for part in parts for case in part.validation),
        tuple(item for part in parts for item in part.set_aside),
    )


def _spoken(rival: Rival) -> dict[str, Any]:
    return {"name": rival.name, "folders": [str(folder) for folder in rival.folders], "out": str(rival.out)}


def _told(budget: Budget) -> dict[str, Any]:
    told = {**vars(budget), "task": budget.task.to_json(), "training": budget.training.to_json()}
    return json.loads(json.dumps({**told, "held_out": str(budget.held_out), "work": str(budget.work)}))  # type: ignore[no-any-return]
