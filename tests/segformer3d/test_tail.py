"""Norm, activation and linear layer in one: PyTorch's own three are the oracle, in float64."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segformer3d.layers import apply_norm, make_norm
from segformer3d.tail import norm_activate_linear


def parts(kind: str = "batch") -> tuple[Any, nn.Linear]:
    torch.manual_seed(0)
    norm, linear = make_norm(kind, 8).double(), nn.Linear(8, 5).double()
    for parameter in (*norm.parameters(), *linear.parameters()):
        nn.init.normal_(parameter)
    return norm, linear


def outcome(x: Tensor, norm: Any, activation: Any, linear: nn.Linear, ours: bool) -> list[Tensor]:
    """The output, every gradient and every buffer."""
    x = x.clone().requires_grad_()
    y = norm_activate_linear(x, norm, activation, linear) if ours else linear(activation(apply_norm(norm, x)))
    gradients = torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum() + y.square().sum(), [
        x, *norm.parameters(), *linear.parameters()
    ])  # fmt: skip
    return [y.detach(), *gradients, *norm.buffers()]


@pytest.mark.parametrize("activation", [F.gelu, F.relu])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["batch", "group"])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (1, 1, 1, 2)])
@pytest.mark.parametrize("block", [8, 100, 2**18])
def test_it_is_the_three_layers_one_after_another(
    activation: Any, training: bool, kind: str, size: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segformer3d.tail.BLOCK", block)
    norm, linear = parts(kind)
    norm.train(training)
    x = 3 + 2 * torch.randn(*size, 8, dtype=torch.float64)
    theirs = outcome(x, copy.deepcopy(norm), activation, linear, ours=False)
    ours = outcome(x, norm, activation, linear, ours=True)
    assert len(ours) == len(theirs)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-9)


def test_one_value_a_channel_is_a_legal_batch() -> None:
    norm, linear = parts()
    x = torch.randn(1, 1, 1, 1, 8, dtype=torch.float64)
    before = norm.running_mean.clone()
    assert norm_activate_linear(x, norm.train(), F.gelu, linear).shape == (1, 1, 1, 1, 5)
    assert torch.equal(norm.running_mean, before)


def test_only_what_goes_in_is_remembered() -> None:
    norm, linear = parts()
    x = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    wide: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        if tensor.numel() == x.numel():
            wide.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        norm_activate_linear(x, norm.train(), F.gelu, linear)
    assert wide == [(50, 8)]
