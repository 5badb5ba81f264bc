"""Epsilon is never below the truth and hardly above it.

Oracles: direct integration of the privacy loss, the Gaussian mechanism's closed form, Opacus's two accountants (with
the error that each of them states), and properties.
"""

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from client.privacy import losses as loss
from client.privacy.accounting import (
    Event,
    calibrate,
    joint_multiplier,
    prv_epsilon,
    rdp_epsilon,
    rounds_that_fit,
    spent,
)
from client.privacy.losses import gaussian_epsilon
from segformer3d.errors import ConfigurationError
from tests.examples import examples

DELTA = 1e-5
STRIDE = 0.02  # of the integration below, in deviations

GRID = [
    (0.5, 2.6, 60),
    (0.01, 1.0, 1000),
    (0.1, 0.6, 10),
    (0.5, 1.0, 1),
    (0.5, 10.0, 60),
    (0.9, 2.0, 20),
    (0.001, 1.0, 100),
    (0.02, 4.0, 20_000),
]

events = st.builds(
    Event,
    sampling_rate=st.floats(0.001, 1.0),
    noise_multiplier=st.floats(0.8, 20.0),
    steps=st.integers(1, 200),
)


def densities(event: Event, removed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the outcomes of one step under both hypotheses, by the midpoint rule."""
    q, z = event.sampling_rate, event.noise_multiplier
    x = np.arange(-10 * z, 10 * z + 1, STRIDE * z)
    without = norm.pdf(x, 0, z) * STRIDE * z
    with_ = (1 - q) * without + q * norm.pdf(x, 1, z) * STRIDE * z
    return (with_, without) if removed else (without, with_)


def integrated(steps: Iterable[Event], delta: float) -> float:
    """Epsilon of one or two steps by integration over all outcomes."""

    def outcomes(removed: bool) -> tuple[np.ndarray, np.ndarray]:
        p, r = np.ones(1), np.ones(1)
        for each in steps:
            own, other = densities(each, removed)
            p, r = np.outer(p, own).ravel(), np.outer(r, other).ravel()
        return p, r

    both = [outcomes(removed) for removed in (True, False)]
    low, high = 0.0, 30.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        needed = max(float(np.maximum(p - math.exp(middle) * r, 0).sum()) for p, r in both)
        low, high = (middle, high) if needed > delta else (low, middle)
    return high


@pytest.mark.parametrize(("q", "z"), [(0.5, 2.6), (0.5, 1.0), (0.01, 0.7), (0.9, 5.0), (0.1, 3.0)])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_one_step_is_the_integral(q: float, z: float, delta: float) -> None:
    step = Event(q, z, 1)
    truth = integrated([step], delta)
    assert truth - 2e-5 - 1e-4 * truth <= spent([step], delta) <= truth * 1.002 + 1e-4


@pytest.mark.parametrize("pair", [((0.5, 2.0), (0.1, 1.0)), ((1.0, 3.0), (0.3, 1.5)), ((0.02, 0.8), (0.02, 0.8))])
def test_two_different_steps_are_the_double_integral(pair: tuple[tuple[float, float], ...]) -> None:
    steps = [Event(q, z, 1) for q, z in pair]
    truth = integrated(steps, DELTA)
    assert truth * 0.999 <= spent(steps, DELTA) <= truth * 1.003


@pytest.mark.parametrize("case", GRID)
def test_opacus_agrees_within_the_error_that_it_states(case: tuple[float, float, int]) -> None:
    """Its upper end is above by eps_error, 0.01, twice over at most; its estimate has the same error downwards."""
    own, opacus = spent([Event(*case)], DELTA), prv_epsilon([Event(*case)], DELTA)
    assert opacus - 0.0205 - 0.001 * own <= own <= opacus + 1e-3 * own


@pytest.mark.parametrize("case", GRID)
def test_renyi_is_above(case: tuple[float, float, int]) -> None:
    assert spent([Event(*case)], DELTA) <= rdp_epsilon([Event(*case)], DELTA)


def test_opacus_agrees_on_different_segments() -> None:
    mixed = [Event(0.5, 2.6, 10), Event(0.1, 1.0, 30), Event(0.3, 3.0, 20), Event(1.0, 20.0, 3)]
    own, opacus = spent(mixed, DELTA), prv_epsilon(mixed, DELTA)
    assert opacus - 0.04 <= own <= opacus + 0.01


def test_published_values() -> None:
    """Abadi et al. 2016: q = 0.01, z = 4, 10,000 steps cost 1.26 by the moments accountant; exact accounting says less.

    Balle and Wang 2018: mu = 1 and delta = 1e-5 give epsilon 4.38 (Dong, Roth and Su 2022, figure 4: 1-GDP).
    """
    assert 0.9 < spent([Event(0.01, 4.0, 10_000)], DELTA) < 1.26
    assert gaussian_epsilon(1.0, DELTA) == pytest.approx(4.3777, abs=1e-3)


@given(st.floats(0.01, 30.0), st.sampled_from([1e-2, 1e-5, 1e-9]))
def test_the_closed_form_solves_its_equation(mu: float, delta: float) -> None:
    epsilon = gaussian_epsilon(mu, delta)
    assume(epsilon > 0)
    left = norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu))
    assert left == pytest.approx(delta, rel=1e-5)


@pytest.mark.parametrize(("z", "steps"), [(4.65, 60), (1.0, 1), (30.0, 1000)])
def test_without_sampling_it_is_the_closed_form_and_the_accountants_are_above(z: float, steps: int) -> None:
    truth = gaussian_epsilon(math.sqrt(steps) / z, DELTA)
    whole = [Event(1.0, z, steps)]
    assert spent(whole, DELTA) == pytest.approx(truth, rel=1e-9)
    assert truth <= prv_epsilon(whole, DELTA) <= truth + 0.0205
    assert truth < rdp_epsilon(whole, DELTA)


@pytest.mark.parametrize(("z", "steps"), [(4.65, 60), (2.0, 3), (30.0, 1000)])
def test_the_grid_meets_the_closed_form_where_nearly_all_are_sampled(z: float, steps: int) -> None:
    truth = gaussian_epsilon(math.sqrt(steps) / z, DELTA)
    grid = loss.grid_epsilon([Event(1 - 1e-9, z, steps)], DELTA)  # `spent` would take the closed form
    assert truth * 0.9999 <= grid <= truth * 1.0003


@given(st.lists(events, min_size=2, max_size=4), st.randoms())
@settings(max_examples=examples(8))
def test_order_and_splitting_do_not_matter(some: list[Event], random: object) -> None:
    shuffled = [half for each in some for half in split(each)]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert spent(shuffled, DELTA) == pytest.approx(spent(some, DELTA), rel=1e-9)


def split(event: Event) -> list[Event]:
    first = event.steps // 2
    parts = [first, event.steps - first] if first else [event.steps]
    return [Event(event.sampling_rate, event.noise_multiplier, steps) for steps in parts]


@given(st.lists(events, min_size=0, max_size=2), events)
@settings(max_examples=examples(5))
def test_more_costs_more(before: list[Event], last: Event) -> None:
    """More steps, less noise, a larger rate, a smaller delta: each but for the grid's own error of 0.2 %."""
    one = spent([*before, last], DELTA)
    assert one >= spent(before, DELTA) * 0.998
    worse = [
        Event(last.sampling_rate, last.noise_multiplier, last.steps * 2),
        Event(last.sampling_rate, last.noise_multiplier / 1.5, last.steps),
        Event(min(1.0, last.sampling_rate * 1.5), last.noise_multiplier, last.steps),
    ]
    assert all(spent([*before, each], DELTA) >= one * 0.998 for each in worse)
    assert spent([*before, last], DELTA / 10) >= one * 0.998


@given(
    epsilon=st.floats(0.2, 20.0),
    delta=st.sampled_from([1e-6, 1e-5, 1e-3]),
    rate=st.floats(0.005, 1.0),
    steps=st.integers(1, 2000),
    before=st.lists(events, max_size=1),
)
@settings(max_examples=examples(5))
def test_calibration_never_exceeds_the_target_and_is_tight(
    epsilon: float, delta: float, rate: float, steps: int, before: list[Event]
) -> None:
    assume(spent(before, delta) < 0.8 * epsilon)
    noise = calibrate(epsilon, delta, rate, steps, before)
    assert noise == float(f"{noise:.4g}")
    assert spent([*before, Event(rate, noise, steps)], delta) <= epsilon
    assert spent([*before, Event(rate, noise * 0.99, steps)], delta) > epsilon or noise < 0.1


def test_what_was_spent_before_needs_more_noise() -> None:
    assert calibrate(8.0, DELTA, 0.5, 60) == pytest.approx(2.466, abs=0.002)
    assert calibrate(8.0, DELTA, 0.5, 60, [Event(0.5, 5.0, 60)]) > 2.6


def test_a_budget_that_only_the_tight_bound_leaves_something_of() -> None:
    """The moments say that it is spent already, the grid that 0.3 are left."""
    before = [Event(0.5, 2.55, 60)]
    assert spent(before, DELTA) < 7.7 < 8 < rdp_epsilon(before, DELTA)
    noise = calibrate(8.0, DELTA, 0.5, 60, before)
    assert 7.98 < spent([*before, Event(0.5, noise, 60)], DELTA) <= 8.0


def test_a_target_that_is_no_privacy_still_gets_some_noise() -> None:
    assert 0 < calibrate(1e6, DELTA, 0.5, 1) < 0.02


def test_a_spent_budget_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigurationError, match=r"no noise keeps 60 steps within epsilon 8 .*spent already; allow"):
        calibrate(8.0, DELTA, 0.5, 60, [Event(0.5, 2.0, 60)])


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5)])
def test_a_target_outside_its_rule(epsilon: float, delta: float) -> None:
    with pytest.raises(ConfigurationError, match="epsilon must be a finite number > 0"):
        calibrate(epsilon, delta, 0.5, 60)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, True, "1e-5"])
