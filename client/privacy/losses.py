"""The privacy loss of Poisson-sampled Gaussian steps: epsilon by composition on a grid, and bounds that need none.

A step samples every patient with probability q and adds Gaussian noise of z clipping norms. Let P and Q be what it
releases with and without one patient, at worst: (1-q) N(0, z^2) + q N(1, z^2) and N(0, z^2). Removing a patient costs
the privacy loss ln(P/Q) under P, adding one costs ln(Q/P) under Q. Neither is always the worse under composition (Zhu,
Dong and Wang 2022), so both are followed and the larger epsilon counts.

`grid_epsilon` puts the loss of one step on a grid such that delta(epsilon) is exact at the grid's points and a chord,
which lies above, between them ("connect the dots", Doroshenko et al. 2022), and composes by Fourier transform.
Everything that the grid loses is counted against delta: it is an upper bound without an error term to add.
Where no grid is fine enough, moments of whole orders (RDP) and the same steps without sampling bound it, too.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from client.privacy.accounting import Event

_MOST_LOSS = 500.0  # an epsilon beyond this is no privacy: RDP's bound of it is good enough
_MOST_POINTS = 1 << 22
_SLACK = 1e-3  # share of delta that what falls off the grid may take
_ROUNDING = 2.0**-48  # of delta, per step: floating-point error of powers of a spectrum, which grows with the power
_ALPHAS = sorted({round(2 * 1.2**k) for k in range(40)})
Array = NDArray[np.float64]


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The exact epsilon of a Gaussian mechanism without sampling (Balle and Wang 2018, theorem 8).

    Args:
        mu: sensitivity over standard deviation, >= 0. Composition adds the squares.
        delta: in (0, 1).
    """
    from scipy.special import erfcx, ndtr

    def delta_of(epsilon: float) -> float:
        # exp(epsilon) * Phi(-b) by way of erfcx, which overflows for no epsilon.
        a, b = mu / 2 - epsilon / mu, mu / 2 + epsilon / mu
        return float(ndtr(a) - math.exp(-a * a / 2) * erfcx(b / math.sqrt(2)) / 2)

    if mu == 0:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) if mu < 1e100 else math.inf
    if high == math.inf:
        return high
    return _smallest(lambda epsilon: delta_of(epsilon) <= delta, 0.0, high)


