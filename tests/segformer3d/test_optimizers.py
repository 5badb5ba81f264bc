"""Optimizers without PyTorch's compiler. Oracle: PyTorch's own, to the last bit."""

import pytest
import torch
from torch import Tensor, nn

from segformer3d import optimizers


def trained(optimizer: torch.optim.Optimizer, network: nn.Linear, inputs: Tensor) -> dict[str, Tensor]:
    """The weights after three steps, and what the optimizer remembers."""
    for _ in range(3):
        optimizer.zero_grad()
        network(inputs).square().sum().backward()
        optimizer.step()
    remembered = {f"{key}-{n}": v for n, state in enumerate(optimizer.state.values()) for key, v in state.items()}
    return {**network.state_dict(), **remembered}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdamW", {"fused": True, "weight_decay": 0.1}),
        ("AdamW", {"weight_decay": 0.1}),
        ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ],
)
def test_they_compute_what_pytorchs_do(name: str, options: dict[str, float]) -> None:
    results = []
    for library in (torch.optim, optimizers):
        torch.manual_seed(0)
        network, inputs = nn.Linear(5, 3), torch.randn(4, 5)
        optimizer = getattr(library, name)(network.parameters(), lr=0.01, **options)
        results.append(trained(optimizer, network, inputs))
    theirs, ours = results
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_a_step_is_no_part_of_the_graph() -> None:
    network = nn.Linear(2, 1)
    optimizer = optimizers.AdamW(network.parameters(), lr=0.1)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert network.weight.is_leaf
    optimizer.zero_grad()
    assert network.weight.grad is None
