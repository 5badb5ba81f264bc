"""Patient-level DP-SGD at a site: some steps of one round.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, with the patient as the unit: in each step every
patient takes part with the same chance, whatever others do (Poisson sampling); all patches of a patient give one
gradient, clipped once; the sum gets Gaussian noise and is divided by a public number, also when nobody was drawn.
Weight decay and the proximal pull know no patient and act after the noise. One backward pass a patient is exact for
every layer that there is and as quick as a batch.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from client.privacy.mechanism import PatientGradients
from client.privacy.noise import Noise, SecureNoise, SeededNoise
from client.privacy.promise import Promise
from client.privacy.settings import PrivacySettings
from client.strategies.proximal import proximal_pull
from segformer3d.errors import ConfigurationError
from segformer3d.lacks import Groups, known_groups
from segformer3d.losses import known_loss, make_loss, targets
from segformer3d.model import SegFormer3D
from segformer3d.optimizer_file import load_optimizer, save_optimizer
from segformer3d.optimizers import SGD, AdamW
from segformer3d.patches import sample_patch
from segformer3d.patients import Patient
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task
from segformer3d.training import Adjust, Part, learning_rate, loss_of, set_rate

MOMENTUM = 0.9
# Leaves one patient's gradient in the parameters' `grad` and returns the loss, given the number of the step.
Unit = Callable[[int], float]


@dataclass(frozen=True)
class PrivatePart:
    """What happened, for the site's own log: none of it may leave.

    Attributes:
        loss: mean over the patients of all steps; NaN when none was drawn.
        drawn: patients of all steps.
        seconds: how long the steps took.
        clip: the clipping norm that the next step would have.
    """

    loss: float
    drawn: int
    seconds: float
    clip: float


def train_private(
    model: SegFormer3D,
    patients: Sequence[Patient],
    task: Task,
    settings: TrainingSettings,
    privacy: PrivacySettings,
    promise: Promise,
    part: Part,
    *,
    device: torch.device,
    optimizer_from: Path | None = None,
    optimizer_to: Path | None = None,
    optimizer_over: Path | None = None,
) -> PrivatePart:
    """Train a model in place for `privacy.local_steps` steps.

    The ledger has paid for it before this is called.

    Args:
        model: the model; it is moved to the device and left there.
        patients: of the site, each with at least one case.
        task: what is segmented in what.
        settings: the learning rate's schedule, weight decay, loss, and size of the batches of a patient's patches.
        privacy: what is asked for.
        promise: what the site makes of it: noise multiplier, and the public number of patients.
        part: which round of how many, and the seed of what is no secret.
        device: where to compute.
        optimizer_from, optimizer_to, optimizer_over: moments, as in `segformer3d.training.train_part`.

    Raises:
        ConfigurationError: no parameter is trained, or a layer makes one patient depend on another.
        CheckpointError: `optimizer_from` is damaged.
        StorageError: `optimizer_to` cannot be written.
    """
    model.to(device).train()
    settings = replace(settings, learning_rate=privacy.learning_rate, augment=privacy.augment)
    began = time.perf_counter()
    with _only(model, privacy) as parameters, torch.random.fork_rng(devices=[]):
        optimizer = _optimizer(parameters, settings, privacy)
        notes = {} if optimizer_from is None else load_optimizer(optimizer_from, optimizer, model)
        gradients = PatientGradients(
            parameters,
            clip=notes.get("clip", privacy.clip),
            noise_multiplier=promise.noise_multiplier,
            expected=promise.sampling_rate * promise.patients,
            noise=_noise(privacy, part),
            quantile=privacy.quantile,
        )
        units = [patient_unit(model, p, task, settings, privacy, part, device) for p in patients]
        pull = proximal_pull(parameters, privacy.proximal) if privacy.proximal else None
        losses: list[float] = []
        first, steps = part.index * privacy.local_steps, part.parts * privacy.local_steps
        for step in range(privacy.local_steps):
            set_rate(optimizer, learning_rate(settings, first + step, steps))
            losses += private_step(gradients, units, promise.sampling_rate, optimizer, step, pull)
        if optimizer_to is not None:
            save_optimizer(optimizer_to, optimizer, model, optimizer_over, {"clip": gradients.clip})
    loss = float(np.mean(losses)) if losses else float("nan")
    return PrivatePart(loss, len(losses), time.perf_counter() - began, gradients.clip)


def private_step(
    gradients: PatientGradients,
    units: Sequence[Unit],
    rate: float,
    optimizer: torch.optim.Optimizer,
    step: int,
    pull: Adjust | None = None,
) -> list[float]:
    """One step: draw patients, add each one's gradient, release, move. Returns their losses, which must not leave."""
    losses = []
    for index in gradients.draw(len(units), rate):
        losses.append(units[index](step))
        gradients.add()
    gradients.release()
    if pull is not None:
        pull()
    optimizer.step()
    gradients.clear()
    return losses