def _smallest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The upper end of the last interval of a bisection for where a condition begins to hold."""
    if holds(low):
        return low
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def grid_epsilon(events: Sequence["Event"], delta: float) -> float:
    """Epsilon by composition on a grid, the worse of both directions; `math.inf` where no grid is fine enough."""
    reach, order = _reach(events, delta)
    steps = sum(each.steps for each in events)
    width = min(reach / 2**13, math.sqrt(reach / steps) / 250)
    if not reach < _MOST_LOSS or 2 * reach / width > _MOST_POINTS:
        return math.inf
    half = math.ceil(reach / width)
    return max(_directed_epsilon(events, delta, half, width, order, removed) for removed in (True, False))


def _directed_epsilon(
    events: Sequence["Event"], delta: float, half: int, width: float, order: float, removed: bool
) -> float:
    """Epsilon of removing, or of adding, one patient; the grid has the points -half * width to half * width."""
    from scipy.fft import irfft, next_fast_len, rfft

    losses: Array = np.arange(-half, half + 1, dtype=np.float64) * width
    size = next_fast_len(2 * half + 1, real=True)
    spectrum: Any = 1.0
    beyond, tail = 0.0, -order * losses[-1]
    for each in events:
        masses, infinite = _masses(losses, each, removed)
        beyond += each.steps * infinite
        tail += each.steps * _log_moment(masses, losses, order)
        centred = np.zeros(size)
        centred[: half + 1], centred[-half:] = masses[half:], masses[:half]
        spectrum = spectrum * rfft(centred) ** each.steps
    around = irfft(spectrum, size)
    composed = np.maximum(np.concatenate([around[-half:], around[: half + 1]]), 0)
    # Sums beyond the grid's end come round at its beginning: by Chernoff's bound they are no more than this.
    rest = delta - beyond - math.exp(min(tail, 0.0)) - _ROUNDING * sum(each.steps for each in events)
    return _epsilon_of(losses, composed, rest)


def _epsilon_of(losses: Array, masses: Array, delta: float) -> float:
    """Where E[1 - exp(epsilon - loss)]+ falls to delta."""
    if delta <= 0:
        return math.inf
    above = np.cumsum(masses[::-1])[::-1]
    scaled = np.cumsum((masses * np.exp(-losses))[::-1])[::-1]
    deltas = above - np.exp(losses) * scaled
    zero = len(losses) // 2
    if deltas[zero] <= delta:
        return 0.0
    at = zero + int(np.argmax(deltas[zero:] <= delta))  # at the last point the sum is empty, so there is one
    return float(max(0.0, math.log((above[at] - delta) / scaled[at]))) * (1 + 1e-6)


def _masses(losses: Array, event: "Event", removed: bool) -> tuple[Array, float]:
    """One step's loss on the grid: (points,) that sum to 1 less the second value, the probability of a loss beyond.

    The probabilities p and r of the two hypotheses in a cell go to its ends such that both are kept.
    """
    own, other = _tails(losses, event, removed)
    p, r = -np.diff(own), -np.diff(other)
    width = losses[1] - losses[0]
    upper = np.clip((p - r * np.exp(losses[:-1])) / -math.expm1(-width), 0, p)
    masses = np.zeros(len(losses))
    masses[:-1] += p - upper
    masses[1:] += upper
    masses[0] += 1 - own[0]
    return masses, float(own[-1])


def _tails(losses: Array, event: "Event", removed: bool) -> tuple[Array, Array]:
    """The probability of a larger loss under the hypothesis that it is of, and under the other one."""
    from scipy.special import ndtr

    q, z = event.sampling_rate, event.noise_multiplier
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log1p(np.expm1(losses if removed else -losses) / q)
        at = np.where(np.isnan(ratio), -np.inf, z * ratio + 0.5 / z)  # in deviations: where the loss is reached
    shifted = at - 1 / z
    if removed:
        return (1 - q) * ndtr(-at) + q * ndtr(-shifted), ndtr(-at)
    return ndtr(at), (1 - q) * ndtr(at) + q * ndtr(shifted)


def _log_moment(masses: Array, losses: Array, order: float) -> float:
    """Ln E[exp(order * loss)]."""
    with np.errstate(divide="ignore"):
        return _log_sum(np.log(masses) + order * losses)


def _log_sum(logarithms: Array) -> float:
    largest = float(logarithms.max())
    return largest + math.log(np.exp(logarithms - largest).sum()) if math.isfinite(largest) else largest


def _reach(events: Sequence["Event"], delta: float) -> tuple[float, float]:
    """A loss that all events together hardly ever exceed, and the order of the moment that says so (Chernoff)."""
    return min(((total - math.log(_SLACK * delta)) / order, order) for order, total in _moments(events))


def quick_epsilon(events: Sequence["Event"], delta: float) -> float:
    """The better of the two bounds that need no grid, in a millisecond."""
    return min(_moments_epsilon(events, delta), unsampled_epsilon(events, delta))


def unsampled_epsilon(events: Sequence["Event"], delta: float) -> float:
    """Epsilon if every patient were in every step, which is never less: sampling is post-processing."""
    deviations = math.fsum(each.steps / each.noise_multiplier / each.noise_multiplier for each in events)
    return gaussian_epsilon(math.sqrt(deviations) * (1 + 1e-15), delta)


def _moments_epsilon(events: Sequence["Event"], delta: float) -> float:
    """Epsilon from the moments alone (Balle et al. 2020, theorem 21)."""
    bounds = [
        (total - math.log(delta) - math.log(order + 1)) / order + math.log(order / (order + 1))
        for order, total in _moments(events)
    ]
    return max(0.0, min(bounds)) * (1 + 1e-9)


def _moments(events: Sequence["Event"]) -> list[tuple[float, float]]:
    """Orders, and ln E[exp(order * loss)] of all events together."""
    each_step = [(each.steps, _renyi_moments(each.sampling_rate, each.noise_multiplier)) for each in events]
    return [
        (alpha - 1.0, math.fsum(steps * moments[number] for steps, moments in each_step))
        for number, alpha in enumerate(_ALPHAS)
    ]


@lru_cache(maxsize=256)  # a ledger asks about the same steps again and again
def _renyi_moments(sampling_rate: float, noise_multiplier: float) -> tuple[float, ...]:
    return tuple(_renyi_moment(sampling_rate, noise_multiplier, alpha) for alpha in _ALPHAS)


def _renyi_moment(q: float, z: float, alpha: int) -> float:
    """Ln E[exp((alpha - 1) * loss)] of a removal, for a whole alpha: section 3.3 of Mironov, Talwar and Zhang 2019."""
    from scipy.special import gammaln

    if q == 1:
        return alpha * (alpha - 1) / 2 / z / z
    k = np.arange(alpha + 1.0)
    chosen = gammaln(alpha + 1) - gammaln(k + 1) - gammaln(alpha - k + 1)
    with np.errstate(over="ignore"):  # of hardly any noise: the moment is infinite
        return _log_sum(chosen + (alpha - k) * math.log1p(-q) + k * math.log(q) + k * (k - 1) / 2 / z / z)
