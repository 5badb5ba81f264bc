"""The weight of each site in a mean.

"cases": n_k / Σ n, McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS
2017. "equal": one each. "loss": n_k F_k / Σ n F, F_k being the loss of the model as the site received it, so that sites
that are served worst count more: the gradient of the objective with q = 1 in Li et al., "Fair Resource Allocation in
Federated Learning", ICLR 2020. What a site says of its loss is believed, as the number of its cases is: only for sites
that trust each other. A site without a validation case counts with the mean of the others' losses.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from client.contract import TrainReply

Shares = Mapping[str, float]


def shares_of(kind: str, replies: Sequence[TrainReply]) -> Shares:
    """Each site's share, in (0, 1]; they add up to 1."""
    values = _KINDS[kind](replies)
    total = math.fsum(values)
    return {reply.site: value / total for reply, value in zip(replies, values, strict=True)}


def _cases(replies: Sequence[TrainReply]) -> list[float]:
    return [reply.training.cases for reply in replies]


def _equal(replies: Sequence[TrainReply]) -> list[float]:
    return [1.0] * len(replies)


def _loss(replies: Sequence[TrainReply]) -> list[float]:
    losses = [reply.validation.loss if reply.validation.cases else math.nan for reply in replies]
    known = [loss for loss in losses if math.isfinite(loss) and loss > 0]
    usual = math.fsum(known) / len(known) if known else 1.0
    counted = [loss if math.isfinite(loss) and loss > 0 else usual for loss in losses]
    return [reply.training.cases * loss for reply, loss in zip(replies, counted, strict=True)]


_KINDS: Mapping[str, Callable[[Sequence[TrainReply]], list[float]]] = {"cases": _cases, "equal": _equal, "loss": _loss}
