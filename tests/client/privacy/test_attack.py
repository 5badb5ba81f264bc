"""The audit's lower bound stays below the claim for the right mechanism, and exceeds it for each wrong one.

Oracles: the number that the method's paper prints; exact binomials; randomised response played many times; the
accountant; mechanisms with a known mistake. Seeds are fixed, so that a right mechanism is never accused by chance.
"""

import math
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from client.privacy.accounting import Event, spent
from client.privacy.attack import AuditResult, audit_mechanism
from client.privacy.guesses import crowd_bound, crowd_p_value, duel_bound, duel_p_value
from client.privacy.mechanism import PatientGradients
from client.privacy.noise import Noise
from client.privacy.promise import Promise
from client.privacy.training import Unit
from segformer3d.errors import ConfigurationError
from segformer3d.model import build
from tests.examples import NIGHT, examples

from ..tiny_site import TINY_MODEL

DELTA = 1e-5


def promise_of(rate: float, multiplier: float, steps: int, delta: float = DELTA) -> Promise:
    """What the accountant claims for such a run of a site of 40 patients."""
    claimed = spent((Event(rate, multiplier, steps),), delta)
    return Promise(claimed, delta, 0.0, multiplier, rate, steps, 40, proven=True)


# ---- Mechanisms with a mistake ----


class WithoutNoise(PatientGradients):
    """The accountant believes in noise that nobody adds."""

    def __init__(self, parameters: Sequence[nn.Parameter], **settings: Any) -> None:
        super().__init__(parameters, **{**settings, "noise_multiplier": 1e-6})


class NoiseDividedTwice(PatientGradients):
    """Noise of the mean, added to the sum."""

    def __init__(self, parameters: Sequence[nn.Parameter], **settings: Any) -> None:
        multiplier = settings["noise_multiplier"] / settings["expected"]
        super().__init__(parameters, **{**settings, "noise_multiplier": multiplier})


class WithoutSampling(PatientGradients):
    """The accountant believes that only some take part."""

    def draw(self, patients: int, rate: float) -> list[int]:
        return list(range(patients))


class SameNoise:
    """Noise of the first step, in every step."""

    secure = False

    def __init__(self, noise: Noise) -> None:
        self._noise, self._kept = noise, np.zeros(0, np.int64)

    def integers(self, size: int, deviation: float) -> NDArray[np.int64]:
        if len(self._kept) != size:
            self._kept = self._noise.integers(size, deviation)
        return self._kept

    def chosen(self, count: int, rate: float) -> list[int]:
        return self._noise.chosen(count, rate)


class NoiseReused(PatientGradients):
    """A generator that is seeded anew in every step."""

    def __init__(self, parameters: Sequence[nn.Parameter], **settings: Any) -> None:
        super().__init__(parameters, **{**settings, "noise": SameNoise(settings["noise"])})


