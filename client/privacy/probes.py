"""The mechanism tried out: the real step on the real network with made-up patients, and what comes out of it.

What the code says it does is one thing. Here a step is taken with and without one patient, whose patches pull as hard
as they can, and what the release moves by is measured; noise and sampling are drawn and counted. The bounds are such
that a sound mechanism fails one time in a million.
"""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.privacy.attack import Watcher
from client.privacy.mechanism import PatientGradients
from client.privacy.noise import Noise, SecureNoise, SeededNoise
from client.privacy.settings import PrivacySettings
from client.privacy.training import patient_unit, private_step
from client.privacy.verifier import Finding
from segformer3d.dataset import PreparedCase
from segformer3d.model import SegFormer3D
from segformer3d.patients import Patient
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task
from segformer3d.training import Part

DEVIATIONS = 5.0  # one in 1.7 million, to both sides
DRAWS, PATIENTS, VISITS = 400, 2, 2
_SETTINGS = TrainingSettings(augment=False)
_PART = Part(0, 1, 1, 0, "probe")
_SMALL = 1e-4  # a clipping norm that every gradient is longer than


class Silence:
    """Everyone takes part, and nothing is added: what a patient adds can be seen."""

    secure = False

    def integers(self, size: int, deviation: float) -> NDArray[np.int64]:
        """No noise."""
        return np.zeros(size, np.int64)

    def chosen(self, count: int, rate: float) -> list[int]:
        """Everyone."""
        return list(range(count))


def mechanism_findings(model: SegFormer3D, task: Task, privacy: PrivacySettings) -> tuple[Finding, ...]:
    """Try the steps of a private run.

    Args:
        model: the network; its weights are left as they are.
        task: whose patches it takes.
        privacy: of the run.
    """
    with _made_up(task) as patients:
        return (
            _sensitivity(model, patients, task, privacy),
            _noise(privacy),
            _sampling(privacy),
        )


def _sensitivity(model: SegFormer3D, patients: tuple[Patient, ...], task: Task, privacy: PrivacySettings) -> Finding:
    """What one patient with several visits and patches moves the released sum by, in clipping norms."""
    without = _released(model, patients[1:], task, privacy)
    moved = float((_released(model, patients, task, privacy) - without).norm()) / _SMALL
    return Finding(
        "one patient moves the sum by no more than the clipping norm",
        0 < moved <= 1 + 1e-3,
        f"moved by {moved:.3f} clipping norms",
    )


def _released(model: SegFormer3D, patients: tuple[Patient, ...], task: Task, privacy: PrivacySettings) -> torch.Tensor:
    chosen = [parameter for name, parameter in model.named_parameters() if privacy.trains(name)]
    sums = PatientGradients(chosen, clip=_SMALL, noise_multiplier=1.0, expected=1.0, noise=Silence())
    units = [
        patient_unit(model.train(), patient, task, _SETTINGS, privacy, _PART, torch.device("cpu"))
        for patient in patients
    ]
    watcher = Watcher(chosen)
    private_step(sums, units, privacy.sampling_rate, watcher, 0)
    model.zero_grad(set_to_none=True)
    return torch.cat(watcher.seen)


def _noise(privacy: PrivacySettings) -> Finding:
    """The standard deviation of what an empty step releases."""
    parameter = nn.Parameter(torch.zeros(100_000))
    sums = PatientGradients([parameter], clip=1.0, noise_multiplier=1.0, expected=1.0, noise=_source(privacy))
    sums.release()
    deviation = float(parameter.grad.double().std()) if parameter.grad is not None else 0.0
    bound = DEVIATIONS / math.sqrt(2 * parameter.numel())
    return Finding(
        "the noise is as strong as the accountant thinks",
        abs(deviation - 1) <= bound,
        f"{deviation:.4f} times what it should be, within {bound:.4f}",
    )


def _sampling(privacy: PrivacySettings) -> Finding:
    """How often patients are drawn, and how much the size of a draw varies: a fixed size does not."""
    source, rate = _source(privacy), privacy.sampling_rate
    sizes = np.array([len(source.chosen(100, rate)) for _ in range(DRAWS)])
    bound = DEVIATIONS * math.sqrt(100 * rate * (1 - rate) / DRAWS)
    spread = float(sizes.var(ddof=1)) / (100 * rate * (1 - rate)) if rate < 1 else 1.0
    holds = abs(sizes.mean() - 100 * rate) <= bound and abs(spread - 1) <= DEVIATIONS * math.sqrt(2 / DRAWS)
    told = f"{sizes.mean() / 100:.3f} of the patients a step for {rate:g}, variance {spread:.2f} times Poisson's"
    return Finding("patients are drawn by chance, each alone", bool(holds), told)


def _source(privacy: PrivacySettings) -> Noise:
    return SecureNoise() if privacy.noise == "secure" else SeededNoise([0])


@contextmanager
def _made_up(task: Task) -> Iterator[tuple[Patient, ...]]:
    """Patients of noise, with more than one visit each.

    The first, who comes and goes, is all structure and pulls against the other, who has none, and harder: a sum that is
    bounded as a whole only turns round.
    """
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        yield tuple(
            Patient(
                f"p{number}", tuple(_case(Path(name) / f"{number}-{visit}", task, generator) for visit in range(VISITS))
            )
            for number in range(PATIENTS)
        )


def _case(folder: Path, task: Task, generator: np.random.Generator) -> PreparedCase:
    folder.mkdir()
    label = np.full(task.patch, max(task.label_values) if folder.name.startswith("0") else 0, np.int16)
    np.save(folder / "image.npy", generator.normal(size=(len(task.modalities), *task.patch)).astype(np.float32))
    np.save(folder / "label.npy", label)
    np.save(folder / "voxels.npy", np.zeros((0, 4), np.int32))
    return PreparedCase(folder.name, folder, folder.name)