def test_a_delta_outside_its_rule(delta: float) -> None:
    with pytest.raises(ConfigurationError, match=r"delta must be a number in \(0, 1\)"):
        spent([Event(0.5, 1.0, 1)], delta)


@pytest.mark.parametrize("steps_per_round", [1, 5])
def test_as_many_rounds_as_fit_and_no_more(steps_per_round: int) -> None:
    before = [Event(0.5, 5.0, 60), Event(0.2, 2.0, 10)]
    rounds = rounds_that_fit(8.0, DELTA, 0.5, 5.0, steps_per_round, before)
    assert rounds > 10
    assert spent([*before, Event(0.5, 5.0, rounds * steps_per_round)], DELTA) <= 8.0
    assert spent([*before, Event(0.5, 5.0, (rounds + 1) * steps_per_round)], DELTA) > 8.0


def test_rounds_end_at_none_and_at_the_cap() -> None:
    assert rounds_that_fit(1.0, DELTA, 0.5, 0.5, 1) == 0
    assert rounds_that_fit(1.0, DELTA, 1e-6, 100.0, 1) == 100_000


@pytest.mark.parametrize("z", [1e-300, 1e-160, 1e-3, 0.01, 0.05])
@pytest.mark.parametrize("q", [1e-6, 0.5, 1.0])
def test_hardly_any_noise_costs_a_great_deal(q: float, z: float) -> None:
    """Where a grid cannot serve there is a bound all the same, and never NaN."""
    cost = spent([Event(q, z, 1)], 1e-9)
    assert cost > 100
    assert cost <= gaussian_epsilon(1 / max(z, 1e-200), 1e-9) * (1 + 1e-9)


