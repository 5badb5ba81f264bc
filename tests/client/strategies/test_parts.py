"""The sites' parts of strategies. Oracles: quadratic losses whose optima are known, the papers' own formulas."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.strategies.feddyn import Dynamic
from client.strategies.local import in_turn
from client.strategies.proximal import proximal_pull
from client.strategies.rule import LocalRule
from client.strategies.scaffold import Control
from segformer3d.config import ModelConfig
from segformer3d.errors import ConfigurationError
from segformer3d.model import SegFormer3D
from segformer3d.norms import norm_names, norms_of, put_norms
from segformer3d.training import Adjust
from server.strategies.dynamic import dynamic_step
from server.strategies.scaffold import mean_control, renewed_sum

RATE, STEPS = 0.05, 40
# Two hospitals that want different things, and not as much: curvature · (w - optimum)² / 2 in two coordinates.
CURVATURE = torch.tensor([[1.0, 4.0], [3.0, 1.0]], dtype=torch.float64)
OPTIMUM = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
BEST = (CURVATURE * OPTIMUM).sum(0) / CURVATURE.sum(0)  # of both together: (0.75, 0.4)


def descend(parameter: nn.Parameter, site: int, adjust: Adjust | None, steps: int = STEPS) -> None:
    """Plain gradient descent on a site's loss, with what a rule does to its gradients."""
    for _ in range(steps):
        parameter.grad = CURVATURE[site] * (parameter.detach() - OPTIMUM[site])
        if adjust is not None:
            adjust()
        with torch.no_grad():
            parameter -= RATE * parameter.grad


def parameter_at(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.clone())


def test_plain_averaging_misses_the_optimum_of_both() -> None:
    x = torch.zeros(2, dtype=torch.float64)
    for _ in range(200):
        local = [parameter_at(x) for _ in range(2)]
        for site, parameter in enumerate(local):
            descend(parameter, site, None)
        x = torch.stack([p.detach() for p in local]).mean(0)
    assert (x - BEST).abs().max() > 0.1


def test_scaffold_reaches_the_optimum_of_both() -> None:
    x, total = torch.zeros(2, dtype=torch.float64), {"w": np.zeros(2)}
    own: list[dict[str, Tensor]] = [{"w": torch.zeros(2, dtype=torch.float64)} for _ in range(2)]
    for _ in range(150):
        moved, changes = [], []
        common = torch.tensor(mean_control(total, sites=2)["w"])
        for site in range(2):
            parameter = parameter_at(x)
            control = Control({"w": parameter}, own[site], {"w": common})
            descend(parameter, site, control.correct)
            moved.append(parameter.detach())
            changes.append({"w": control.change()["w"].numpy()})
            own[site] = control.kept(control.change())
        x, total = torch.stack(moved).mean(0), renewed_sum(total, changes)
    torch.testing.assert_close(x, BEST, atol=1e-6, rtol=0)


def test_scaffolds_mean_gradient_is_the_papers_second_way() -> None:
    """For plain descent: c_i - c + (x - y) / (K rate)."""
    x, c_i, c = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, -0.2], [0.5, 0.1], [-0.4, 0.2]))
    parameter = parameter_at(x)
    control = Control({"w": parameter}, {"w": c_i}, {"w": c})
    descend(parameter, 1, control.correct, steps=7)
    expected = c_i - c + (x - parameter.detach()) / (7 * RATE)
    torch.testing.assert_close(control.change()["w"], expected - c_i, atol=1e-12, rtol=0)
    torch.testing.assert_close(control.kept(control.change())["w"], expected, atol=1e-12, rtol=0)


def test_feddyn_reaches_the_optimum_of_both() -> None:
    alpha, x, memory = 1.0, torch.zeros(2, dtype=torch.float64), None
    own: list[dict[str, Tensor]] = [{}, {}]
    for _ in range(150):
        moved = []
        for site in range(2):
            parameter = parameter_at(x)
            dynamic = Dynamic({"w": parameter}, own[site], alpha)
            descend(parameter, site, dynamic.correct)
            moved.append(parameter.detach())
            own[site] = dynamic.renewed({"w": parameter.detach() - x})
        mean = torch.stack(moved).mean(0)
        step, memory = dynamic_step((mean - x).numpy(), memory, alpha, answered=2, sites=2)
        x = x + torch.tensor(step)
    torch.testing.assert_close(x, BEST, atol=1e-6, rtol=0)