def clip_the_batch(
    gradients: PatientGradients, units: Sequence[Unit], rate: float, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """`private_step` with `add` outside of the loop: the sum of the batch is clipped as a whole."""
    for index in gradients.draw(len(units), rate):
        units[index](step)
    gradients.add()
    gradients.release()
    optimizer.step()
    gradients.clear()


def clip_the_crops(
    gradients: PatientGradients, units: Sequence[Unit], rate: float, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """`private_step` with `add` once a crop: each of a patient's four crops is a unit of its own."""
    for index in gradients.draw(len(units), rate):
        for _ in range(4):
            units[index](step)
            gradients.add()
    gradients.release()
    optimizer.step()
    gradients.clear()


# As many duels as refute a claim of 5.8 with something to spare: what hides behind chance takes more of them.
DUELS = {"no sampling": 200, "batches clipped": 300}
MISTAKES: dict[str, dict[str, Any]] = {
    "no noise": {"make_gradients": WithoutNoise},
    "noise divided twice": {"make_gradients": NoiseDividedTwice},
    "no sampling": {"make_gradients": WithoutSampling},
    "noise reused": {"make_gradients": NoiseReused},
    "batches clipped": {"take_step": clip_the_batch},
    "crops clipped": {"take_step": clip_the_crops},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_proved(mistake: str):
    """The mutations of the issue, and three more, against a claim of epsilon 5.8: all are refuted."""
    result = audit_mechanism(
        promise_of(0.5, 1.5, 10), canaries=60, duels=DUELS.get(mistake, 100), seed=1, **MISTAKES[mistake]
    )
    assert result.contradicts
    assert result.lower_bound > result.claimed


@pytest.mark.parametrize("mistake", ["no noise", "noise divided twice", "noise reused", "crops clipped"])
def test_one_run_with_a_crowd_of_canaries_is_enough_for_a_small_claim(mistake: str):
    """Steinke's attack alone, by his theorem, against a claim of epsilon 1."""
    result = audit_mechanism(promise_of(0.5, 6.2, 10), canaries=600, duels=50, seed=2, **MISTAKES[mistake])
    crowd = result.attacks[0]
    assert 0.9 < result.claimed < 1.1
    assert crowd.name == "crowd"
    assert crowd.lower_bound > result.claimed


def test_a_claim_of_epsilon_8_is_refuted_without_noise_by_a_few_hundred_duels():
    promise = promise_of(1.0, 1.9, 10)  # without sampling, whose cost is worked out faster
    assert 7.5 < promise.epsilon < 8
    assert audit_mechanism(promise, canaries=60, duels=150, seed=3, make_gradients=WithoutNoise).contradicts


@pytest.mark.parametrize(
    ("rate", "multiplier", "steps"),
    [(0.5, 1.5, 10), (1.0, 1.0, 1), (1.0, 4.0, 8), pytest.param(0.2, 1.0, 12, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("seed", [1, 2, 3] if NIGHT in os.environ else [1])
def test_the_right_mechanism_keeps_its_claim(rate: float, multiplier: float, steps: int, seed: int):
    result = audit_mechanism(promise_of(rate, multiplier, steps), canaries=min(400, examples(60)), seed=seed)
    assert not result.contradicts
    assert result.lower_bound <= result.claimed


def test_the_attack_is_strong_enough_to_find_most_of_what_is_lost():
    """Else staying below the claim would say nothing."""
    result = audit_mechanism(promise_of(1.0, 1.0, 1), canaries=300, duels=1000, seed=4)
    assert 0.6 * result.claimed < result.lower_bound <= result.claimed


@pytest.mark.parametrize("seed", [1, 2] if NIGHT in os.environ else [2])
def test_adaptive_clipping_keeps_its_claim(seed: int):
    """Its noisier gradients pay for a count that the attack does not look at."""
    adaptive = partial(PatientGradients, quantile=0.5)
    result = audit_mechanism(promise_of(0.5, 1.5, 10), clip=0.3, canaries=60, seed=seed, make_gradients=adaptive)
    assert 0 < result.lower_bound <= result.claimed


def test_a_real_models_parameters_and_patients_are_played_with():
    torch.manual_seed(0)
    model = build(TINY_MODEL)
    image = torch.randn(1, 1, 16, 16, 16)

    def patient(step: int) -> float:
        del step
        value = model(image).square().mean()
        value.backward()
        return float(value.detach())

    audit = partial(audit_mechanism, promise_of(1.0, 8.0, 4), canaries=300, duels=50, seed=5, patients=[patient] * 3)
    right, wrong = (
        audit(parameters=list(model.parameters())),
        audit(parameters=list(model.parameters()), make_gradients=WithoutNoise),
    )
    assert right.lower_bound <= right.claimed
    assert wrong.attacks[0].lower_bound > wrong.claimed
    assert wrong.contradicts


def test_coins_samples_and_noise_come_from_the_system_unless_a_seed_is_given():
    kept: list[Noise] = []

    def make(parameters: Sequence[nn.Parameter], **settings: Any) -> PatientGradients:
        kept.append(settings["noise"])
        return PatientGradients(parameters, **settings)

    audit: Callable[..., AuditResult] = partial(
        audit_mechanism, promise_of(1.0, 2.0, 1), canaries=50, make_gradients=make
    )
    first, again = audit(seed=6), audit(seed=6)
    assert first == again
    assert not any(noise.secure for noise in kept)
    kept.clear()
    audit()
    assert kept
    assert all(noise.secure for noise in kept)


@pytest.mark.parametrize(
    "wrong",
    [{"canaries": 49}, {"canaries": 100_001}, {"duels": 3}, {"confidence": 1.0}, {"confidence": math.nan}],
)
def test_numbers_outside_their_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="an audit needs 50 to 100000 canaries"):
        audit_mechanism(promise_of(1.0, 2.0, 1), **wrong)


def test_a_crowd_needs_a_parameter_for_each_canary():
    with pytest.raises(ConfigurationError, match="use fewer canaries"):
        audit_mechanism(promise_of(1.0, 2.0, 1), canaries=60, parameters=[nn.Parameter(torch.zeros(59))])


def test_the_result_is_plain_json():
    result = audit_mechanism(promise_of(1.0, 2.0, 1), canaries=60, seed=7)
    told = result.to_json()
    assert told["lower_bound"] == max(attack["lower_bound"] for attack in told["attacks"])
    assert told["contradicts"] is False
    assert {attack["name"] for attack in told["attacks"]} == {"crowd", "duel"}
    assert all(attack["lower_bound"] <= attack["ceiling"] for attack in told["attacks"])


# ---- Statistics ----


def test_the_papers_example():
    """Steinke, Nasr and Jagielski 2023, appendix D: 75 of 100 guesses right, of 1,000 canaries, delta 1e-4: 0.673."""
    assert crowd_p_value(1000, 100, 75, 0.6729, 1e-4) < 0.05 < crowd_p_value(1000, 100, 75, 0.6731, 1e-4)


def tail(guesses: int, right: int, numerator: int, denominator: int) -> float:
    """P[Binomial >= right] in fractions."""
    q = Fraction(numerator, denominator)
    return float(sum(math.comb(guesses, k) * q**k * (1 - q) ** (guesses - k) for k in range(right, guesses + 1)))


@pytest.mark.parametrize(("guesses", "right"), [(1, 1), (10, 7), (40, 40), (40, 0), (60, 31)])
def test_without_delta_both_p_values_are_exact_binomials(guesses: int, right: int):
    for p_value in (crowd_p_value, duel_p_value):
        found = p_value(100, guesses, right, math.log(3), 0.0)
        assert found == pytest.approx(tail(guesses, right, 3, 4), rel=1e-9, abs=1e-13)


def test_the_duels_p_value_is_exact_for_three_coins():
    """Every combination of told and not told coins, of which the told ones are guessed first."""
    delta, q, guesses = 0.3, 0.75, 2
    for right in range(guesses + 1):
        exact = 0.0
        for told in product([True, False], repeat=3):
            sure = min(guesses, sum(told))
            chance = math.prod(delta if one else 1 - delta for one in told)
            rest, missing = guesses - sure, right - sure
            exact += chance * sum(
                math.comb(rest, k) * q**k * (1 - q) ** (rest - k) for k in range(max(0, missing), rest + 1)
            )
        assert duel_p_value(3, guesses, right, math.log(3), delta) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("p_value", [crowd_p_value, duel_p_value])
@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 0.0), (0.5, 0.02), (2.0, 0.1)])
def test_p_values_are_valid_for_leaky_randomised_response(p_value: Any, epsilon: float, delta: float):
    """The worst mechanism that there is for independent coins: a p-value below 0.05 in at most 5 % of 2,000 games."""
    generator, canaries, guesses, games = np.random.default_rng(8), 200, 60, 2000
    told = np.minimum(generator.binomial(canaries, delta, games), guesses)
    right = told + generator.binomial(guesses - told, 1 / (1 + math.exp(-epsilon)))
    found, games_of = np.unique(right, return_inverse=True)
    values = np.array([p_value(canaries, guesses, int(number), epsilon, delta) for number in found])[games_of]
    assert (values <= 0.05).mean() <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / games)


@given(st.integers(1, 200), st.data(), st.sampled_from([0.0, 1e-5, 1e-2]), st.floats(0, 6))
def test_more_right_guesses_prove_more(guesses: int, data: st.DataObject, delta: float, epsilon: float):
    right = data.draw(st.integers(0, guesses - 1))
    for p_value in (crowd_p_value, duel_p_value):
        assert p_value(250, guesses, right + 1, epsilon, delta) <= p_value(250, guesses, right, epsilon, delta) + 1e-12
        assert p_value(250, guesses, right, epsilon, 0.0) <= p_value(250, guesses, right, epsilon + 0.1, 0.0) + 1e-12


@pytest.mark.parametrize("bound", [crowd_bound, duel_bound])
def test_bounds_grow_with_right_guesses(bound: Callable[..., float]):
    promise = promise_of(0.5, 1.5, 10)
    found = [bound(promise, 400, 200, right, 0.01) for right in range(100, 201, 20)]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] > 2


def test_what_a_crowd_can_find_grows_with_the_logarithm_of_its_size():
    """ln(m / 10) or so where all guesses are right, until delta stops it: as the module says."""
    promise = promise_of(0.5, 1.5, 10)
    found = [crowd_bound(promise, m, m, m, 0.025 / 3) for m in (300, 1000, 30_000)]
    assert found[0] == pytest.approx(math.log(300 / 10), abs=0.7)
    assert found[1] == pytest.approx(math.log(1000 / 10), abs=0.7)
    assert found[2] < 6.5


def test_a_duels_bound_never_exceeds_what_its_guesses_support():
    """With half of the guesses right nothing is proved; with all right, more than the claim."""
    promise = promise_of(1.0, 1.0, 1)
    bounds = [duel_bound(promise, 400, 320, right, 0.01) for right in (160, 220, 260, 320)]
    assert bounds[0] == 0
    assert bounds == sorted(bounds)
    assert bounds[-1] > promise.epsilon
