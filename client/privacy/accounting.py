"""What training has cost a patient in privacy, and the noise that a cost allows.

Epsilon here is for adding or removing one patient, and never below the truth; `client.privacy.losses` says how.
Opacus's accountants are here as cross-checks: `prv_epsilon` follows the removal only and adds 0.01, `rdp_epsilon` is
looser by a tenth.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from client.privacy.losses import grid_epsilon, quick_epsilon, unsampled_epsilon
from segformer3d.errors import ConfigurationError

MOST_NOISE = 1e6  # clipping norms; calibration gives up beyond
LEAST_NOISE = 1e-2
MOST_ROUNDS = 100_000

_Bound = Callable[[Sequence["Event"], float], float]


@dataclass(frozen=True)
class Event:
    """Steps of the Poisson-sampled Gaussian mechanism that share their sampling rate and their noise.

    Attributes:
        sampling_rate: probability of each patient to be in a step, in (0, 1].
        noise_multiplier: standard deviation of the noise on the sum, in clipping norms, > 0.
        steps: how many, at least 1.

    Raises:
        ConfigurationError: a value breaks its rule.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        if type(self.sampling_rate) not in (int, float) or not 0 < self.sampling_rate <= 1:
            raise ConfigurationError(f"sampling_rate must be a number in (0, 1], got {self.sampling_rate!r}")
        if type(self.noise_multiplier) not in (int, float) or not 0 < self.noise_multiplier < math.inf:
            raise ConfigurationError(f"noise_multiplier must be a finite number > 0, got {self.noise_multiplier!r}")
        if type(self.steps) is not int or self.steps < 1:
            raise ConfigurationError(f"steps must be a whole number of at least 1, got {self.steps!r}")

    def to_json(self) -> dict[str, Any]:
        """The event as plain JSON values; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Event":
        """Rebuild an event that `to_json` wrote.

        Raises:
            ConfigurationError: a name is missing or unknown, or a value breaks its rule.
        """
        known = {"sampling_rate", "noise_multiplier", "steps"}
        if set(values) != known:
            raise ConfigurationError(f"an event must hold exactly {', '.join(sorted(known))}, got {sorted(values)}")
        return cls(**values)


def spent(events: Sequence[Event], delta: float) -> float:
    """An upper bound of the epsilon of all events together, for adding or removing one patient.

    Args:
        events: in any order; none costs nothing.
        delta: in (0, 1).

    Returns:
        Epsilon >= 0; `math.inf` where nothing finite can be proved. Never below the truth, and above it by about
        0.1 % at most for epsilon in [0.1, 100] and up to 100,000 steps.

    Raises:
        ConfigurationError: delta breaks its rule.
    """
    _check_delta(delta)
    merged = _merged(events)
    if not merged:
        return 0.0
    if all(each.sampling_rate == 1 for each in merged):
        return unsampled_epsilon(merged, delta)
    return min(grid_epsilon(merged, delta), quick_epsilon(merged, delta))


def rdp_epsilon(events: Sequence[Event], delta: float) -> float:
    """Epsilon by Opacus's Renyi accountant: an upper bound, looser than `spent`, `math.inf` where it cannot tell."""
    from opacus.accountants import RDPAccountant

    if any(each.noise_multiplier < LEAST_NOISE for each in events):
        return math.inf  # its series for fractional orders would not end
    return _of_opacus(RDPAccountant(), events, delta)


def prv_epsilon(events: Sequence[Event], delta: float) -> float:
    """Epsilon by Opacus's accountant of privacy loss random variables: the upper end of its estimate of a removal.

    It is `math.inf` where its grid fails. Seconds and gigabytes where epsilon or the number of steps is large.
    """
    from opacus.accountants import PRVAccountant

    return _of_opacus(PRVAccountant(), events, delta)


def calibrate(epsilon: float, delta: float, sampling_rate: float, steps: int, before: Sequence[Event] = ()) -> float:
    """The smallest noise multiplier with which the steps, after `before`, stay within epsilon.

    Args:
        epsilon: what all of it may cost, finite and > 0.
        delta: in (0, 1).
        sampling_rate: probability of each patient to be in a step, in (0, 1].
        steps: how many, at least 1.
        before: what the same patients have been part of already.

    Returns:
        Noise in clipping norms, rounded up to 4 significant digits: `spent` with it never exceeds epsilon.

    Raises:
        ConfigurationError: an argument breaks its rule, or no noise is enough.
    """
    if type(epsilon) not in (int, float) or not 0 < epsilon < math.inf:
        raise ConfigurationError(f"epsilon must be a finite number > 0, got {epsilon!r}")

    def excess(noise: float, bound: _Bound = spent) -> float:
        """ln(cost / epsilon): nearly a straight line over ln(noise)."""
        cost = bound((*before, Event(sampling_rate, noise, steps)), delta)
        return math.log(cost / epsilon) if cost > 0 else -math.inf

    if excess(MOST_NOISE) > 0:
        already = spent(before, delta)
        raise ConfigurationError(
            f"no noise keeps {steps} steps within epsilon {epsilon:g} at delta {delta:g}, of which {already:.4g} is "
            "spent already; allow a larger epsilon or fewer steps"
        )
    enough = _root(lambda noise: excess(noise, quick_epsilon), 1.0, 4.0)
    noise = _rounded_up(_root(excess, enough, 1.2) if enough < MOST_NOISE else _root(excess, 1.0, 4.0))
    while excess(noise) > 0:  # the bound is not perfectly smooth
        noise = _rounded_up(noise * 1.0005)
    return noise


