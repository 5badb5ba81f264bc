"""The average of the global model over rounds: later rounds count more, and their noise cancels.

Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, with exponentially
falling weights. The federation trains on from its last model; the average is what it ends with. The paper measures a
batch norm's statistics anew for the averaged weights; a server has no data, so statistics are averaged like weights.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.weights import COUNTER, Weights


def running_average(before: Weights | None, weights: Weights, decay: float) -> Weights:
    """Decay · before + (1 - decay) · weights, batch counters aside; the weights themselves after the first round."""
    if before is None:
        return dict(weights)
    return {name: _mixed(name, before, value, decay) for name, value in weights.items()}


def _mixed(name: str, before: Mapping[str, NDArray[Any]], value: NDArray[Any], decay: float) -> NDArray[Any]:
    if name.endswith(COUNTER):
        return value
    old = before[name].astype(np.float64)
    return np.asarray(decay * old + (1 - decay) * value.astype(np.float64), dtype=value.dtype)
