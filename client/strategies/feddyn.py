"""FedDyn: each site's loss gets a linear and a quadratic term, so that sites' optima agree with the federation's.

Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021. With h_i zero at first, a site's gradient
becomes g - h_i + alpha (w - x), x being what it received, and after the round h_i' = h_i - alpha (w - x), with w - x as
it arrives, so that server and sites remember the same. The server's part is `server.strategies.dynamic`.

h_i is the gradient at w only where the site has minimised its loss. A round of AdamW's steps, whose length does not
shrink with the gradient, ends short of or beyond that; with a small alpha the memory then adds up errors faster than
the terms can hold (docs/heterogeneity.md has the figures).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from client.strategies.proximal import proximal_pull


class Dynamic:
    """The terms of one round.

    Args:
        parameters: of the model, by name, with the values that were received.
        own: h_i from the site's last round, by name; empty in its first.
        alpha: the strength, above 0.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], own: Mapping[str, Tensor], alpha: float) -> None:
        self._parameters = parameters
        self._alpha = alpha
        self._pull = proximal_pull(list(parameters.values()), alpha)
        self._own = {n: own[n].to(p.device) if n in own else torch.zeros_like(p) for n, p in parameters.items()}

    def correct(self) -> None:
        """Add both terms to the gradients."""
        self._pull()
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                parameter.grad.sub_(self._own[name])

    def renewed(self, arrived: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """h_i' after a round whose update the server sees as this."""
        return {name: own.cpu() - self._alpha * arrived[name] for name, own in self._own.items()}
