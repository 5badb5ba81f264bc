"""Noise and Poisson samples: one source that nobody can predict, and one for experiments that anyone can repeat.

**Floating point.** Noise added to a floating-point sum leaks the sum through its low bits (Mironov 2012; Holohan and
Braghin 2021), and the sum's own rounding exceeds the sensitivity on paper (Casacuberta et al. 2022). Neither applies
here: gradients are cut to a grid of whole numbers (2**-23 of the clipping norm) before they are added, exactly; noise
is whole numbers, too; so the sensitivity is exact, and the release lies on one grid whatever the data. With an ideal
Gaussian b, x + round(b) = round(x + b) for a whole x: rounded noise is post-processing of the Gaussian mechanism,
whose epsilon holds as it is. (The discrete Gaussian of Canonne, Kamath and Steinke 2020 is another distribution with
an accountant of its own, and OpenDP's exact sampler draws 3e4 to 7e4 a second where a step needs 4.5e6.)

**Two scales.** One float has too few bits for a deviation s of 2**24 and more, so noise is q round(a / q) + round(b):
a coarse and a fine Gaussian, whose variances are s^2 together, the fine one's deviation f being two coarse steps q.
Its law is that of a + b + U rounded, with U uniform in [-q/2, q/2]: post-processing of x + a + b, so at least as
private as the Gaussian of deviation s. For with M the density of a + U, the coarse one takes the value k q with
probability q M(k q), and the sum of q M(k q) phi(y - k q) over k is the integral of M(z) phi(y - z) but for, by
Poisson's summation, a share below 2.1 exp(-2 pi^2 f^2 (1 - f^2/s^2) / q^2) of it, whatever y is: 1e-25 at s = 8, below
which one scale is enough, and 1e-33 where s is large.

**Finite precision.** What is left is how far the drawn numbers are from the ideal. a and b are Box and Muller's pair,
r cos(v) and r sin(v) with r = sqrt(-2 ln u): u has 128 random bits, so that the tail reaches 13.3 deviations, and v has
the p = 53 of a float. With t = sin(v/4)^2 the cosine is 1 - 8 t (1 - t) and the sine 4 sin(v/4) sqrt(1 - t) (1 - 2 t),
which is faster. ln u is the logarithm of u rounded to p bits, plus what the rounding left over u, so that it is as
precise for a u next to 1. Let S = max(s / q, f), about sqrt(2 s).

1. Rounding. Summing what ln and sin (four units in the last place, as numpy states), sqrt and the products round,
   |g' - g| < r 2**(6-p) for each of the pair. (Not so for 1 - u < 2**-54, but those lie in the cell around 0 either
   way.) But for r > 9.5 (probability 3e-20, counted against delta) this moves the sides of a cell of the two grids,
   1/S wide or wider, by 9.5 * 2**(6-p), and so changes the cell's probability relatively by 76 S 2**(5-p).
2. Counting. A cell holds a whole number of pairs (u, v). For one v they are an interval of u, miscounted by one in
   2**128; summing intervals over the v that there are instead of all of them is wrong by 2**-p times the variation of
   their length (Koksma), at most four times the largest, sqrt(2) rho exp(-rho^2/2) w at the distance rho, w being the
   cell's longer side; its probability is exp(-rho^2/2) / 2 pi times both sides: relatively 8 sqrt(2) pi rho S 2**-p,
   below 11 S 2**(5-p).

Together eta = 87 S 2**(5-p) a number: 2.0e-9 for s = 2.6 * 2**23. Let d numbers be released in each of T steps,
n = d T. The privacy loss of the real release differs from the ideal one by n terms for either of the two data sets,
each at most eta. Their mean is below eta^2 under their own distribution, and under the neighbour's at most eta times
the total variation between the two: in a step at most eta sqrt(d) / (sqrt(2 pi) z), z the noise multiplier. By Azuma's
inequality their sum is, but for a probability of 1e-12, below

    2 eta sqrt(2 n ln 1e12) + T eta sqrt(d) / (sqrt(2 pi) z) + 2 n eta^2,

which `rounding_cost` computes: for d = 4.5e6, T = 100 and z = 2.6 it is 7.1e-4 of epsilon and 1.4e-11 of delta.

**Time.** A draw takes the same words and the same operations whatever comes out; nothing is rejected and redrawn, which
is what an attacker with a clock measures (Jin et al. 2022).
"""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from segformer3d.errors import ConfigurationError

BLOCK = 1 << 13  # draws at a time: what fits into a processor's cache
MOST_DEVIATION = 2.0**48  # see "Finite precision"
_ONE_SCALE = 8.0  # the deviation below which one Gaussian is precise enough, and two would not blend
_PRECISION = 53
_BEYOND = np.uint64(2 ** (64 - _PRECISION) - 1)  # the bits of a word that a float has no room for

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]


class Noise(Protocol):
    """A source of whole-number Gaussian noise and of Poisson samples."""

    @property
    def secure(self) -> bool:
        """Whether a claim of privacy may rest on it."""

    def integers(self, size: int, deviation: float) -> NDArray[np.int64]:
        """Independent Gaussians of mean 0, rounded to whole numbers.

        Args:
            size: how many.
            deviation: standard deviation before rounding, in (0, 2**48].

        Returns:
            (size,)

        Raises:
            ConfigurationError: the deviation breaks its rule.
        """

    def chosen(self, count: int, rate: float) -> list[int]:
        """Poisson sampling: each of 0 .. count - 1, independently, with probability `rate`.

        Returns:
            The chosen ones in ascending order; none is a possible outcome.

        Raises:
            ConfigurationError: the rate is not in (0, 1].
        """