def patient_unit(
    model: nn.Module,
    patient: Patient,
    task: Task,
    settings: TrainingSettings,
    privacy: PrivacySettings,
    part: Part,
    device: torch.device,
) -> Unit:
    """The gradient of the mean loss over some patches of one patient, from any of his or her cases.

    Its random numbers derive from the patient, not from the patient's place among others: else one patient more would
    change what all others contribute, by more than the clipping norm.
    """
    loss = make_loss(task, settings)
    own = int.from_bytes(hashlib.sha256(patient.name.encode()).digest()[:8], "big")

    def take(step: int) -> float:
        key = part.random_key(step, own)
        generator = np.random.default_rng(key)
        torch.manual_seed(int(generator.integers(2**62)))  # dropout's
        total = 0.0
        for image, label, known in _patches(patient, task, settings, privacy.crops, generator):
            share = image.shape[0] / privacy.crops
            target = targets(label.to(device), task)
            value = loss_of(model, known_loss(loss, known), image.to(device), target) * share
            value.backward()  # type: ignore[no-untyped-call]
            total += float(value.detach())
        return total

    return take


def _patches(
    patient: Patient, task: Task, settings: TrainingSettings, crops: int, generator: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor, list[Groups | None]]]:
    """Batches of one patient's patches, and what their labels tell."""
    for begin in range(0, crops, settings.batch_size):
        number = min(settings.batch_size, crops - begin)
        cases = [patient.cases[int(generator.integers(len(patient.cases)))] for _ in range(number)]
        cut = [sample_patch(case, task, settings, generator) for case in cases]
        image, label = (torch.stack([getattr(patch, what) for patch in cut]) for what in ("image", "label"))
        yield image, label, [known_groups(task, case.lacks) for case in cases]


@contextmanager
def _only(model: nn.Module, privacy: PrivacySettings) -> Iterator[list[nn.Parameter]]:
    """The parameters that are trained; the others need no gradient meanwhile."""
    everything = dict(model.named_parameters())
    chosen = [parameter for name, parameter in everything.items() if privacy.trains(name)]
    if not chosen:
        raise ConfigurationError(f"privacy.trainable {list(privacy.trainable)} matches no parameter of the model")
    try:
        for name, parameter in everything.items():
            parameter.requires_grad_(privacy.trains(name))
        yield chosen
    finally:
        for parameter in everything.values():
            parameter.requires_grad_(True)
            parameter.grad = None


def _optimizer(
    parameters: Sequence[nn.Parameter], settings: TrainingSettings, privacy: PrivacySettings
) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if privacy.optimizer == "sgd":
        return SGD(parameters, lr=rate, momentum=MOMENTUM, weight_decay=decay)
    return AdamW(parameters, lr=rate, weight_decay=decay)


def _noise(privacy: PrivacySettings, part: Part) -> Noise:
    return SecureNoise() if privacy.noise == "secure" else SeededNoise(part.random_key())