def test_feddyns_gradient_by_hand() -> None:
    """g - h + alpha (w - x): at first 0 + 0; moved by (1, 1), alpha 0.5, h (0.25, -1): + 0.25, + 1.5."""
    parameter = parameter_at(torch.zeros(2))
    dynamic = Dynamic({"w": parameter}, {"w": torch.tensor([0.25, -1.0])}, 0.5)
    with torch.no_grad():
        parameter += 1.0
    parameter.grad = torch.zeros(2)
    dynamic.correct()
    torch.testing.assert_close(parameter.grad, torch.tensor([0.25, 1.5]))
    torch.testing.assert_close(dynamic.renewed({"w": parameter.detach()})["w"], torch.tensor([-0.25, -1.5]))


def test_the_proximal_optimum_lies_between() -> None:
    """Of a (w - b)² / 2 + mu (w - x)² / 2: (a b + mu x) / (a + mu)."""
    x, mu = torch.tensor([5.0, 5.0], dtype=torch.float64), 2.0
    parameter = parameter_at(x)
    descend(parameter, 1, proximal_pull([parameter], mu), steps=500)
    expected = (CURVATURE[1] * OPTIMUM[1] + mu * x) / (CURVATURE[1] + mu)
    torch.testing.assert_close(parameter.detach(), expected, atol=1e-9, rtol=0)


def test_fedprox_at_two_sites_ends_where_their_pulls_do() -> None:
    """Sites that go to the optimum of a (w - b)² / 2 + mu (w - x)² / 2 and are averaged come to rest at

        x = Σ a b / (a + mu) / Σ a / (a + mu).

    With mu = 1 that is (3/4) / (1/2 + 3/4) = 0.6 and (2/2) / (4/5 + 1/2) = 10/13; without, the mean of both optima,
    where they are after one round. Steps shrink what is off by 0.9 and by 0.95 each, rounds by 0.4: to 1e-6 and less.
    """
    for mu, expected, rounds, steps in ((1.0, [0.6, 10 / 13], 20, 180), (0.0, [0.5, 1.0], 2, 300)):
        x = torch.zeros(2, dtype=torch.float64)
        for _ in range(rounds):
            local = [parameter_at(x) for _ in range(2)]
            for site, parameter in enumerate(local):
                descend(parameter, site, proximal_pull([parameter], mu), steps=steps)
            x = torch.stack([p.detach() for p in local]).mean(0)
        torch.testing.assert_close(x, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_pull_towards_something_else() -> None:
    parameter = parameter_at(torch.zeros(2))
    parameter.grad = torch.ones(2)
    proximal_pull([parameter], 2.0, [torch.tensor([1.0, -1.0])])()
    torch.testing.assert_close(parameter.grad, torch.tensor([-1.0, 3.0]))


def test_a_frozen_parameter_is_left_alone() -> None:
    parameter = parameter_at(torch.zeros(2))
    adjust = in_turn([proximal_pull([parameter], 1.0), Dynamic({"w": parameter}, {}, 1.0).correct])
    assert adjust is not None
    adjust()
    assert parameter.grad is None
    assert in_turn([]) is None


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_all_norms_stay_and_nothing_else(tiny_config: ModelConfig, norm: str) -> None:
    config = ModelConfig.from_json({**tiny_config.to_json(), "norm": norm})
    torch.manual_seed(0)
    ours, theirs = SegFormer3D(**config.to_json()), SegFormer3D(**config.to_json())
    with torch.no_grad():
        for value in (*theirs.parameters(), *(b for b in theirs.buffers() if b.is_floating_point())):
            value.add_(1.0)
    names = norm_names(ours)
    assert any("norm" in name for name in names)
    assert (norm == "batch") == any(name.endswith("running_var") for name in names)
    kept = norms_of(ours)
    put_norms(theirs, kept)
    own, mixed = ours.state_dict(), theirs.state_dict()
    same = {name for name in own if torch.equal(own[name], mixed[name])}
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    assert same - counters == set(names) - counters
    put_norms(theirs, {})
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in mixed.items())
    kept[sorted(names)[0]] += 1
    assert not np.array_equal(kept[sorted(names)[0]].numpy(), own[sorted(names)[0]].numpy()), "a copy"


def test_a_rule_comes_back_from_json() -> None:
    rule = LocalRule(proximal=0.1, local_norms=True, personal=2.0)
    assert LocalRule.from_json(rule.to_json()) == rule
    assert rule.remembers
    assert not LocalRule(proximal=0.1).remembers


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mu": 1}, "has no 'mu'; known are proximal"),
        ({"proximal": float("nan")}, "proximal of a strategy must be in"),
        ({"personal": "much"}, "personal of a strategy must be in"),
        ({"control": 1}, "control of a strategy must be true or false"),
        ({"control": True, "dynamic": 0.1}, "choose one"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said(values: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        LocalRule.from_json(values)
