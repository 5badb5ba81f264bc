"""Strategies. Oracles: two sites worked by hand, Flower's own classes, properties of robust centres, resumed states."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.app.message.message import make_message
from flwr.serverapp.strategy import FedAvg, FedAvgM, FedMedian, FedTrimmedAvg, FedYogi, MultiKrum
from hypothesis import given
from hypothesis import strategies as st

from client.contract import TrainReply
from client.exchange.settings import named_exchange
from client.weights import Weights
from segformer3d.errors import ConfigurationError
from segformer3d.training_reports import TrainingReport, ValidationReport
from server.aggregation import AggregationState, apply, common_control, final_weights, init
from server.federation import norms_kept
from server.strategies.krum import chosen_sites
from server.strategies.nova import nova_coefficients
from server.strategies.strategy import (
    PRESETS,
    Strategy,
    check_exchange,
    check_private,
    named_strategy,
    strategy_from_json,
)

F4 = np.float32
GLOBAL = {"w": np.array([1.0, 2.0], F4), "bn.running_mean": np.array([9.0], F4)}


def reply(
    site: str,
    update: Weights,
    *,
    cases: int = 1,
    steps: int = 1,
    loss: float = 1.0,
    control: Weights | None = None,
) -> TrainReply:
    training, validation = TrainingReport(1.0, cases, cases, steps, 1.0), ValidationReport((0.5,), loss, 1, 0.0)
    return TrainReply(site, "r", 1, update, training, validation, control=control)


def moved(*change: float, mean: float = 0.0) -> Weights:
    return {"w": np.array(change, F4), "bn.running_mean": np.array([mean], F4)}


def after(strategy: Strategy, rounds: list[list[TrainReply]], sites: int | None = None) -> AggregationState:
    state = init(GLOBAL, strategy)
    for replies in rounds:
        state, _ = apply(state, replies, strategy, sites)
    return state


A, B = reply("a", moved(4.0, 0.0), cases=1), reply("b", moved(0.0, -4.0, mean=4.0), cases=3)
# Shares 1/4 and 3/4: the mean update is (1, -3).


# --- Two sites by hand -----------------------------------------------------------------------------------------------


def test_momentum_carries_the_last_step_on() -> None:
    strategy = replace(named_strategy("fedavgm"), momentum=0.5)
    state = after(strategy, [[A, B], [A, B]])
    # v1 = (1, -3), x1 = (2, -1); v2 = 0.5 v1 + (1, -3) = (1.5, -4.5), x2 = (3.5, -5.5).
    np.testing.assert_array_equal(state.weights["w"], np.array([3.5, -5.5], F4))
    np.testing.assert_array_equal(state.weights["bn.running_mean"], np.array([3.0], F4))
    # v3 = 0.5 v2 + (1, -3) = (1.75, -5.25), x3 = (5.25, -10.75): a quarter of the first update is still in it.
    third = after(strategy, [[A, B]] * 3)
    np.testing.assert_array_equal(third.weights["w"], np.array([5.25, -10.75], F4))


def test_adam_scales_steps_by_what_they_were() -> None:
    strategy = replace(named_strategy("fedadam"), momentum=0.5, second=0.75, floor=0.5, server_rate=1.0)
    state = after(strategy, [[A, B]])
    # m = 0.5 (1, -3); v = 0.25 (1, 9), √v = (0.5, 1.5); step = (0.5 / 1, -1.5 / 2) = (0.5, -0.75).
    np.testing.assert_array_equal(state.weights["w"], np.array([1.5, 1.25], F4))
    again = after(strategy, [[A, B], [A, B]])
    # m = 0.75 (1, -3); v = 0.75 · 0.25 (1, 9) + 0.25 (1, 9) = 0.4375 (1, 9).
    expected = np.array([1.5 + 0.75 / (0.4375**0.5 + 0.5), 1.25 - 2.25 / (3 * 0.4375**0.5 + 0.5)])
    np.testing.assert_allclose(again.weights["w"], expected, rtol=1e-6)
    np.testing.assert_array_equal(state.weights["bn.running_mean"], np.array([3.0], F4))


def test_yogi_lets_squares_shrink_slowly() -> None:
    strategy = replace(named_strategy("fedyogi"), momentum=0.0, second=0.75, floor=0.5, server_rate=1.0)
    big, small = reply("a", moved(4.0, 4.0)), reply("a", moved(1.0, 1.0))
    state = after(strategy, [[big], [small]])
    # v1 = 0 + 0.25 · 16 = 4, step 4 / 2.5 = 1.6; v2 = 4 - 0.25 · 1 = 3.75, step 1 / (√3.75 + 0.5).
    expected = np.array([1.0, 2.0]) + 1.6 + 1 / (np.sqrt(3.75) + 0.5)
    np.testing.assert_allclose(state.weights["w"], expected, rtol=1e-6)
    np.testing.assert_array_equal(state.memory["second"]["w"], np.array([3.75, 3.75], F4))


def test_nova_averages_directions() -> None:
    slow, quick = reply("a", moved(4.0, 0.0), steps=1), reply("b", moved(0.0, 9.0), steps=3)
    state = after(named_strategy("fednova"), [[slow, quick]])
    # Shares 1/2: a mean site takes 2 steps. 2 · (1/2 · (4, 0) / 1 + 1/2 · (0, 9) / 3) = (4, 3).
    np.testing.assert_allclose(state.weights["w"], np.array([5.0, 5.0]), rtol=1e-7)
    # Shares 1/4 and 3/4: a mean site takes 2.5 steps. 2.5 · (1/4 · (4, 0) / 1 + 3/4 · (0, 9) / 3) = (2.5, 5.625).
    many = reply("b", moved(0.0, 9.0), steps=3, cases=3)
    state = after(named_strategy("fednova"), [[slow, many]])
    np.testing.assert_allclose(state.weights["w"], np.array([3.5, 7.625]), rtol=1e-7)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 99), min_size=1, max_size=6))
def test_nova_is_plain_averaging_where_all_take_as_many_steps(cases: dict[str, int]) -> None:
    shares = {site: number / sum(cases.values()) for site, number in cases.items()}
    assert nova_coefficients(shares, dict.fromkeys(cases, 7)) == pytest.approx(shares)


def test_feddyn_goes_on_until_the_sites_agree() -> None:
    strategy = strategy_from_json({"name": "feddyn", "dynamic": 0.5})
    state = after(strategy, [[A, B]])
    # Equal shares: Δ = (2, -2). h = -0.5 Δ, kept is 2 h, the step is Δ - h / 0.5 = 2 Δ.
    np.testing.assert_array_equal(state.weights["w"], np.array([5.0, -2.0], F4))
    np.testing.assert_array_equal(state.memory["dynamic"]["w"], np.array([-2.0, 2.0], F4))
    still = reply("a", moved(0.0, 0.0)), reply("b", moved(0.0, 0.0))
    again, _ = apply(state, still, strategy)
    np.testing.assert_array_equal(again.weights["w"], np.array([7.0, -4.0], F4))


def test_an_absent_site_counts_in_feddyns_memory() -> None:
    strategy = strategy_from_json({"name": "feddyn", "dynamic": 0.5})
    state, _ = apply(init(GLOBAL, strategy), [A], strategy, sites=2)
    # Its update is (4, 0): the sum is -0.5 · (4, 0), h half of it, and the step (4, 0) - h / 0.5 = (6, 0).
    np.testing.assert_array_equal(state.memory["dynamic"]["w"], np.array([-2.0, 0.0], F4))
    np.testing.assert_array_equal(state.weights["w"], GLOBAL["w"] + np.array([6.0, 0.0], F4))


def test_scaffold_sends_the_mean_of_all_control_variates() -> None:
    strategy = named_strategy("scaffold")
    first = reply("a", moved(4.0, 0.0), control={"w": np.array([2.0, 0.0], F4)})
    second = reply("b", moved(0.0, -4.0), control={"w": np.array([0.0, 6.0], F4)})
    np.testing.assert_array_equal(init(GLOBAL, strategy).memory["control"]["w"], np.zeros(2, F4))
    state, _ = apply(init(GLOBAL, strategy), [first, second], strategy, sites=4)
    # Two of four answered: 2/4 · mean((2, 0), (0, 6)) = (0.5, 1.5); equal shares move x by (2, -2).
    for sites, mean in ((4, [0.5, 1.5]), (5, [0.4, 1.2])):  # one more has joined, and told nought
        control = common_control(state, sites)
        assert control is not None
        np.testing.assert_array_equal(control["w"], np.array(mean, F4))
    np.testing.assert_array_equal(state.weights["w"], np.array([3.0, 0.0], F4))


def test_the_average_is_the_model_that_a_run_ends_with() -> None:
    strategy = replace(named_strategy("averaged"), average=0.75)
    one = reply("a", moved(4.0, 0.0))
    state = after(strategy, [[one], [one]])
    # x1 = (5, 2), x2 = (9, 2); the average is 0.75 x1 + 0.25 x2 = (6, 2).
    np.testing.assert_array_equal(final_weights(state)["w"], np.array([6.0, 2.0], F4))
    np.testing.assert_array_equal(state.weights["w"], np.array([9.0, 2.0], F4))


def test_sites_that_are_served_worst_count_more() -> None:
    well, badly = reply("a", moved(4.0, 0.0), loss=1.0), reply("b", moved(0.0, 4.0), loss=3.0)
    _, diagnostics = apply(init(GLOBAL), [well, badly], named_strategy("qfedavg"))
    assert diagnostics.shares == pytest.approx({"a": 0.25, "b": 0.75})
    large = reply("a", moved(4.0, 0.0), cases=6, loss=1.0)  # 6 · 1 against 1 · 3
    _, diagnostics = apply(init(GLOBAL), [large, badly], named_strategy("qfedavg"))
    assert diagnostics.shares == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    unmeasured = reply("c", moved(0.0, 0.0), loss=float("nan"))
    _, diagnostics = apply(init(GLOBAL), [well, badly, unmeasured], named_strategy("qfedavg"))
    assert diagnostics.shares == pytest.approx({"a": 1 / 6, "b": 3 / 6, "c": 2 / 6})


# --- Flower's own ----------------------------------------------------------------------------------------------------


def flowers(strategy: FedAvg, rounds: list[list[TrainReply]]) -> Weights:
    """The parameters after rounds of Flower's strategy, which takes models where ours takes updates."""
    weights = {"w": GLOBAL["w"].astype(np.float64)}
    for number, replies in enumerate(rounds, start=1):
        record = ArrayRecord({name: Array(value) for name, value in weights.items()})
        strategy.current_arrays = weights if isinstance(strategy, FedYogi) else record  # type: ignore[assignment]
        found, _ = strategy.aggregate_train(number, [message(weights, each) for each in replies])
        assert found is not None
        weights = {name: array.numpy() for name, array in found.items()}
    return weights


