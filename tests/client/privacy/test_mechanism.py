"""The Gaussian mechanism. Oracles: a per-patient reference in float64, exact sensitivity, the noise's closed form."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from client.privacy.mechanism import COUNT_NOISE, GRID, PatientGradients
from client.privacy.noise import Noise, SecureNoise, SeededNoise
from client.privacy.probes import Silence
from tests.examples import examples

SHAPES = ((3, 4), (5,), ())
SIZE = 18


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]


def mechanism(parameters: Sequence[nn.Parameter], noise: Noise | None = None, **changed: float) -> PatientGradients:
    values = {"clip": 1.0, "noise_multiplier": 1.0, "expected": 1.0, **changed}
    return PatientGradients(parameters, noise=noise or Silence(), **values)


def give(parameters: Sequence[nn.Parameter], gradient: NDArray[np.float64]) -> None:
    """Leave a gradient where a backward pass would."""
    start = 0
    for parameter in parameters:
        assert parameter.grad is not None
        part = gradient[start : start + parameter.numel()]
        parameter.grad += torch.tensor(part, dtype=torch.float32).view(parameter.shape)
        start += parameter.numel()


def released(parameters: Sequence[nn.Parameter]) -> NDArray[np.float64]:
    return torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None]).double().numpy()


def clipped(gradient: NDArray[np.float64], clip: float) -> NDArray[np.float64]:
    exact = gradient.astype(np.float32).astype(np.float64)
    return exact * min(1.0, clip / max(float(np.linalg.norm(exact)), 1e-300))


gradients = st.lists(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=SIZE, max_size=SIZE).map(np.array), min_size=1, max_size=5
)


@settings(max_examples=examples(100))
@given(gradients, st.floats(1e-3, 1e3))
def test_sums_are_those_of_a_reference_that_clips_each_patient(patients: list[NDArray[np.float64]], clip: float):
    trained = parameters()
    sums = mechanism(trained, clip=clip)
    for gradient in patients:
        give(trained, gradient)
        sums.add()
    sums.release()
    expected = np.sum([clipped(gradient, clip) for gradient in patients], axis=0)
    assert np.abs(released(trained) - expected).max() <= 1e-6 * clip


@settings(max_examples=examples(100))
@given(gradients, st.lists(st.floats(-1e6, 1e6, width=32), min_size=SIZE, max_size=SIZE), st.floats(1e-3, 1e3))
def test_one_patient_more_moves_the_sum_by_no_more_than_the_clipping_norm(
    patients: list[NDArray[np.float64]], more: list[float], clip: float
):
    sums = []
    for cohort in (patients, [np.array(more), *patients]):
        trained = parameters()
        adder = mechanism(trained, clip=clip)
        for gradient in cohort:
            give(trained, gradient)
            adder.add()
        sums.append([int(value) for value in adder._sum])
    difference = [a - b for a, b in zip(*sums, strict=True)]
    assert sum(value * value for value in difference) <= GRID**2  # in whole numbers: exactly


def test_rounding_makes_no_clipped_gradient_longer_than_the_clipping_norm():
    """In whole numbers. By hand: 9 and 12 are 0.6 and 0.8 of their length, of 2**23 steps 5033164.8 and 6710886.4.

    Where nothing is taken off beforehand, float32 makes 5033165 and 6710887 of them, which are too long together.
    """
    trained = parameters()
    for first, second in itertools.combinations_with_replacement(range(1, 13), 2):
        sums = mechanism(trained)
        give(trained, np.array([first, second, *[0] * (SIZE - 2)], np.float64))
        sums.add()
        assert sum(int(value) ** 2 for value in sums._sum) <= GRID**2, (first, second)


def test_sums_depend_on_no_order():
    generator = np.random.default_rng(3)
    cohort = [generator.normal(size=SIZE) * 10**power for power in (-3, -1, 0, 2, 5)]
    found = []
    for order in (cohort, cohort[::-1]):
        trained = parameters()
        sums = mechanism(trained)
        for gradient in order:
            give(trained, gradient)
            sums.add()
        sums.release()
        found.append(released(trained))
    assert (found[0] == found[1]).all()


def test_parts_of_a_patient_are_clipped_together():
    trained = parameters()
    sums = mechanism(trained)
    for _ in range(4):  # four crops, each as long as the norm allows
        give(trained, np.eye(SIZE)[0])
    assert sums.add() == pytest.approx(4.0)
    sums.release()
    assert np.linalg.norm(released(trained)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_adds_nothing(broken: float):
    trained = parameters()
    sums = mechanism(trained)
    give(trained, np.full(SIZE, broken))
    sums.add()
    give(trained, np.eye(SIZE)[2] / 2)
    sums.add()
    sums.release()
    assert released(trained) == pytest.approx(np.eye(SIZE)[2] / 2, abs=1e-6)


def test_a_step_without_patients_is_noise_over_the_expected_number():
    trained = [nn.Parameter(torch.zeros(200_000))]
    sums = mechanism(trained, SecureNoise(), clip=2.0, noise_multiplier=1.5, expected=10.0)
    sums.release()
    noise = released(trained)
    assert noise.std() == pytest.approx(1.5 * 2.0 / 10.0, rel=0.01)  # 6 deviations of the estimate
    assert abs(noise.mean()) < 6 * 0.3 / math.sqrt(noise.size)


def test_noise_is_new_in_each_step():
    trained = [nn.Parameter(torch.zeros(1000))]
    sums = mechanism(trained, SecureNoise())
    sums.release()
    first = released(trained)
    sums.clear()
    sums.release()
    assert abs(np.corrcoef(first, released(trained))[0, 1]) < 0.2


def test_the_sum_is_empty_after_a_release():
    trained = parameters()
    sums = mechanism(trained)
    give(trained, np.eye(SIZE)[0])
    sums.add()
    sums.release()
    sums.clear()
    sums.release()
    assert not released(trained).any()


def test_the_clipping_norm_follows_the_quantile_that_is_asked_for():
    trained = parameters()
    sums = PatientGradients(
        trained, clip=0.5, noise_multiplier=1.0, expected=100.0, noise=SeededNoise([1]), quantile=0.5
    )
    norms = np.random.default_rng(0).lognormal(1.0, 0.5, 100)  # median e
    for _ in range(60):
        for norm in norms:
            give(trained, np.eye(SIZE)[0] * norm)
            sums.add()
        sums.release()
        sums.clear()
    assert sums.clip == pytest.approx(math.e, rel=0.15)


def test_what_the_count_costs_is_taken_from_the_gradients():
    trained = [nn.Parameter(torch.zeros(200_000))]
    sums = PatientGradients(trained, clip=1.0, noise_multiplier=2.0, expected=1.0, noise=SecureNoise(), quantile=0.5)
    sums.release()
    exact = 2.0 / math.sqrt(1 - (2.0 / (2 * COUNT_NOISE * 2.0)) ** 2)
    assert released(trained).std() == pytest.approx(exact, rel=0.01)
