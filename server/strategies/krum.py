"""Multi-Krum: the updates that lie closest to others are averaged, and the rest is left out.

Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017. Made for f
hostile sites among n >= 2 f + 3: an update's score is the sum of its squared distances to its n - f - 2 nearest others,
and the n - f updates of the lowest scores are averaged with their shares.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from client.weights import Weights, parameters_of


def chosen_sites(updates: Mapping[str, Weights], hostile: int) -> Sequence[str]:
    """The sites whose updates are averaged, by name."""
    sites = sorted(updates)
    distances = squared_distances([updates[site] for site in sites])
    others = len(sites) - hostile - 2
    scores = [float(np.sort(np.delete(row, index))[:others].sum()) for index, row in enumerate(distances)]
    order = sorted(range(len(sites)), key=lambda index: (scores[index], sites[index]))
    return sorted(sites[index] for index in order[: len(sites) - hostile])


def squared_distances(updates: Sequence[Weights]) -> NDArray[np.float64]:
    """Between the parameters of every two updates, (N, N)."""
    found = np.zeros((len(updates), len(updates)))
    names = sorted(parameters_of(updates[0]))
    for i in range(len(updates)):
        for j in range(i):
            differences = ((updates[i][name].ravel() - updates[j][name].ravel()) for name in names)
            found[i, j] = found[j, i] = sum(float(np.einsum("i,i->", d, d, dtype=np.float64)) for d in differences)
    return found