def message(weights: Weights, each: TrainReply) -> Message:
    local = {name: Array(value + each.update[name].astype(np.float64)) for name, value in weights.items()}
    content = RecordDict({"arrays": ArrayRecord(local), "metrics": MetricRecord({"num-examples": each.training.cases})})
    return make_message(metadata=Metadata(1, each.site, 2, 1, "", "1", 1000.0, 600.0, "train"), content=content)


ROUNDS = [
    [reply("a", moved(0.5, -1.0), cases=2), reply("b", moved(1.5, 2.0), cases=3), reply("c", moved(-1.0, 0.25))],
    [reply("a", moved(-0.5, 1.0), cases=2), reply("b", moved(0.25, 2.0), cases=3), reply("c", moved(3.0, -2.0))],
    [reply("a", moved(2.0, 0.5), cases=2), reply("b", moved(-1.0, -0.75), cases=3), reply("c", moved(0.5, 4.0))],
]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            Strategy("fedavgm", optimizer="momentum", momentum=0.7, server_rate=0.5),
            FedAvgM(server_learning_rate=0.5, server_momentum=0.7),
        ),
        (
            Strategy("fedyogi", optimizer="yogi", momentum=0.9, second=0.8, floor=0.01, server_rate=0.1),
            FedYogi(eta=0.1, beta_1=0.9, beta_2=0.8, tau=0.01),
        ),
        (Strategy("median", centre="median", shares="equal"), FedMedian()),
        (Strategy("trimmed-mean", centre="trimmed-mean", shares="equal"), FedTrimmedAvg(beta=0.34)),
    ],
    ids=lambda value: value.name if isinstance(value, Strategy) else "",
)
def test_flowers_own_class_says_the_same(ours: Strategy, theirs: FedMedian) -> None:
    np.testing.assert_allclose(after(ours, ROUNDS).weights["w"], flowers(theirs, ROUNDS)["w"], rtol=1e-6)


