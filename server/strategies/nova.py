"""FedNova: sites that take more steps do not count for more than their share.

Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization", NeurIPS 2020. With
tau_k local steps and shares w_k the step is (Σ w_k tau_k) · Σ w_k u_k / tau_k: directions are averaged, and the length
is that of a mean site. That normaliser is the one of plain local steps. Sites here take AdamW's, whose length hardly
depends on the gradients' and whose moments go on from round to round: their number is as good a measure of how far a
site goes, and no more than that.
"""

import math
from collections.abc import Mapping


def nova_coefficients(shares: Mapping[str, float], steps: Mapping[str, int]) -> Mapping[str, float]:
    """What each update is multiplied by; shares where all sites take as many steps."""
    effective = math.fsum(shares[site] * steps[site] for site in shares)
    return {site: share * effective / steps[site] for site, share in shares.items()}