class SecureNoise:
    """Keystreams of ChaCha20 under keys of the operating system: a fresh key for each block, kept nowhere.

    Nothing is kept between calls, so there is nothing that a fork or a second thread could repeat, nor anything in
    memory from which earlier noise could be computed.
    """

    secure = True

    def integers(self, size: int, deviation: float) -> NDArray[np.int64]:
        """See `Noise.integers`. Many are drawn by all cores."""
        _check_deviation(deviation)
        drawn = np.empty(size, np.int64)

        def fill(start: int) -> None:
            part = drawn[start : start + BLOCK]
            part[:] = _whole(_gaussians(_words(3 * len(part)).reshape(3, -1)), deviation)

        if size <= BLOCK:
            fill(0)
            return drawn
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            list(threads.map(fill, range(0, size, BLOCK)))  # what a thread raises is raised here
        return drawn

    def chosen(self, count: int, rate: float) -> list[int]:
        """See `Noise.chosen`. The probability is cut to a multiple of 2**-64: it never exceeds the rate."""
        _check_rate(rate)
        below = int(rate * 2.0**64)  # exact: a power of two moves only the exponent
        if below == 2**64:
            return list(range(count))
        return [start + int(index) for start, words in _blocks(count) for index in np.flatnonzero(words < below)]


class SeededNoise:
    """numpy's generator, which repeats itself: for experiments and tests. No claim can rest on it.

    Attributes:
        secure: False.
    """

    secure = False

    def __init__(self, key: Sequence[int]) -> None:
        """Whole numbers of 0 or more; the same ones give the same noise."""
        self._generator = np.random.default_rng(list(key))

    def integers(self, size: int, deviation: float) -> NDArray[np.int64]:
        """See `Noise.integers`."""
        _check_deviation(deviation)
        drawn: NDArray[np.int64] = np.rint(self._generator.normal(0.0, deviation, size)).astype(np.int64)
        return drawn

    def chosen(self, count: int, rate: float) -> list[int]:
        """See `Noise.chosen`."""
        _check_rate(rate)
        return [int(index) for index in np.flatnonzero(self._generator.random(count) < rate)]


def rounding_cost(size: int, steps: int, deviation: float, noise_multiplier: float) -> tuple[float, float]:
    """What drawing with finite precision may add to a claim (derived above).

    Args:
        size: numbers released in a step.
        steps: how many.
        deviation: of the noise, in units of the grid.
        noise_multiplier: the same in units of the clipping norm.

    Returns:
        What to add to epsilon and to delta.
    """
    coarse, fine = _scales(deviation)
    eta = 87 * max(deviation / coarse, fine) * 2.0 ** (5 - _PRECISION)
    draws = size * steps
    alike = steps * eta * math.sqrt(size) / (math.sqrt(2 * math.pi) * noise_multiplier)
    epsilon = 2 * eta * math.sqrt(2 * draws * math.log(1e12)) + alike + 2 * draws * eta**2
    return epsilon, 1e-12 + draws * 3e-20


def _scales(deviation: float) -> tuple[int, int]:
    """The step of the coarse Gaussian, and the deviation of the fine one, which is 0 where there is none."""
    if deviation < _ONE_SCALE:
        return 1, 0
    step = math.isqrt(int(deviation / 2))
    return step, 2 * step


def _whole(pairs: Floats, deviation: float) -> NDArray[np.int64]:
    """Pairs of standard Gaussians (2, N) to one whole number each, of this deviation: (N,)."""
    step, fine = _scales(deviation)
    whole: NDArray[np.int64] = np.rint(pairs[0] * (math.sqrt(deviation**2 - fine**2) / step)).astype(np.int64)
    if fine:
        whole *= step
        whole += np.rint(pairs[1] * fine).astype(np.int64)
    return whole


def _gaussians(words: Words) -> Floats:
    """Box and Muller's pairs for words (3, N), see the head of this module: (2, N)."""
    radius = np.sqrt(-2 * _logarithm(words))
    sine = np.sin(words[2].view(np.int64) * (math.pi / 4 * 2.0**-63))
    square = sine * sine
    rest = 1 - square
    cosine_of_all = 1 - 8 * square * rest  # of four times the angle, in [-pi, pi]
    return np.stack([radius * cosine_of_all, radius * (4 * sine * np.sqrt(rest) * (1 - 2 * square))])


def _logarithm(words: Words) -> Floats:
    """The logarithm of the u of two words, u = (words[0] + (words[1] + 1/2) / 2**64) / 2**64: (N,)."""
    high = (words[0] & ~_BEYOND).astype(np.float64)
    low = (words[0] & _BEYOND) + (words[1] + 0.5) * 2.0**-64
    rounded = high + low
    left = low - (rounded - high)  # what the sum lost, exactly (Dekker 1971): high is 0 or the larger one
    logarithm: Floats = np.log(rounded * 2.0**-64) + left / rounded
    return logarithm


def _words(count: int) -> Words:
    """Words of 64 unpredictable bits: (count,)."""
    cipher = Cipher(algorithms.ChaCha20(os.urandom(32), bytes(16)), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(8 * count)), np.uint64)


def _blocks(count: int) -> Iterator[tuple[int, Words]]:
    for start in range(0, count, BLOCK):
        yield start, _words(min(BLOCK, count - start))


def _check_deviation(deviation: float) -> None:
    if not 0 < deviation <= MOST_DEVIATION:
        raise ConfigurationError(f"the deviation of noise must be in (0, 2**48] units of the grid, got {deviation!r}")


def _check_rate(rate: float) -> None:
    if not 0 < rate <= 1:
        raise ConfigurationError(f"a sampling rate must be in (0, 1], got {rate!r}")
