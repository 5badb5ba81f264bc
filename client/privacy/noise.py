"""Noise and Poisson samples: one source that nobody can predict, and one for experiments that anyone can repeat.

**Floating point.** Noise added to a floating-point sum leaks the sum through its low bits (Mironov 2012; Holohan and
Braghin 2021), and the sum's own rounding exceeds the sensitivity on paper (Casacuberta et al. 2022). Neither applies
here: gradients are cut to a grid of whole numbers (2**-23 of the clipping norm) before they are added, exactly; noise
is whole numbers, too; so the sensitivity is exact, and the release lies on one grid whatever the data. With an ideal
Gaussian g, x + round(s g) = round(x + s g) for a whole x: rounded noise is post-processing of the Gaussian mechanism,
whose epsilon holds as it is. (The discrete Gaussian of Canonne, Kamath and Steinke 2020 is another distribution with
an accountant of its own, and OpenDP's exact sampler draws 3e4 to 7e4 a second where a step needs 4.5e6.)

What is left is how far the drawn numbers are from the ideal. g = sqrt(-2 ln u) cos(v), one draw from one pair: u has
128 random bits rounded to a float's precision p (64 bits in x87's long double), so that the tail reaches 13.3
deviations; v has min(64, p). cos(v) is 1 - 8 t (1 - t) with t = sin(v/4)^2, which is faster. Let r = sqrt(-2 ln u).

1. Rounding. Summing what ln, sqrt, sin (one unit in the last place each, as glibc states) and the products round,
   |g' - g| < r 2**(5-p). But for r > 9.5 (probability 3e-20 a draw, counted against delta) this moves the ends of a
   cell of the grid, of width 1/s, by 9.5 * 2**(5-p), and so changes its probability relatively by 19 s 2**(5-p).
2. Counting. A cell holds a whole number of pairs (u, v); its ends miscount it by at most 6 * 2**-p exp(-g^2/2), against
   a probability of exp(-g^2/2) / (s sqrt(2 pi)): relatively less than s 2**(5-p). No cell within reach is empty.

Together eta = 20 s 2**(5-p): 7.6e-10 for s = 2.6 * 2**23 and p = 64. Let d numbers be released in each of T steps,
n = d T. The privacy loss of the real release differs from the ideal one by n terms for either of the two data sets,
each at most eta. Their mean is below eta^2 under their own distribution, and under the neighbour's at most eta times
the total variation between the two: in a step at most eta sqrt(d) / (sqrt(2 pi) z), z the noise multiplier. By Azuma's
inequality their sum is, but for a probability of 1e-12, below

    2 eta sqrt(2 n ln 1e12) + T eta sqrt(d) / (sqrt(2 pi) z) + 2 n eta^2,

which `rounding_cost` computes: for d = 4.5e6, T = 100 and z = 2.6 it is 2.7e-4 of epsilon and 1.5e-11 of delta. Where
long double is double (p = 53: Windows, Apple's own processors) it is 0.6 of epsilon; for 5,000 trained parameters 0.02.

**Time.** A draw takes the same words and the same operations whatever comes out; nothing is rejected and redrawn, which
is what an attacker with a clock measures (Jin et al. 2022).
"""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from segformer3d.errors import ConfigurationError

BLOCK = 1 << 14  # draws at a time: what fits into a processor's cache
MOST_DEVIATION = 2.0**58  # 13.3 deviations fit into 64 bits
_QUARTER_PI: Any = np.arctan(np.longdouble(1))
_PRECISION = min(int(np.finfo(np.longdouble).nmant) + 1, 64)


class Noise(Protocol):
    """A source of whole-number Gaussian noise and of Poisson samples."""

    @property
    def secure(self) -> bool:
        """Whether a claim of privacy may rest on it."""

    def integers(self, size: int, deviation: float) -> NDArray[np.int64]:
        """Independent Gaussians of mean 0, rounded to whole numbers.

        Args:
            size: how many.
            deviation: standard deviation before rounding, in (0, 2**58].

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
        """See `Noise.integers`. A number takes about 0.15 microseconds of one core; many are drawn by all cores."""
        _check_deviation(deviation)
        drawn = np.empty(size, np.int64)

        def fill(start: int) -> None:
            part = drawn[start : start + BLOCK]
            part[:] = _rounded_gaussians(_words(3 * len(part)).reshape(3, -1), deviation)

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
    eta = 20 * deviation * 2.0 ** (5 - _PRECISION)
    draws = size * steps
    alike = steps * eta * math.sqrt(size) / (math.sqrt(2 * math.pi) * noise_multiplier)
    return 2 * eta * math.sqrt(2 * draws * math.log(1e12)) + alike + 2 * draws * eta**2, 1e-12 + draws * 3e-20


def _rounded_gaussians(words: NDArray[np.uint64], deviation: float) -> NDArray[np.int64]:
    """Box and Muller's cosine for words (3, N), see the head of this module: (N,)."""
    real: Any = np.longdouble
    u = (words[0].astype(real) + (words[1].astype(real) + real(0.5)) * real(2.0**-64)) * real(2.0**-64)
    sine = np.sin(words[2].view(np.int64).astype(real) * (_QUARTER_PI * real(2.0**-63)))
    square = sine * sine
    cosine = 1 - 8 * square * (1 - square)  # of four times the angle, in [-pi, pi]
    whole: NDArray[np.int64] = np.rint(np.sqrt(-2 * np.log(u)) * cosine * real(deviation)).astype(np.int64)
    return whole


def _words(count: int) -> NDArray[np.uint64]:
    """Words of 64 unpredictable bits: (count,)."""
    cipher = Cipher(algorithms.ChaCha20(os.urandom(32), bytes(16)), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(8 * count)), np.uint64)


def _blocks(count: int) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    for start in range(0, count, BLOCK):
        yield start, _words(min(BLOCK, count - start))


def _check_deviation(deviation: float) -> None:
    if not 0 < deviation <= MOST_DEVIATION:
        raise ConfigurationError(f"the deviation of noise must be in (0, 2**58] units of the grid, got {deviation!r}")


def _check_rate(rate: float) -> None:
    if not 0 < rate <= 1:
        raise ConfigurationError(f"a sampling rate must be in (0, 1], got {rate!r}")