# --- Robust centres --------------------------------------------------------------------------------------------------


HONEST = [reply(f"s{n}", moved(1.0 + 0.01 * n, -1.0 - 0.01 * n, mean=1.0 + n)) for n in range(7)]


@pytest.mark.parametrize("name", ["median", "trimmed-mean", "krum", "norm-bound"])
@pytest.mark.parametrize("scale", [-1.0, -100.0, 1e4])
def test_one_hostile_site_of_eight_moves_a_robust_centre_little(name: str, scale: float) -> None:
    strategy = named_strategy(name)
    hostile = reply("t", moved(scale, -scale, mean=1e6))
    clean, attacked = (after(strategy, [replies]).weights for replies in (HONEST, [*HONEST, hostile]))
    limit = 0.35 if name == "norm-bound" else 0.05  # a bounded site may still pull the other way, as hard as others
    assert np.abs(attacked["w"] - clean["w"]).max() < limit
    assert abs(float(attacked["bn.running_mean"][0] - clean["bn.running_mean"][0])) <= 1.0
    plain = apply(init(GLOBAL), [*HONEST, hostile])[0].weights
    assert np.abs(plain["bn.running_mean"] - clean["bn.running_mean"]).max() > 1e5, "plain averaging breaks"


@pytest.mark.parametrize("name", ["median", "trimmed-mean", "krum", "norm-bound"])
def test_neither_statistics_alone_nor_a_lie_about_cases_move_a_robust_centre(name: str) -> None:
    strategy = named_strategy(name)
    clean = after(strategy, [HONEST]).weights
    poisoned = reply("t", moved(1.0, -1.0, mean=1e6))  # honest but for its statistics
    attacked = after(strategy, [[*HONEST, poisoned]]).weights
    assert abs(float(attacked["bn.running_mean"][0] - clean["bn.running_mean"][0])) <= 1.0
    liar = reply("t", moved(-1.0, 1.0), cases=10_000_000)
    attacked = after(strategy, [[*HONEST, liar]]).weights
    assert np.abs(attacked["w"] - clean["w"]).max() < 0.35, "one of eight, whatever it says"


