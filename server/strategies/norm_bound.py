"""Updates no longer than the median one: a site can push no harder than a usual site does.

Sun et al., "Can You Really Backdoor Federated Learning?", 2019, whose bound is fixed; the median of the round's norms
follows training as it calms down, and a hostile minority cannot move it far.
"""

from collections.abc import Mapping
from statistics import median


def bounded_coefficients(shares: Mapping[str, float], norms: Mapping[str, float]) -> Mapping[str, float]:
    """What each update is multiplied by: its share, and less where it is longer than the median."""
    bound = median(norms.values())
    return {site: share * min(1.0, bound / norms[site]) if norms[site] else share for site, share in shares.items()}
