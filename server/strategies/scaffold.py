"""SCAFFOLD's server: the mean control variate of all sites.

Karimireddy et al., ICML 2020: c' = c + |S| / N · mean over S of (c_k' - c_k). The sites' part is
`client.strategies.scaffold`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.weights import Weights, parameters_of


def first_control(weights: Weights) -> Weights:
    """Zeros for every parameter."""
    return {name: np.zeros_like(value) for name, value in parameters_of(weights).items()}


def renewed_control(control: Weights, changes: Sequence[Weights], answered: float) -> Weights:
    """C' from what the sites sent, by name of the site; `answered` is the share of all sites, in (0, 1]."""
    return {name: _renewed(value, [change[name] for change in changes], answered) for name, value in control.items()}


def _renewed(value: NDArray[Any], changes: Sequence[NDArray[Any]], answered: float) -> NDArray[Any]:
    mean = sum(change.astype(np.float64) for change in changes) / len(changes)
    return np.asarray(value + answered * mean, dtype=value.dtype)