def test_a_long_update_is_cut_to_the_median_length() -> None:
    """Norms 1, 2 and 8: the median is 2, so (0, 8) counts as (0, 2); the mean of (1, 0), (2, 0), (0, 2) is added."""
    three = [reply("a", moved(1.0, 0.0)), reply("b", moved(2.0, 0.0)), reply("c", moved(0.0, 8.0))]
    state = after(named_strategy("norm-bound"), [three])
    np.testing.assert_allclose(state.weights["w"], np.array([1.0 + 1.0, 2.0 + 2 / 3]), rtol=1e-6)


def test_krum_by_hand() -> None:
    """Of five, for one hostile: the two nearest of each. 0, 1, 3, 4 and 100: scores 1+9, 1+4, 1+4, 1+9, 96²+97²."""
    updates = {site: moved(value, 0.0) for site, value in zip("abcde", (0.0, 1.0, 3.0, 4.0, 100.0), strict=True)}
    assert chosen_sites(updates, hostile=1) == ["a", "b", "c", "d"]
    _, diagnostics = apply(
        init(GLOBAL), [reply(site, update) for site, update in updates.items()], named_strategy("krum")
    )
    assert diagnostics.shares == {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25, "e": 0.0}
    # 0, 1, 6, 7 and 10: scores 1+36, 1+25, 1+16, 1+9, 9+16. By one or three neighbours, or by lengths, e would be out.
    updates = {site: moved(value, 0.0) for site, value in zip("abcde", (0.0, 1.0, 6.0, 7.0, 10.0), strict=True)}
    assert chosen_sites(updates, hostile=1) == ["b", "c", "d", "e"]


