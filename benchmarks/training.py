"""Section: training throughput on real cases, and how much of a step is waiting for data.

The plain transcription takes cubes only, so the two are compared on cubes of 64 voxels with the published strides; the
product's own task, with patches and strides of its own, stands beside them.
"""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measure import Series, interleaved, spoken, table, times_as_fast
from benchmarks.plain import PlainSegFormer3D
from benchmarks.settings import Settings
from benchmarks.worker import Deeds, Worker
from segformer3d.config import ModelConfig
from segformer3d.dataset import prepare
from segformer3d.fit import initial_model
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task, task_of_folder
from segformer3d.training import Part, train_part

CASES = 24
CUBE = (64, 64, 64)


def measure_training(settings: Settings) -> dict[str, Any] | None:
    """Seconds for one pass over the same cases by each; None without cases."""
    if settings.scans is None:
        return None
    with tempfile.TemporaryDirectory() as cache, ExitStack() as stack:
        workers = {}
        for name in ("plain, cubes", "segfed, cubes", "segfed, own task"):
            make = partial(training_deeds, settings.scans, Path(cache), name, settings.device)
            worker = Worker(make, product=not name.startswith("plain"), threads=settings.threads)
            workers[name] = stack.enter_context(worker)
        seconds = interleaved({n: partial(w.ask, "pass") for n, w in workers.items()}, settings.slow_repeats)
        waits = {name: worker.ask("wait") for name, worker in workers.items()}
    ratio = times_as_fast(seconds["plain, cubes"], seconds["segfed, cubes"])
    return {"seconds": {n: s.seconds for n, s in seconds.items()}, "waits": waits, "ratio": ratio}


def describe_training(found: Mapping[str, Any] | None) -> str:
    """The section in Markdown."""
    if found is None:
        return "Not measured: no folder of cases was given."
    rows = [
        (name, f"{CASES / Series(s).median:.2f}", spoken(Series(s)), f"{found['waits'][name]:.1%}")
        for name, s in found["seconds"].items()
    ]
    head = f"On cubes, segfed trains {found['ratio']:.2f} times as many cases a second as the plain transcription.\n\n"
    return head + table(("training", "cases a second", f"{CASES} cases", "waiting for data"), rows)


def training_deeds(scans: Path, cache: Path, name: str, device_name: str) -> Deeds:
    """One pass over the first cases, batches of one; "wait" is the share of the last pass that waited for data."""
    task, device = task_of_folder(scans), torch.device(device_name)
    if name.endswith("cubes"):
        published = ModelConfig(in_channels=task.model.in_channels, num_classes=task.model.num_classes)
        task = replace(task, patch=CUBE, model=published)
    cases = prepare(scans, task, cache, validation_share=0).train[:CASES]
    model, waited = _network(name, task), [0.0]

    def one_pass(_: object) -> float:
        settings = TrainingSettings(batch_size=1)
        report = train_part(model, cases, task, settings, Part(0, 1, 1, 0, "benchmark"), device=device)  # type: ignore[arg-type]
        waited[0] = report.waited / report.seconds
        return report.seconds

    return {"pass": one_pass, "wait": lambda _: waited[0]}


def _network(name: str, task: Task) -> nn.Module:
    if name.startswith("plain"):
        torch.manual_seed(0)
        return PlainSegFormer3D(task.model.in_channels, task.model.num_classes)
    return initial_model(task, 0)
