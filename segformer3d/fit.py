"""Training at one place from start to end: the pooled or single-site baseline, and what `segfed train` does.

It walks through the same parts, with the same settings and random streams, as a site in a federation does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from segformer3d.checkpoint import save
from segformer3d.dataset import SiteData
from segformer3d.model import SegFormer3D, build
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task
from segformer3d.training import OnStep, Part, train_part, validate
from segformer3d.training_reports import TrainingReport, ValidationReport


@dataclass(frozen=True)
class Plan:
    """How long a model is trained: `parts` parts of `epochs` passes each, from the random numbers of (seed, stream)."""

    parts: int
    epochs: int = 1
    seed: int = 0
    stream: str = "pooled"


@dataclass(frozen=True)
class Fitted:
    """One finished part: its number from 1, the training, and the model measured after it."""

    part: int
    training: TrainingReport
    validation: ValidationReport


def initial_model(task: Task, seed: int) -> SegFormer3D:
    """The model that every run of a task with this seed starts from, whoever asks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(task.model, task.output_bias)


def fit(
    data: SiteData,
    task: Task,
    settings: TrainingSettings,
    plan: Plan,
    out: Path,
    *,
    device: torch.device,
    workers: int = 0,
    start: SegFormer3D | None = None,
    on_part: Callable[[Fitted], None] | None = None,
    on_step: OnStep | None = None,
) -> SegFormer3D:
    """Train a model and leave it in `out/model.safetensors`, rewritten after every part.

    `start` is trained on where it is given; else a fresh model, see `initial_model`.

    Raises:
        ConfigurationError: the plan breaks a rule.
        StorageError: `out` cannot be written.
    """
    model = initial_model(task, plan.seed) if start is None else start
    moments = out / "optimizer.safetensors"
    for index in range(plan.parts):
        report = train_part(
            model,
            data.train,
            task,
            settings,
            Part(index, plan.parts, plan.epochs, plan.seed, plan.stream),
            device=device,
            optimizer_from=moments if index else None,
            optimizer_to=moments,
            on_step=on_step,
            workers=workers,
        )
        save(out / "model.safetensors", model, task, {"part": index + 1, "parts": plan.parts})
        if on_part is not None:
            on_part(Fitted(index + 1, report, validate(model, data.validation, task, device=device)))
    moments.unlink(missing_ok=True)
    return model
