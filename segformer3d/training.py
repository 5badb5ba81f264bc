"""Local training and validation at one site.

Training is cut into equal parts, one for each round of a federation (a single part when there is none). The learning
rate follows one warm-up and half cosine over all parts together, the optimizer's moments are handed from part to part,
and every random number derives from (seed, stream, part): a part run again gives the same weights to the last bit.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from segformer3d.ahead import Waits, prepared_ahead
from segformer3d.dataset import PreparedCase
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.inference import decide, predict_probabilities
from segformer3d.lacks import Groups, known_groups, told
from segformer3d.losses import Loss, known_loss, make_loss, marginal, targets
from segformer3d.model import SegFormer3D
from segformer3d.optimizer_file import load_optimizer, save_optimizer
from segformer3d.optimizers import AdamW
from segformer3d.patches import sample_patch
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task
from segformer3d.training_reports import TrainingReport, ValidationReport

OnStep = Callable[["Step"], None]
Adjust = Callable[[], None]  # changes the gradients between clipping and the optimizer's step


@dataclass(frozen=True)
class Part:
    """Part `index` (from 0) of `parts` equal parts of one schedule, each of `epochs` passes over the cases.

    `stream` keeps the random numbers of different sites apart; it is the site's name.

    Raises:
        ConfigurationError: a value breaks its rule.
    """

    index: int
    parts: int
    epochs: int
    seed: int
    stream: str

    def __post_init__(self) -> None:
        if not (0 <= self.index < self.parts and self.epochs >= 1 and self.seed >= 0):
            raise ConfigurationError(f"a part needs 0 <= index < parts, epochs >= 1 and seed >= 0, got {self}")

    def random_key(self, *more: int) -> list[int]:
        """Entropy for `numpy.random.default_rng`, different for every seed, stream, part and `more`."""
        stream = int.from_bytes(hashlib.sha256(self.stream.encode()).digest()[:8], "big")
        return [self.seed, stream, self.index, *more]


@dataclass(frozen=True)
class Step:
    """What happened in one optimizer step."""

    number: int
    steps: int
    loss: float
    learning_rate: float
    samples: int


def train_part(
    model: SegFormer3D,
    cases: Sequence[PreparedCase],
    task: Task,
    settings: TrainingSettings,
    part: Part,
    *,
    device: torch.device,
    optimizer_from: Path | None = None,
    optimizer_to: Path | None = None,
    optimizer_over: Path | None = None,
    on_step: OnStep | None = None,
    workers: int = 0,
    adjust: Adjust | None = None,
) -> TrainingReport:
    """Train a model in place.

    Args:
        model: the model; it is moved to the device and left there.
        cases: the training cases.
        task: what is segmented in what.
        settings: how.
        part: which part of the schedule.
        device: where to compute.
        optimizer_from: moments to go on from, or None to begin with none.
        optimizer_to: where to leave the moments, or None to forget them.
        optimizer_over: older moments whose file may be written over for that.
        on_step: told after every step.
        workers: processes that cut patches; 0 cuts them in this process. The result is the same.
        adjust: changes the gradients of every step once they are clipped: what a federation adds to the data's own.

    Raises:
        DataError: there is no case.
        CheckpointError: `optimizer_from` is damaged or of another architecture.
        StorageError: `optimizer_to` cannot be written.
    """
    if not cases:
        raise DataError("there is no case to train on; add cases, or keep fewer for validation")
    model.to(device).train()
    optimizer = make_optimizer(model, settings)
    if optimizer_from is not None:
        load_optimizer(optimizer_from, optimizer, model)
    cutter = _Patches(cases, task, settings, part)
    batches = _batches(cutter, workers)
    loss = make_loss(task, settings)
    losses, patches = [], Waits(prepared_ahead(batches) if device.type == "cuda" else batches)
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng(part.random_key()).integers(2**62)))
        for number, (image, label) in enumerate(patches):
            rate = learning_rate(settings, part.index * len(batches) + number, part.parts * len(batches))
            target = targets(label.to(device), task)
            known = known_loss(loss, cutter.known(number))
            losses.append(_step(model, optimizer, known, image.to(device), target, rate, settings, adjust))
            if on_step is not None:
                on_step(Step(number + 1, len(batches), losses[-1], rate, image.shape[0]))
    seconds = time.perf_counter() - began
    if optimizer_to is not None:
        save_optimizer(optimizer_to, optimizer, model, optimizer_over)
    samples = len(cases) * part.epochs
    return TrainingReport(float(np.mean(losses)), len(cases), samples, len(losses), seconds, patches.seconds)


def learning_rate(settings: TrainingSettings, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: a linear warm-up, then half a cosine that would end at 0."""
    warm = max(1, int(settings.warmup * steps))
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def loss_of(model: nn.Module, loss: Loss, image: Tensor, target: Tensor) -> Tensor:
    """The scalar loss of a batch, the network in mixed precision where that is quick."""
    # bfloat16 has float32's range, so no loss scaling is needed; every GPU since 2020 has it.
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=image.device.type == "cuda"):
        logits = model(image)
    return loss(logits.float(), target)


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> AdamW:
    """AdamW over all parameters, in the order of their names in the model."""
    return AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def validate(
    model: SegFormer3D, cases: Sequence[PreparedCase], task: Task, *, device: torch.device
) -> ValidationReport:
    """Measure a model on whole cases, on the task's grid, by what their labels tell.

    A structure that neither label nor prediction has scores 1.
    """
    began = time.perf_counter()
    model.to(device)
    scores, losses = [], []
    for case in cases:
        probabilities = predict_probabilities(model, task, case.image(), device, mirror=False)
        label = np.array(case.label())
        predicted, truth = decide(probabilities, task), task.structure_masks(label)
        shown = told(task, case.lacks)
        scores.append([_dice(p, t) if s else math.nan for p, t, s in zip(predicted, truth, shown, strict=True)])
        target = targets(torch.from_numpy(label)[None], task)
        losses.append(_probability_loss(*_known(probabilities, target, known_groups(task, case.lacks)), task))
    dice = _mean_where_told(scores) if scores else (math.nan,) * len(task.structures)
    return ValidationReport(
        dice, float(np.mean(losses)) if losses else math.nan, len(cases), time.perf_counter() - began
    )


