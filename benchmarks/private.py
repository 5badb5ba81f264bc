"""Section: what differential privacy costs a training step, against the same step without, and against Opacus's hooks.

All take the same patients with the same patches. Opacus keeps a gradient for every sample of a batch, by hooks in every
layer, on the plain transcription of the network; segfed takes one backward pass a patient and clips its gradient.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.contenders import CLASSES, CONTRASTS
from benchmarks.measure import Series, interleaved, spoken, table, times_as_fast
from benchmarks.plain import PlainSegFormer3D
from benchmarks.settings import Settings
from benchmarks.worker import Deeds, Worker, process_peak_mb, seconds_of, tensor_peak_mb
from client.privacy.mechanism import PatientGradients
from client.privacy.noise import SecureNoise
from client.privacy.settings import PrivacySettings
from client.privacy.training import private_step
from segformer3d.model import SegFormer3D

PATIENTS, CROPS = 8, 2
PLAIN, PRIVATE, ONE_BATCH = "segfed without privacy", "segfed with privacy", "segfed without privacy, one batch"
FEW_PLAIN, FEW_PRIVATE = "few parameters, without privacy", "few parameters, with privacy"
OPACUS = "Opacus's hooks, plain transcription"


def measure_private(settings: Settings) -> dict[str, Any]:
    """Seconds and memory of one step by each, interleaved."""
    found: dict[str, Any] = {"side": settings.private_side}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Worker(
                    partial(private_deeds, name, settings.private_side, settings.device),
                    product=name != OPACUS,
                    threads=settings.threads,
                )
            )
            for name in _STEPS
        }
        found["process_mb"] = {name: worker.ask("memory") for name, worker in workers.items()}
        seconds = interleaved({n: partial(w.ask, "step") for n, w in workers.items()}, settings.slow_repeats)
        found["tensors_mb"] = {name: worker.ask("tensors") for name, worker in workers.items()}
    found["seconds"] = {name: series.seconds for name, series in seconds.items()}
    found["cost"] = 1 / times_as_fast(seconds[PLAIN], seconds[PRIVATE])
    found["cost_over_one_batch"] = 1 / times_as_fast(seconds[ONE_BATCH], seconds[PRIVATE])
    found["cost_of_few"] = 1 / times_as_fast(seconds[FEW_PLAIN], seconds[FEW_PRIVATE])
    found["times_opacus"] = times_as_fast(seconds[OPACUS], seconds[PRIVATE])
    found["memory"] = found["tensors_mb"][PRIVATE] / found["tensors_mb"][PLAIN]
    return found


def describe_private(found: Mapping[str, Any]) -> str:
    """The section in Markdown."""
    rows = [
        (name, spoken(Series(seconds)), f"{found['tensors_mb'][name]:.0f} MB", f"{found['process_mb'][name]:.0f} MB")
        for name, seconds in found["seconds"].items()
    ]
    head = (
        f"{PATIENTS} patients of {CROPS} patches, cubes of {found['side']}, everything trained. A private step takes "
        f"{found['cost']:.2f} times as long as the same step without privacy ({found['cost_over_one_batch']:.2f} times "
        f"one whose patches are one batch) and {found['memory']:.2f} times its tensors' memory, and is "
        f"{found['times_opacus']:.1f} times as fast as Opacus's hooks. With the parameters that private runs train by "
        f"default it takes {found['cost_of_few']:.2f} times as long.\n\n"
    )
    return head + table(("step", "time", "tensors' peak", "process grew by"), rows)


def private_deeds(name: str, side: int, device_name: str) -> Deeds:
    """What one contender's process does."""
    device = torch.device(device_name)
    step = _STEPS[name](_patients(side, device), device)
    return {
        "step": lambda _: seconds_of(step, device),
        "memory": lambda _: process_peak_mb(lambda: (step(), step())),
        "tensors": lambda _: tensor_peak_mb(lambda: (step(), step()), device),
    }


Patients = list[tuple[Tensor, Tensor]]


def _patients(side: int, device: torch.device) -> Patients:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(PATIENTS, CROPS, CONTRASTS, side, side, side, generator=generator).to(device)
    labels = torch.randint(CLASSES, (PATIENTS, CROPS, side, side, side), generator=generator).to(device)
    return list(zip(images, labels, strict=True))


def _network(device: torch.device, few: bool = False) -> SegFormer3D:
    torch.manual_seed(0)
    network = SegFormer3D(CONTRASTS, CLASSES, norm="group").to(device).train()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not few or PrivacySettings(epsilon=1.0).trains(name))
    return network


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _backward(network: nn.Module, image: Tensor, label: Tensor, share: float) -> float:
    loss = F.cross_entropy(network(image), label) * share
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(_trained(network), lr=1e-4, fused=True)


def _plain_step(patients: Patients, device: torch.device, *, few: bool = False) -> Callable[[], None]:
    """The gradients of all patients are added up, one batch a patient."""
    network = _network(device, few)
    optimizer = _optimizer(network)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for image, label in patients:
            _backward(network, image, label, 1 / PATIENTS)
        optimizer.step()

    return step


def _one_batch(patients: Patients, device: torch.device) -> Callable[[], None]:
    image, label = torch.cat([image for image, _ in patients]), torch.cat([label for _, label in patients])
    network = _network(device)
    optimizer = _optimizer(network)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        _backward(network, image, label, 1.0)
        optimizer.step()

    return step


def _private_step(patients: Patients, device: torch.device, *, few: bool = False) -> Callable[[], None]:
    network = _network(device, few)
    optimizer = _optimizer(network)
    gradients = PatientGradients(
        _trained(network), clip=1.0, noise_multiplier=1.0, expected=PATIENTS, noise=SecureNoise()
    )
    units = [lambda _, image=image, label=label: _backward(network, image, label, 1.0) for image, label in patients]

    def step() -> None:
        private_step(gradients, units, 1.0, optimizer, 0)

    return step


def _opacus_step(patients: Patients, device: torch.device) -> Callable[[], None]:
    """Its unit is the sample of a batch: a patch here, which makes no claim about patients, and the same work."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from opacus.validators import ModuleValidator

    torch.manual_seed(0)
    network = GradSampleModule(ModuleValidator.fix(PlainSegFormer3D(CONTRASTS, CLASSES)).to(device).train())
    inner = _optimizer(network)
    optimizer = DPOptimizer(inner, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=PATIENTS * CROPS)
    image, label = torch.cat([image for image, _ in patients]), torch.cat([label for _, label in patients])

    def step() -> None:
        optimizer.zero_grad()
        _backward(network, image, label, 1.0)
        optimizer.step()

    return step


_STEPS: Mapping[str, Callable[[Patients, torch.device], Callable[[], None]]] = {
    PLAIN: _plain_step,
    ONE_BATCH: _one_batch,
    PRIVATE: _private_step,
    FEW_PLAIN: partial(_plain_step, few=True),
    FEW_PRIVATE: partial(_private_step, few=True),
    OPACUS: _opacus_step,
}
