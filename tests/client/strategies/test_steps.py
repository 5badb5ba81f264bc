"""What the optimizer sees in every step of a site under a rule. Oracle: the papers' gradients, after clipping."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from client.contract import TrainRequest
from client.phases import train_site
from client.strategies.rule import LocalRule
from client.weights import Weights, is_buffer, weights_of
from segformer3d.checkpoint import load
from segformer3d.model import build
from tests.client.tiny_site import TINY_MODEL, tiny_site, tiny_weights, train_request

pytestmark = pytest.mark.usefixtures("no_site_remembered")


@dataclass(frozen=True)
class Seen:
    """What an optimizer is about to step with: the model's values and gradients, and the steps that lie behind it."""

    values: np.ndarray
    gradients: np.ndarray
    behind: int

    def without_pull(self, strength: float, towards: Weights) -> float:
        """The norm of the gradient without strength · (w - w0)."""
        rest = self.gradients - strength * (self.values - _flat(towards))
        return float(np.sqrt(np.square(rest, dtype=np.float64).sum()))


Steps = dict[torch.optim.Optimizer, list[Seen]]


@pytest.fixture
def seen() -> Iterator[Steps]:
    """The steps of each optimizer, in the order of their first."""
    found: Steps = {}

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        (group,) = optimizer.param_groups
        values, gradients = (
            torch.cat([part.detach().reshape(-1) for part in parts]).numpy().copy()
            for parts in (group["params"], [parameter.grad for parameter in group["params"]])
        )
        states = [optimizer.state[parameter] for parameter in group["params"]]
        behind = int(states[0]["step"]) if states[0] else 0
        found.setdefault(optimizer, []).append(Seen(values, gradients, behind))

    handle = register_optimizer_step_pre_hook(look)
    yield found
    handle.remove()


def _flat(weights: Weights) -> np.ndarray:
    return np.concatenate([weights[name].reshape(-1) for name, _ in build(TINY_MODEL).named_parameters()])


CLIP = 1e-3  # below every gradient's norm here: what is left of the data's gradient is exactly as long


def _clipped(request: TrainRequest, rule: LocalRule) -> TrainRequest:
    training = replace(request.training, gradient_clip=CLIP, learning_rate=1e-2, warmup=0.0)
    return replace(request, training=training, rule=rule, local_epochs=2)


def test_fedprox_pulls_after_clipping(tmp_path: Path, seen: Steps) -> None:
    train_site(tiny_site(tmp_path), _clipped(train_request(1), LocalRule(proximal=3.0)), "")
    (steps,) = seen.values()
    assert len(steps) > 2
    assert [step.without_pull(3.0, tiny_weights()) for step in steps] == pytest.approx([CLIP] * len(steps), rel=1e-2)
    assert steps[-1].without_pull(0.0, tiny_weights()) > 10 * CLIP, "the pull itself is not clipped"


def test_scaffold_notes_clipped_gradients(tmp_path: Path) -> None:
    """Their mean is no longer than one of them, which the server counts on."""
    zeros = {name: np.zeros_like(value) for name, value in tiny_weights().items() if not is_buffer(name)}
    request = replace(_clipped(train_request(1), LocalRule(control=True)), control=zeros)
    control = train_site(tiny_site(tmp_path), request, "").control
    assert control is not None
    assert 0 < np.linalg.norm(_flat({**tiny_weights(), **control})) <= CLIP * 1.001


def test_dittos_own_model_goes_on_and_is_pulled_to_what_was_received(tmp_path: Path, seen: Steps) -> None:
    """Each step's gradient is the data's, clipped, and lambda (v - x): v from the round before, x of this round."""
    site, rule = tiny_site(tmp_path), LocalRule(personal=3.0)
    models = [tiny_weights(), tiny_weights(seed=3)]
    for number, model in enumerate(models, start=1):
        train_site(site, _clipped(train_request(number, model), rule), "")
    _, first, _, second = seen.values()  # the global model's, and the site's own, in two rounds
    assert [len(steps) for steps in seen.values()] == [len(first)] * 4
    for steps, received in zip((first, second), models, strict=True):
        lengths = [step.without_pull(3.0, received) for step in steps]
        assert lengths == pytest.approx([CLIP] * len(steps), rel=1e-2)
    kept = weights_of(load(site.work / "run-1" / "personal-0001.safetensors"))
    assert np.array_equal(first[0].values, _flat(models[0]))
    assert np.array_equal(second[0].values, _flat(kept))
    assert (first[0].behind, second[0].behind) == (0, len(first)), "its moments go on, too"
