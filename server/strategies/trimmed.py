"""Coordinate by coordinate: the median, or the mean without the extremes.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018. Sites count alike:
with weights, a site that says it has many cases would be the median alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def coordinate_median(values: Sequence[NDArray[Any]]) -> Doubles:
    """The median of every coordinate over the sites; of two in the middle, their mean."""
    return np.asarray(np.median(np.stack(values).astype(np.float64), axis=0))


def trimmed_mean(values: Sequence[NDArray[Any]], hostile: int) -> Doubles:
    """The mean of every coordinate without the `hostile` lowest and highest values, of more than twice as many."""
    ordered = np.sort(np.stack(values).astype(np.float64), axis=0)
    return np.asarray(ordered[hostile : len(values) - hostile].mean(axis=0))