@pytest.mark.parametrize("sites", range(5, 10))
def test_flowers_krum_chooses_the_same(sites: int) -> None:
    generator = np.random.default_rng(sites)
    for hostile in range(1, (sites - 3) // 2 + 1):
        replies = [reply(f"s{n}", moved(*generator.normal(0, 1 + n, 2))) for n in range(sites)]
        ours = Strategy("krum", centre="krum", shares="equal", hostile=hostile)
        theirs = MultiKrum(num_malicious_nodes=hostile, num_nodes_to_select=sites - hostile)
        np.testing.assert_allclose(after(ours, [replies]).weights["w"], flowers(theirs, [replies])["w"], rtol=1e-6)


def test_the_median_of_an_even_number_is_the_mean_of_the_two_in_the_middle() -> None:
    """By hand: of -4, 1, 3 and 90 it is 2, of -7, -2, 1 and 6 it is -0.5, of 1, 4, 5 and 8 it is 4.5."""
    four = [
        reply("a", moved(90.0, -2.0, mean=5.0)),
        reply("b", moved(1.0, 6.0, mean=8.0)),
        reply("c", moved(-4.0, 1.0, mean=1.0)),
        reply("d", moved(3.0, -7.0, mean=4.0)),
    ]
    state = after(named_strategy("median"), [four])
    np.testing.assert_array_equal(state.weights["w"], GLOBAL["w"] + np.array([2.0, -0.5], F4))
    np.testing.assert_array_equal(state.weights["bn.running_mean"], np.array([4.5], F4))


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=9), st.floats(-(2.0**99), 2.0**99, width=32))
def test_a_median_lies_among_the_honest(values: list[float], lie: float) -> None:
    replies = [reply(f"s{n}", moved(value, 0.0)) for n, value in enumerate([*values, lie])]
    result = after(named_strategy("median"), [replies]).weights["w"][0] - 1.0
    assert min(values) - 1e-3 <= result <= max(values) + 1e-3


# --- What any strategy keeps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_the_order_of_replies_changes_nothing(name: str) -> None:
    strategy = named_strategy(name)
    zeros = {"w": np.ones(2, F4)}
    replies = [replace(each, control=zeros if strategy.rule.control else None) for each in HONEST]
    one, two = (after(strategy, [order, order]) for order in (replies, replies[::-1]))
    assert all(np.array_equal(one.weights[key], two.weights[key]) for key in one.weights)
    assert all(value.dtype == GLOBAL[key].dtype for key, value in one.weights.items())
    assert not np.array_equal(one.weights["w"], GLOBAL["w"])


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_statistics_of_a_batch_norm_are_pooled_and_never_stepped(name: str) -> None:
    plain, stepped = (after(strategy, [[A, B], [A, B]]) for strategy in (Strategy(), named_strategy(name)))
    np.testing.assert_array_equal(plain.weights["bn.running_mean"], stepped.weights["bn.running_mean"])


def test_plain_averaging_remembers_nothing() -> None:
    assert after(Strategy(), [[A, B]]).memory == {}


# --- Settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_strategy_comes_back_from_json(name: str) -> None:
    strategy = named_strategy(name)
    assert strategy_from_json(strategy.to_json()) == strategy
    assert strategy_from_json(name) == strategy


