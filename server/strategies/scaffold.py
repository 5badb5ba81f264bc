"""SCAFFOLD's server: the sum of all sites' control variates, of which c is the mean.

Karimireddy et al., ICML 2020: c' = c + 1 / N · sum over S of (c_k' - c_k). What is kept is N c, to which nothing
happens when a site joins or is gone for good: one that has not answered yet has told nought. The sites' part is
`client.strategies.scaffold`.
"""

from collections.abc import Sequence

import numpy as np

from client.weights import Weights, parameters_of


def first_sum(weights: Weights) -> Weights:
    """Zeros for every parameter."""
    return {name: np.zeros_like(value) for name, value in parameters_of(weights).items()}


def renewed_sum(total: Weights, changes: Sequence[Weights]) -> Weights:
    """The sum after a round, from the changes that sites sent, in the order of their names."""
    return {
        name: np.asarray(value + sum(change[name].astype(np.float64) for change in changes), dtype=value.dtype)
        for name, value in total.items()
    }


def mean_control(total: Weights, sites: int) -> Weights:
    """The mean, c, over so many sites, at least 1."""
    return {name: np.asarray(value / sites, dtype=value.dtype) for name, value in total.items()}
