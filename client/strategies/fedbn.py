"""FedBN: normalisation layers stay at the site, where scanners differ.

Li et al., "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", ICLR 2021. A site puts its own
norms into the global model before it measures and trains it, and keeps them afterwards. It still sends them: their mean
is what a hospital that has never trained gets, and what the last model has. Who uses that model elsewhere must say
whose norms are wanted (`segformer3d.norms.choose_norms`).
"""

from collections.abc import Mapping

from torch import Tensor

from client.strategies.rule import LocalRule
from segformer3d.model import SegFormer3D
from segformer3d.norms import KEPT_AS, norms_in, norms_of, put_norms


def put_own_norms(rule: LocalRule, model: SegFormer3D, memory: Mapping[str, Tensor]) -> None:
    """The site's own norms instead of those of the global model, if the rule says so and the site has any."""
    if rule.local_norms:
        put_norms(model, norms_in(memory))


def own_norms(model: SegFormer3D) -> dict[str, Tensor]:
    """The norms that a site must remember, by the names that they have in its memory."""
    return {KEPT_AS + name: value for name, value in norms_of(model).items()}