@pytest.mark.parametrize("q", [1e-6, 0.5, 1.0])
def test_enormous_noise_costs_nothing_or_little(q: float) -> None:
    assert spent([Event(q, 1e300, 10**6)], DELTA) < 0.02


@pytest.mark.parametrize(
    ("count", "low", "by_moments"), [(30, 33, 39.2), pytest.param(100, 70, 84.2, marks=pytest.mark.slow)]
)
def test_many_different_segments_are_affordable(count: int, low: float, by_moments: float) -> None:
    assert low < spent([Event(0.5, 1 + i / 1000, 3) for i in range(count)], DELTA) < by_moments


def test_a_million_steps_are_affordable() -> None:
    assert spent([Event(0.001, 10.0, 10**6)], DELTA) < rdp_epsilon([Event(0.001, 10.0, 10**6)], DELTA)


def test_a_delta_below_rounding_is_left_to_moments() -> None:
    hard = [Event(0.01, 4.0, 10**5)]
    assert spent(hard, 1e-12) == pytest.approx(rdp_epsilon(hard, 1e-12), rel=0.02)


@pytest.mark.parametrize("removed", [True, False])
def test_a_step_on_the_grid_keeps_the_probabilities_of_both_hypotheses(removed: bool) -> None:
    losses = np.arange(-400, 401) * 0.02
    masses, beyond = loss._masses(losses, Event(0.3, 0.9, 1), removed)
    assert (masses >= 0).all()
    assert masses.sum() + beyond == pytest.approx(1, abs=1e-12)
    assert (masses * np.exp(-losses)).sum() == pytest.approx(1, abs=1e-3)