class _Patches(Dataset[tuple[Tensor, Tensor]]):
    """The samples of a part, in order. Each has random numbers of its own, so that it matters not who cuts it."""

    def __init__(self, cases: Sequence[PreparedCase], task: Task, settings: TrainingSettings, part: Part) -> None:
        self.cases, self.task, self.settings, self.part = cases, task, settings, part
        order = np.random.default_rng(part.random_key())
        self.order = [int(i) for _ in range(part.epochs) for i in order.permutation(len(cases))]
        self.groups = [known_groups(task, case.lacks) for case in cases]

    def known(self, batch: int) -> list[Groups | None]:
        """What the labels of a batch tell."""
        size = self.settings.batch_size
        return [self.groups[index] for index in self.order[batch * size : (batch + 1) * size]]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng(self.part.random_key(index + 1))
        patch = sample_patch(self.cases[self.order[index]], self.task, self.settings, generator)
        return patch.image, patch.label


def _batches(patches: _Patches, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    context = "spawn" if workers else None
    return DataLoader(patches, patches.settings.batch_size, num_workers=workers, multiprocessing_context=context)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    image: Tensor,
    target: Tensor,
    rate: float,
    settings: TrainingSettings,
    adjust: Adjust | None,
) -> float:
    set_rate(optimizer, rate)
    value = loss_of(model, loss, image, target)
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
    if adjust is not None:
        adjust()
    optimizer.step()
    return float(value.detach())


def _dice(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    total = int(predicted.sum()) + int(truth.sum())
    return 2.0 * int((predicted & truth).sum()) / total if total else 1.0


def _mean_where_told(scores: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The mean of each structure over the cases whose score is not NaN."""
    values = np.array(scores)
    told = ~np.isnan(values)
    sums, counts = np.where(told, values, 0.0).sum(axis=0), told.sum(axis=0)
    return tuple(float(total / count) if count else math.nan for total, count in zip(sums, counts, strict=True))


def _known(probabilities: Tensor, target: Tensor, groups: Groups | None) -> tuple[Tensor, Tensor]:
    """Probabilities (K, X, Y, Z) and target (1, K, X, Y, Z) as far as a label tells them, without the batch."""
    if groups is None:
        return probabilities, target[0]
    return marginal(probabilities[None], groups)[0], marginal(target, groups)[0]


def _probability_loss(probabilities: Tensor, target: Tensor, task: Task) -> float:
    """Soft Dice loss plus cross-entropy, from probabilities: windows are averaged as probabilities, not as logits."""
    first = 1 if task.activation == "softmax" else 0
    axes = (1, 2, 3)
    overlap = 2 * (probabilities * target).sum(axes) + 1e-5
    dice = 1 - overlap / (probabilities.sum(axes) + target.sum(axes) + 1e-5)
    clipped = probabilities.clamp(1e-7, 1 - 1e-7)
    if first:
        entropy = -(target * clipped.log()).sum(dim=0).mean()
    else:
        entropy = -(target * clipped.log() + (1 - target) * (1 - clipped).log()).mean()
    return float(dice[first:].mean() + entropy)
