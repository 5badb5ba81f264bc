"""Which of many numbers stand apart: robust z-scores (Iglewicz and Hoaglin, 1993).

    z = |x - median| / max(1.4826 MAD, floor)

The median and the median absolute deviation (MAD) do not move when a few cases are wrong; 1.4826 makes the MAD of a
normal distribution its standard deviation. The floor is a difference that nobody needs to hear of, however alike the
others are.
"""

from collections.abc import Sequence

import numpy as np

# Of fewer cases nobody can say what is usual.
LEAST_CASES = 10
# In a normal distribution one case of two million; real ones have longer tails.
MOST_SPREADS = 5.0
NORMAL = 1.4826


def standing_apart(values: Sequence[float], floor: float) -> list[int]:
    """Indices of the values that stand apart; NaN are left out, and of fewer than `LEAST_CASES` none is judged."""
    array = np.asarray(values, np.float64)
    known = np.flatnonzero(np.isfinite(array))
    if known.size < LEAST_CASES:
        return []
    distances = np.abs(array[known] - np.median(array[known]))
    spread = max(NORMAL * float(np.median(distances)), floor)
    return [int(index) for index in known[distances > MOST_SPREADS * spread]]
