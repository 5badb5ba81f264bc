"""Noise has the distribution that the accountant is told, and the secure source never repeats itself.

Oracles: scipy's distributions, exact moments, the grid's own probabilities. Bounds are fixed such that a correct source
fails one in a million runs.
"""

import math
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import SimpleQueue

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from client.privacy import noise as module
from client.privacy.noise import BLOCK, Noise, SecureNoise, SeededNoise, rounding_cost
from segformer3d.errors import ConfigurationError

RARE = 1e-6
GRID = 2.6 * 2**23
COUNT = 400_000

sources = pytest.mark.parametrize("source", [SecureNoise(), SeededNoise([1, 2])], ids=["secure", "seeded"])


@sources
@pytest.mark.parametrize("deviation", [GRID, 1000.0, 2.0**48])
def test_it_is_gaussian(source: Noise, deviation: float) -> None:
    drawn = source.integers(COUNT, deviation) / deviation
    assert stats.kstest(drawn, "norm").pvalue > RARE
    assert abs(drawn.mean()) < 5 / math.sqrt(COUNT)
    assert abs((drawn**2).mean() - 1) < 5 * math.sqrt(2 / COUNT)
    assert abs((drawn**3).mean()) < 5 * math.sqrt(15 / COUNT)
    assert abs((drawn**4).mean() - 3) < 6 * math.sqrt(96 / COUNT)
    assert np.abs(drawn).max() > 4


@sources
@pytest.mark.parametrize("deviation", [0.3, 1.0, 2.6, 7.5, 8.0, 31.0])
def test_each_whole_number_has_the_probability_of_its_cell(source: Noise, deviation: float) -> None:
    """Where cells are wide they are counted one by one: the Gaussian's mass between k - 1/2 and k + 1/2."""
    drawn = source.integers(COUNT, deviation)
    most = math.ceil(3 * deviation)
    cells = np.arange(-most, most + 1)
    expected = stats.norm.cdf(np.append(cells + 0.5, np.inf), scale=deviation)
    expected = np.diff(expected, prepend=0.0)
    observed = np.bincount(np.clip(drawn, -most, most + 1) + most, minlength=len(expected))
    keep = expected * COUNT > 5
    statistic = ((observed - expected * COUNT) ** 2 / (expected * COUNT))[keep].sum()
    assert stats.chi2.sf(statistic, keep.sum()) > RARE


@sources
def test_the_tail_is_there_and_no_longer_than_it_should_be(source: Noise) -> None:
    drawn = np.abs(source.integers(2_000_000, GRID)) / GRID
    for far in (3.0, 4.0, 4.5):
        expected = 2 * stats.norm.sf(far)
        assert stats.binomtest(int((drawn > far).sum()), len(drawn), expected).pvalue > RARE


def test_low_bits_are_uniform() -> None:
    """No holes in the grid: the last 8 bits of noise as wide as this are uniform."""
    bits = SecureNoise().integers(COUNT, GRID) & 255
    assert stats.chisquare(np.bincount(bits, minlength=256)).pvalue > RARE


