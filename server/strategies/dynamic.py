"""FedDyn's server: the mean of the sites' models, less what their terms have added up to.

Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021. With N sites, of which those in P
answered, h' = h - alpha / N · Σ_P (w_k - x) and x' = mean over P of w_k - h' / alpha. What is kept is N h, the sum of
what the sites keep, to which nothing happens when a site joins or is gone for good. The sites' part is
`client.strategies.feddyn`.
"""

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def dynamic_step(
    change: Doubles, memory: Doubles | None, alpha: float, answered: int, sites: int
) -> tuple[Doubles, Doubles]:
    """The step of one parameter, and N h'.

    Args:
        change: the mean update of those who answered.
        memory: N h, or None before the first round.
        alpha: the strategy's.
        answered: how many sites answered, at least 1.
        sites: how many the run has, N.
    """
    renewed = (np.zeros_like(change) if memory is None else memory) - alpha * answered * change
    return change - renewed / (alpha * sites), renewed
