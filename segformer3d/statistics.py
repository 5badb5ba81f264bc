"""What a list of per-case scores says: mean, spread, and how far to trust the mean.

The interval is the percentile bootstrap (Efron 1979): draw as many cases as there are, with replacement, 10,000 times,
and take the 2.5th and 97.5th percentiles of the means. Promises: the same values and seed give the same numbers, and
a value that is missing (None or NaN) is never averaged, always counted.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
MINIMUM_COUNT = 5  # of fewer cases, no mean is told and nothing is tested
INTERVAL_PERCENTILES = (2.5, 97.5)
_BLOCK = 1_000  # resamples drawn at once, so that a cohort of thousands needs megabytes, not gigabytes

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n - 1) and 95 % bootstrap interval [low, high] of the mean.

    `count` values were used and `excluded` ones were missing. Without values there is no mean, with fewer than two no
    standard deviation; both are None then. One value's interval is that value.
    """

    mean: float | None
    standard_deviation: float | None
    low: float | None
    high: float | None
    count: int
    excluded: int

    def to_json(self) -> dict[str, float | int | None]:
        """The summary as plain JSON values, null for what is undefined."""
        return asdict(self)


def summarise(values: Iterable[float | None], seed: int) -> Summary:
    """Summarise one score over the cases; None and NaN are excluded and counted."""
    everything = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    used = everything[~np.isnan(everything)]
    excluded = everything.size - used.size
    if used.size == 0:
        return Summary(None, None, None, None, 0, excluded)
    low, high = bootstrap_interval(used, seed)
    spread = float(used.std(ddof=1)) if used.size > 1 else None
    return Summary(float(used.mean()), spread, low, high, used.size, excluded)


def not_over_read(summary: Summary) -> Summary:
    """Of fewer than `MINIMUM_COUNT` values the interval alone, of a single one nothing but that there is one."""
    if summary.count >= MINIMUM_COUNT:
        return summary
    if summary.count > 1:
        return replace(summary, mean=None, standard_deviation=None)
    return Summary(None, None, None, None, summary.count, summary.excluded)


def bootstrap_interval(values: Values, seed: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval (low, high) of the mean of at least one value, none of them NaN."""
    generator = np.random.default_rng(seed)
    shape = (_BLOCK, values.size)
    blocks = (values[generator.integers(values.size, size=shape)].mean(axis=1) for _ in range(RESAMPLES // _BLOCK))
    low, high = np.percentile(np.concatenate(list(blocks)), INTERVAL_PERCENTILES)
    return float(low), float(high)