@sources
def test_draws_are_independent(source: Noise) -> None:
    drawn = source.integers(COUNT, GRID) / GRID
    for lag in (1, 2, BLOCK // 2, BLOCK):
        for a, b in ((drawn[:-lag], drawn[lag:]), (drawn[:-lag] ** 2 - 1, drawn[lag:] ** 2 - 1)):
            assert abs((a * b).sum()) < 6 * a.std() * b.std() * math.sqrt(len(a))
    again = source.integers(COUNT, GRID) / GRID
    assert abs((drawn * again).sum()) < 5 * math.sqrt(COUNT)


def test_the_radius_comes_from_all_128_bits_and_the_angle_is_the_whole_circle() -> None:
    """Box and Muller at the ends of both."""
    words = np.array([[0, 0, 2**64 - 1, 2**63, 2**63], [0, 0, 2**64 - 1, 0, 0], [0, 2**63, 0, 0, 2**62]], np.uint64)
    largest = math.sqrt(2 * 129 * math.log(2))
    half = math.sqrt(2 * math.log(2))
    cosines, sines = module._gaussians(words)
    assert cosines == pytest.approx([largest, -largest, 0.0, half, 0.0], abs=1e-14)
    assert sines == pytest.approx([0.0, 0.0, 0.0, 0.0, half], abs=1e-14)


def test_the_error_is_within_the_bound_of_the_module() -> None:
    """Against 50 digits: |g' - g| < r 2**(6-p)."""
    decimal = pytest.importorskip("mpmath")
    words = np.random.default_rng(3).integers(0, 2**64, (3, 2000), dtype=np.uint64)
    words[0, :300] >>= np.uint64(40)  # the far tail, too
    words[0, 300:600] |= np.uint64(2**64 - 2**12)  # and the next neighbourhood of 0, where u is close to 1
    with decimal.workdps(50):
        pairs = module._gaussians(words).T.tolist()
        for (cosine, sine), (a, b, c) in zip(pairs, words.T.tolist(), strict=True):
            radius = decimal.sqrt(-2 * decimal.log((decimal.mpf(a) * 2**64 + b + decimal.mpf(0.5)) / 2**128))
            angle = (c - 2**64 * (c >= 2**63)) * decimal.pi / 2**63
            bound = radius * 2.0 ** (6 - module._PRECISION)
            assert abs(radius * decimal.cos(angle) - cosine) <= bound
            assert abs(radius * decimal.sin(angle) - sine) <= bound


@pytest.mark.parametrize("deviation", [8.0, 31.9, 32.0, 1000.0])
def test_two_scales_blend_into_a_gaussian_and_a_uniform_step(deviation: float) -> None:
    """The sum over the coarse grid against the closed form of what it stands for, out to eight deviations."""
    step, fine = module._scales(deviation)
    coarse = math.sqrt(deviation**2 - fine**2)
    values = np.linspace(0, 8 * deviation, 500)[:, None]
    grid = step * np.arange(-math.ceil(10 * deviation / step), math.ceil(10 * deviation / step) + 1)
    sums = (_mass(grid, step, coarse) * stats.norm.pdf(values - grid, scale=fine)).sum(axis=1)
    expected = _mass(values[:, 0], step, deviation) / step
    assert sums == pytest.approx(expected, rel=1e-12)


def _mass(middle: NDArray[np.float64], width: float, deviation: float) -> NDArray[np.float64]:
    """What a Gaussian has within `width` around `middle`; the survival function keeps its digits in the tail."""
    far = np.abs(middle)
    mass: NDArray[np.float64] = stats.norm.sf((far - width / 2) / deviation) - stats.norm.sf(
        (far + width / 2) / deviation
    )
    return mass


def test_the_scales_are_of_the_sizes_that_the_bound_takes() -> None:
    for deviation in np.geomspace(8, module.MOST_DEVIATION, 200).tolist():
        step, fine = module._scales(deviation)
        assert fine == 2 * step < deviation
        assert max(deviation / step, fine) <= 1.5 * math.sqrt(2 * deviation)
        assert 0.5 / max(deviation / step, fine) > 2.0**-26.5


def test_two_instances_and_two_calls_share_nothing() -> None:
    one, other = SecureNoise(), SecureNoise()
    drawn = np.concatenate([one.integers(5000, 2.0**47), one.integers(5000, 2.0**47), other.integers(5000, 2.0**47)])
    assert len(np.unique(drawn)) > len(drawn) - 5


def test_blocks_share_nothing() -> None:
    drawn = SecureNoise().integers(3 * BLOCK, 2.0**47)
    assert len(np.unique(drawn)) > len(drawn) - 5


def _send(noise: SecureNoise, results: "SimpleQueue[list[int]]") -> None:
    results.put(noise.integers(100, GRID).tolist())


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_process_draws_its_own() -> None:
    """A real fork, which copies all that the source has in memory."""
    noise = SecureNoise()
    noise.integers(10, GRID)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    children = [context.Process(target=_send, args=(noise, results)) for _ in range(3)]
    for child in children:
        child.start()
    drawn = [tuple(results.get()) for _ in children] + [tuple(noise.integers(100, GRID).tolist())]
    for child in children:
        child.join()
    assert len(set(drawn)) == 4
    assert len({value for each in drawn for value in each}) > 390


def test_threads_share_one_source() -> None:
    noise = SecureNoise()
    with ThreadPoolExecutor(4) as pool:
        drawn = np.concatenate(list(pool.map(lambda _: noise.integers(2000, 2.0**47), range(8))))
    assert len(np.unique(drawn)) > len(drawn) - 5


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
@sources
def test_any_size(source: Noise, size: int) -> None:
    drawn = source.integers(size, GRID)
    assert drawn.shape == (size,)
    assert drawn.dtype == np.int64
    assert size < 100 or abs(drawn.mean()) < 6 * GRID / math.sqrt(size)


@sources
@pytest.mark.parametrize("rate", [0.001, 0.25, 0.5, 0.9])
def test_samples_are_binomial_and_each_index_is_as_likely(source: Noise, rate: float) -> None:
    sizes = [len(source.chosen(1000, rate)) for _ in range(200)]
    assert stats.binomtest(sum(sizes), 200_000, rate).pvalue > RARE
    hits = np.zeros(50, np.int64)
    for _ in range(2000):
        hits[source.chosen(50, rate)] += 1
    assert stats.binomtest(int(hits.max()), 2000, rate).pvalue > RARE / 50
    assert stats.binomtest(int(hits.min()), 2000, rate).pvalue > RARE / 50
    spread = np.var(sizes, ddof=1) / (1000 * rate * (1 - rate))
    assert stats.chi2.sf(199 * spread, 199) > RARE
    assert stats.chi2.cdf(199 * spread, 199) > RARE


@sources
def test_two_patients_are_chosen_independently(source: Noise) -> None:
    both = sum({0, 1} <= set(source.chosen(3, 0.5)) for _ in range(10_000))
    assert stats.binomtest(both, 10_000, 0.25).pvalue > RARE


@sources
def test_the_ends_of_the_rate(source: Noise) -> None:
    assert source.chosen(40_000, 1.0) == list(range(40_000))
    assert source.chosen(40_000, 1e-30) == []
    assert source.chosen(0, 0.5) == []
    chosen = source.chosen(40_000, 0.5)
    assert chosen == sorted(set(chosen))


def test_a_rate_is_never_exceeded_by_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the edge: the word that equals the rate is not chosen, the one below is."""
    edge = 3 * 2**62
    monkeypatch.setattr(module, "_words", lambda count: np.array([edge - 1, edge, edge + 1], np.uint64)[:count])
    assert SecureNoise().chosen(3, 0.75) == [0]


def test_the_seeded_one_repeats_itself_and_only_itself() -> None:
    def draw(key: list[int]) -> tuple[list[int], list[int]]:
        source = SeededNoise(key)
        return source.integers(100, GRID).tolist(), source.chosen(100, 0.5)

    assert draw([1, 2]) == draw([1, 2])
    assert draw([1, 2]) != draw([2, 1])


def test_only_one_of_them_is_secure() -> None:
    assert SecureNoise().secure
    assert not SeededNoise([0]).secure


@sources
@pytest.mark.parametrize("deviation", [0.0, -1.0, math.inf, math.nan, 2.0**49])
def test_a_deviation_outside_its_rule(source: Noise, deviation: float) -> None:
    with pytest.raises(ConfigurationError, match="the deviation of noise must be in"):
        source.integers(3, deviation)


@sources
@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_a_rate_outside_its_rule(source: Noise, rate: float) -> None:
    with pytest.raises(ConfigurationError, match="a sampling rate must be in"):
        source.chosen(3, rate)


def test_finite_precision_costs_what_the_module_says() -> None:
    epsilon, delta = rounding_cost(4_500_000, 100, GRID, 2.6)
    assert epsilon == pytest.approx(7.1e-4, rel=0.05)
    assert delta == pytest.approx(1.4e-11, rel=0.05)
