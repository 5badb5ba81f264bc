"""Federated averaging. Oracles: numbers worked by hand, the variance of pooled samples, Flower's own FedAvg."""

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from hypothesis import given
from hypothesis import strategies as st

from client.contract import TrainReply
from client.weights import Weights, parameter_norm
from segformer3d.training_reports import TrainingReport, ValidationReport
from server.aggregation import apply, init

NOTHING = ValidationReport((0.5,), 1.0, 1, 0.0)
F4 = np.float32


def reply(site: str, cases: int, update: Weights) -> TrainReply:
    return TrainReply(site, "r", 1, update, TrainingReport(1.0, cases, cases, 1, 1.0), NOTHING)


def array(*values: float) -> np.ndarray:
    return np.array(values, F4)


GLOBAL = {
    "w": array(1.0, 2.0),
    "bn.running_mean": array(9.0),
    "bn.running_var": array(9.0),
    "bn.num_batches_tracked": np.array(5),
}
# One case at a, three at b: shares 1/4 and 3/4.
A = {
    "w": array(4.0, 0.0),
    "bn.running_mean": array(0.0),
    "bn.running_var": array(1.0),
    "bn.num_batches_tracked": np.array(9),
}
B = {
    "w": array(0.0, -4.0),
    "bn.running_mean": array(4.0),
    "bn.running_var": array(3.0),
    "bn.num_batches_tracked": np.array(7),
}


def test_two_sites_by_hand() -> None:
    state, diagnostics = apply(init(GLOBAL), [reply("a", 1, A), reply("b", 3, B)])
    # 1 + 4/4 = 2; 2 - 4·3/4 = -1. Mean 0/4 + 4·3/4 = 3. Variance 1/4 + 3·3/4 + (0-3)²/4 + (4-3)²·3/4 = 2.5 + 3 = 5.5.
    np.testing.assert_array_equal(state.weights["w"], array(2.0, -1.0))
    np.testing.assert_array_equal(state.weights["bn.running_mean"], array(3.0))
    np.testing.assert_array_equal(state.weights["bn.running_var"], array(5.5))
    assert state.weights["bn.num_batches_tracked"] == 9
    assert {name: (v.dtype, v.shape) for name, v in state.weights.items()} == {
        name: (v.dtype, v.shape) for name, v in GLOBAL.items()
    }
    assert diagnostics.shares == {"a": 0.25, "b": 0.75}
    assert diagnostics.update_norms == {"a": 4.0, "b": 4.0}
    # The step is (1, -3), whose length is √10; the sites' weighted mean length is 4.
    assert diagnostics.step_norm == pytest.approx(math.sqrt(10))
    assert diagnostics.agreement == pytest.approx(math.sqrt(10) / 4)


def test_nothing_that_was_passed_in_is_changed() -> None:
    before = {name: value.copy() for name, value in GLOBAL.items()}
    apply(init(GLOBAL), [reply("a", 1, A), reply("b", 3, B)])
    assert all(np.array_equal(before[name], GLOBAL[name]) for name in GLOBAL)


def test_one_site_alone_is_its_own_model() -> None:
    state, diagnostics = apply(init(GLOBAL), [reply("a", 3, A)])
    np.testing.assert_array_equal(state.weights["w"], GLOBAL["w"] + A["w"])
    for name in ("bn.running_mean", "bn.running_var", "bn.num_batches_tracked"):
        np.testing.assert_array_equal(state.weights[name], A[name])
    assert diagnostics.agreement == 1.0


def test_pooled_variance_is_the_variance_of_the_pooled_samples() -> None:
    generator = np.random.default_rng(0)
    samples = {f"site-{k}": generator.normal(3 * k, 1 + k, 50 * (k + 1)) for k in range(3)}
    replies = [
        reply(site, len(values), {"bn.running_mean": array(values.mean()), "bn.running_var": array(values.var())})
        for site, values in samples.items()
    ]
    start = {"bn.running_mean": array(0.0), "bn.running_var": array(1.0)}
    pooled = np.concatenate(list(samples.values()))
    weights = apply(init(start), replies)[0].weights
    assert weights["bn.running_mean"][0] == pytest.approx(pooled.mean(), rel=1e-6)
    assert weights["bn.running_var"][0] == pytest.approx(pooled.var(), rel=1e-6)


def test_plain_parameters_agree_with_flowers_fedavg() -> None:
    """Flower averages local weights; global plus the average of the updates is the same in exact arithmetic."""
    generator = np.random.default_rng(1)
    start = {"w": generator.normal(size=(5, 7)).astype(F4)}
    updates = [{"w": generator.normal(size=(5, 7)).astype(F4)} for _ in range(4)]
    cases = [3, 10, 1, 6]
    replies = [reply(f"s{k}", n, update) for k, (n, update) in enumerate(zip(cases, updates, strict=True))]
    theirs = aggregate_arrayrecords(
        [
            RecordDict(
                {"a": ArrayRecord({"w": Array(start["w"] + update["w"])}), "m": MetricRecord({"num-examples": n})}
            )
            for n, update in zip(cases, updates, strict=True)
        ],
        "num-examples",
    )
    np.testing.assert_allclose(apply(init(start), replies)[0].weights["w"], theirs["w"].numpy(), rtol=1e-5, atol=1e-6)


finite = st.floats(-1e6, 1e6, width=32)


@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.lists(finite, min_size=3, max_size=3)), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_the_order_of_replies_does_not_matter_to_the_last_bit(
    sites: list[tuple[int, list[float]]], shuffle: object
) -> None:
    start = {"w": array(0.1, 0.2), "bn.running_mean": array(0.3), "bn.running_var": array(1.0)}
    replies = [
        reply(f"s{k}", n, {"w": array(*v[:2]), "bn.running_mean": array(v[2]), "bn.running_var": array(abs(v[0]))})
        for k, (n, v) in enumerate(sites)
    ]
    first, seen = apply(init(start), replies)
    shuffle.shuffle(replies)  # type: ignore[attr-defined]
    second, seen_again = apply(init(start), replies)
    assert seen == seen_again
    for name in start:
        assert first.weights[name].tobytes() == second.weights[name].tobytes()
        assert np.isfinite(first.weights[name]).all()


def test_the_norm_is_of_parameters_only() -> None:
    assert parameter_norm({"w": array(3.0), "v": array(0.0, 4.0), "bn.running_mean": array(1e9)}) == 5.0
    assert parameter_norm({"w": array(3e38, 3e38)}) == pytest.approx(3e38 * math.sqrt(2), rel=1e-6)
