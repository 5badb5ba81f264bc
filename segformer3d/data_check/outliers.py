"""Which of many numbers stand apart: robust z-scores (Iglewicz and Hoaglin, 1993).

    z = |x - median| / max(1.4826 MAD, floor)    stands apart above 5 (1 + 10 / n)

The median and the median absolute deviation (MAD) do not move when a few cases are wrong; 1.4826 makes the MAD of a
normal distribution its standard deviation. Of few cases the MAD itself is uncertain, which the limit allows for: of a
thousand sets of n normal numbers, two at the most have one that stands apart, whatever n. The floor is a difference
that nobody needs to hear of, however alike the others are.
"""

from collections.abc import Sequence

import numpy as np

# Of fewer cases nobody can say what is usual.
LEAST_CASES = 10
MOST_SPREADS, FOR_FEW = 5.0, 10.0
NORMAL = 1.4826


def most_spreads(count: int) -> float:
    """How many spreads away from the median a value may lie among so many."""
    return MOST_SPREADS * (1 + FOR_FEW / count)


def standing_apart(values: Sequence[float], floor: float) -> list[int]:
    """Indices of the values that stand apart; NaN are left out, and of fewer than `LEAST_CASES` none is judged."""
    array = np.asarray(values, np.float64)
    known = np.flatnonzero(np.isfinite(array))
    if known.size < LEAST_CASES:
        return []
    distances = np.abs(array[known] - np.median(array[known]))
    spread = max(NORMAL * float(np.median(distances)), floor)
    return [int(index) for index in known[distances > most_spreads(known.size) * spread]]