def test_parts_are_set_beside_the_name() -> None:
    assert strategy_from_json({"name": "fedprox", "proximal": 0.5}).rule.proximal == 0.5
    both = strategy_from_json({"name": "fedprox", "average": 0.9, "optimizer": "momentum"})
    assert (both.rule.proximal, both.average, both.optimizer) == (0.01, 0.9, "momentum")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("fedbest", "there is no strategy 'fedbest'; known are fedavg, fedprox"),
        (7, "strategy must be a name or a table"),
        ({"name": "fedprox", "mu": 1}, "a strategy has no part 'mu'; known are average, centre"),
        ({"centre": "middle"}, "centre of a strategy must be one of mean, median"),
        ({"name": "fedprox", "proximal": -1}, "proximal of a strategy must be in"),
        ({"average": 1.5}, "average of a strategy must be in"),
        ({"hostile": 0}, "hostile of a strategy must be a whole number"),
        ({"name": "scaffold", "centre": "median"}, "SCAFFOLD's control variates are means"),
        ({"name": "scaffold", "dynamic": 0.1}, "both correct a site's drift"),
        ({"name": "feddyn", "optimizer": "adam"}, "FedDyn takes the server's step itself"),
        ({"name": "feddyn", "shares": "cases"}, "FedDyn's memory is an equal mean"),
        ({"name": "feddyn", "normalised": True}, "FedDyn corrects unequal local work itself"),
        ({"name": "feddyn", "server_rate": 0.5}, "FedDyn takes the server's step itself"),
        ({"name": "feddyn", "local_norms": True}, "FedDyn's memory is of a model that all begin a round with"),
        ({"name": "scaffold", "shares": "cases"}, "SCAFFOLD's control variates are an equal mean"),
        ({"name": "scaffold", "normalised": True}, "SCAFFOLD corrects unequal local work itself"),
        ({"name": "krum", "shares": "cases"}, "cannot believe what sites say of themselves"),
        ({"name": "fedavg", "momentum": 0.9}, "momentum of a strategy has no effect unless optimizer is momentum"),
        ({"name": "fedavgm", "floor": 0.1}, "floor of a strategy has no effect unless optimizer is adam or yogi"),
        ({"name": "median", "hostile": 2}, "hostile of a strategy has no effect unless centre is trimmed-mean or krum"),
        ({"rule": 3}, "rule of a strategy must be a table"),
        ({"name": "fedbn", "optimizer": "momentum"}, "take no step of the server's"),
        ({"name": "feddyn", "dynamic": 0}, "feddyn is nothing without its dynamic"),
        ({"name": "scaffold", "control": False}, "scaffold is nothing without its control"),
        ({"name": "averaged", "average": 0}, "averaged is nothing without its average"),
        ({"name": "fednova", "normalised": False}, "fednova is nothing without its normalised"),
        ({"name": "median", "centre": "krum"}, "median is nothing without its centre"),
        ({"name": "fedyogi", "optimizer": "adam"}, "fedyogi is nothing without its optimizer"),
        ({"name": "qfedavg", "shares": "cases"}, "qfedavg is nothing without its shares"),
        ({"normalised": 1}, "normalised of a strategy must be true or false"),
    ],
)
def test_what_is_wrong_with_a_strategy_is_said_in_one_line(asked: object, told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        strategy_from_json(asked)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fedprox", "is said in its privacy settings"),
        ("scaffold", "control variates are made of gradients that the noise does not cover"),
        ("feddyn", "not accounted for"),
        ("fedbn", "outside what is accounted for"),
        ("ditto", "trained on patients without noise"),
        ("qfedavg", "its weights are losses"),
    ],
)
def test_a_private_run_refuses_what_nothing_pays_for(name: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        check_private(named_strategy(name))


@pytest.mark.parametrize(
    "name", ["fedavg", "fedavgm", "fedadam", "fedyogi", "averaged", "median", "trimmed-mean", "krum"]
)
def test_a_private_run_takes_what_only_the_server_does(name: str) -> None:
    check_private(named_strategy(name))


def test_robust_centres_say_how_many_sites_they_need() -> None:
    needed: Mapping[str, int] = {name: named_strategy(name).fewest_sites for name in PRESETS}
    assert {name: number for name, number in needed.items() if number > 1} == {
        "median": 3,
        "trimmed-mean": 3,
        "krum": 5,
        "norm-bound": 3,
    }
    assert Strategy("krum", centre="krum", shares="equal", hostile=2).why_fewest == " (2 hostile + 3, with hostile = 2)"
    assert named_strategy("median").why_fewest == ""


@pytest.mark.parametrize("exchange", ["sparse", "int2"])
def test_a_middle_of_sites_needs_more_than_a_coarse_exchange_leaves(exchange: str) -> None:
    for name in ("median", "trimmed-mean"):
        with pytest.raises(ConfigurationError, match=r"cannot have the exchange .*; choose compact, or krum"):
            check_exchange(named_strategy(name), named_exchange(exchange))
        check_exchange(named_strategy(name), named_exchange("compact"))
    check_exchange(named_strategy("krum"), named_exchange(exchange))


def test_it_is_said_whose_norms_a_model_of_fedbns_has() -> None:
    for asked, told in (
        ({}, "the mean of the sites', each of which has kept its own"),
        ({"centre": "median", "shares": "equal"}, "the median of the sites', each of which has kept its own"),
        ({"centre": "krum", "shares": "equal"}, "the mean of the chosen sites' (running statistics: the median), each"),
        ({"average": 0.8}, "the mean of the sites' (in the last model averaged over rounds), each of which"),
    ):
        assert norms_kept(strategy_from_json({"name": "fedbn", **asked})).startswith(told)