def test_a_grid_that_ends_too_early_still_bounds() -> None:
    """What it cuts off counts against delta: half of delta lies beyond this one."""
    truth = integrated([Event(0.5, 1.0, 1)], 1e-3)
    own, _ = loss._tails(np.arange(1, 100) * 0.1, Event(0.5, 1.0, 1), removed=True)
    half = int(np.argmax(own < 5e-4)) + 1
    assert half * 0.1 > truth
    cut = loss._directed_epsilon([Event(0.5, 1.0, 1)], 1e-3, half, 0.1, 200.0, removed=True)
    assert truth < cut < math.inf


def test_nothing_costs_nothing() -> None:
    assert spent([], DELTA) == rdp_epsilon([], DELTA) == prv_epsilon([], DELTA) == gaussian_epsilon(0.0, DELTA) == 0


@given(st.floats(0.1, 50.0), st.floats(0.51, 100.0))
def test_a_count_beside_the_gradient_costs_no_more_than_the_gradient_alone(z: float, factor: float) -> None:
    """The two together are one Gaussian mechanism: their mu add as squares, the count's sensitivity is one half."""
    count = z * factor
    joint = joint_multiplier(z, count)
    assert joint > z
    assert math.hypot(1 / joint, 1 / (2 * count)) == pytest.approx(1 / z, rel=1e-9)


def test_a_count_that_costs_as_much_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="give the count more noise"):
        joint_multiplier(2.0, 1.0)


@given(events)
def test_events_survive_json(event: Event) -> None:
    assert Event.from_json(event.to_json()) == event


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("sampling_rate", value) for value in (0.0, 1.1, -0.5, math.nan, "0.5", True, None)],
        *[("noise_multiplier", value) for value in (0.0, -1.0, math.inf, math.nan, "1", None)],
        *[("steps", value) for value in (0, -1, 1.0, True, "1", None)],
    ],
)
def test_an_event_outside_its_rule(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be"):
        Event.from_json({**Event(0.5, 1.0, 1).to_json(), name: value})


@pytest.mark.parametrize("change", [{"extra": 1}, {"steps": ...}])
def test_an_event_of_other_names(change: dict[str, object]) -> None:
    values = {**Event(0.5, 1.0, 1).to_json(), **change}
    with pytest.raises(ConfigurationError, match="must hold exactly"):
        Event.from_json({name: value for name, value in values.items() if value is not ...})
