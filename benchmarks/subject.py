"""What a contender's process does: build its network, then passes, steps and counts as it is asked."""

from functools import partial

import torch
from flwr.app import RecordDict
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.contenders import CLASSES, CONTRASTS, Contender, build_network
from benchmarks.counting import multiply_accumulates
from benchmarks.worker import Deeds, process_peak_mb, seconds_of, tensor_peak_mb
from client.weights import encode_weights
from server.records import message_bytes


def network_deeds(contender: Contender, device: str) -> Deeds:
    """Each takes the side of the cubes; times are in seconds, memory in MB."""
    subject = _Subject(contender, torch.device(device))
    return {
        "forward": partial(_forward_seconds, subject),
        "step": partial(_step_seconds, subject),
        "facts": partial(_facts, subject),
        "forward memory": lambda side: process_peak_mb(lambda: _forward_seconds(subject, side)),
        "step memory": lambda side: process_peak_mb(lambda: _two_steps(subject, side)),
        "step tensors": lambda side: tensor_peak_mb(lambda: _two_steps(subject, side), subject.device),
    }


class _Subject:
    """A contender's network, rebuilt when the side changes if it must know it."""

    def __init__(self, contender: Contender, device: torch.device) -> None:
        self.contender, self.device = contender, device
        self._network: nn.Module | None = None
        self._side = 0
        self._optimizer: torch.optim.Optimizer | None = None

    def network(self, side: int) -> nn.Module:
        if self._network is None or (self._side != side and self.contender.network == "UNETR"):
            self._network, self._side, self._optimizer = build_network(self.contender.network, side), side, None
        return self._network.to(self.device)

    def forward(self, image: Tensor) -> Tensor:
        dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        with torch.autocast(self.device.type, dtype=dtype, enabled=self.contender.half):
            logits: Tensor = self.network(image.shape[-1])(image)
        return logits

    def step(self, image: Tensor, label: Tensor) -> None:
        network = self.network(image.shape[-1]).train()
        if self._optimizer is None:
            self._optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
        self._optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.forward(image).float(), label).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def _image(subject: _Subject, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, CONTRASTS, side, side, side, generator=generator).to(subject.device)


def _forward_seconds(subject: _Subject, side: int) -> float:
    image = _image(subject, side)
    subject.network(side).eval()
    with torch.inference_mode():
        return seconds_of(lambda: subject.forward(image), subject.device)


def _step_seconds(subject: _Subject, side: int) -> float:
    image, label = _image(subject, side), torch.zeros(1, side, side, side, dtype=torch.long, device=subject.device)
    label[:, ::2] = CLASSES - 1
    return seconds_of(lambda: subject.step(image, label), subject.device)


def _two_steps(subject: _Subject, side: int) -> None:
    """The second has gradients and moments from the start."""
    for _ in range(2):
        _step_seconds(subject, side)


def _facts(subject: _Subject, side: int) -> dict[str, int]:
    network = subject.network(side)
    weights = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_accumulates": multiply_accumulates(network, _image(subject, side)),
        "update_bytes": sum(value.nbytes for value in weights.values()),
        "message_bytes": message_bytes(RecordDict({"arrays": encode_weights(weights)})),
    }