def rounds_that_fit(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    noise_multiplier: float,
    steps_per_round: int,
    before: Sequence[Event] = (),
) -> int:
    """How many more rounds stay within epsilon, after `before`: 0 if none, 100,000 at most.

    Raises:
        ConfigurationError: an argument breaks its rule.
    """
    one = Event(sampling_rate, noise_multiplier, steps_per_round)

    def fits(rounds: int) -> bool:
        more = Event(one.sampling_rate, one.noise_multiplier, one.steps * rounds)
        return spent((*before, more), delta) <= epsilon

    if not fits(1):
        return 0
    high = 2
    while high < MOST_ROUNDS and fits(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return min(low, MOST_ROUNDS)


def joint_multiplier(noise_multiplier: float, count_multiplier: float) -> float:
    """The noise of a gradient beside which a noisy count is released, both together at the price of one.

    Andrew et al. 2021, theorem 1: a count of patients below the clipping norm, minus one half each, has sensitivity
    1/2; with noise of `count_multiplier` (patients) on it, gradients need (z^-2 - (2 sigma_b)^-2)^(-1/2).

    Args:
        noise_multiplier: z, what the accountant is told.
        count_multiplier: sigma_b, in patients, more than z / 2.

    Raises:
        ConfigurationError: the count alone would cost as much.
    """
    if not 0 < noise_multiplier < 2 * count_multiplier < math.inf:
        raise ConfigurationError(
            f"the noise of the count must be more than half the noise multiplier {noise_multiplier!r}, got "
            f"{count_multiplier!r}; give the count more noise"
        )
    rest = (1 - noise_multiplier / (2 * count_multiplier)) * (1 + noise_multiplier / (2 * count_multiplier))
    return math.nextafter(noise_multiplier / math.sqrt(rest), math.inf)


def _check_delta(delta: float) -> None:
    if type(delta) not in (int, float) or not 0 < delta < 1:
        raise ConfigurationError(f"delta must be a number in (0, 1), got {delta!r}")


def _merged(events: Sequence[Event]) -> list[Event]:
    """Equal events as one, in one order; all that were not sampled as one step: Gaussians add up exactly."""
    steps: Counter[tuple[float, float]] = Counter()
    for each in events:
        steps[float(each.sampling_rate), float(each.noise_multiplier)] += each.steps
    whole = [k / z / z for (q, z), k in steps.items() if q == 1]
    together = min(max(math.fsum(whole), 1e-300), 1e300)
    one = [Event(1.0, 1 / math.sqrt(together) * (1 - 1e-15), 1)] if whole else []
    return one + [Event(q, z, k) for (q, z), k in sorted(steps.items()) if q < 1]


def _of_opacus(accountant: Any, events: Sequence[Event], delta: float) -> float:
    _check_delta(delta)
    merged = _merged(events)
    if not merged:
        return 0.0
    accountant.history = [(each.noise_multiplier, each.sampling_rate, each.steps) for each in merged]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # which order was best, and which of its integrals is coarse
            epsilon = float(accountant.get_epsilon(delta))
    except (ArithmeticError, ValueError, RuntimeError, MemoryError):
        return math.inf
    return max(epsilon, 0.0) if not math.isnan(epsilon) else math.inf


def _root(excess: Callable[[float], float], start: float, factor: float) -> float:
    """The noise at which the excess falls to 0 or below, to 1e-4, by secants that keep it between both ends."""
    high = low = start
    above = below = excess(start)
    while below > 0 and high < MOST_NOISE:
        low, above = high, below
        high = min(high * factor, MOST_NOISE)
        below = excess(high)
    while above <= 0 and low > LEAST_NOISE:
        high, below = low, above
        low /= factor
        above = excess(low)
    if below > 0 or above <= 0:
        return high if below > 0 else low
    while high / low > 1.0001:
        share = above / (above - below) if math.isfinite(above - below) else 0.5
        middle = min(max(low * (high / low) ** share, low * 1.00005), high / 1.00005)
        at = excess(middle)
        if at > 0:
            low, above = middle, at
        else:
            high, below = middle, at
    return high


def _rounded_up(value: float) -> float:
    """Four significant digits, upwards."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    rounded = float(f"{math.ceil(value / unit) * unit:.4g}")
    return rounded if rounded >= value else float(f"{rounded + unit:.4g}")
