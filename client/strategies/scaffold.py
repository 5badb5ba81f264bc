"""SCAFFOLD: control variates say how a site's gradients differ from all sites', and take the difference out.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020. In each step the
gradient g becomes g - c_i + c. The paper's second way to renew c_i, c_i - c + (x - y_i) / (K η), is, for plain gradient
descent, the mean of the round's gradients; that mean means the same under AdamW and a falling learning rate, so it is
what is taken here, g being clipped as for the step:

    c_i' = mean of g over the round's steps       sent: c_i' - c_i       kept at the site: c_i + what arrived of it
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Control:
    """The correction of one round.

    Args:
        parameters: of the model, by name.
        own: c_i from the site's last round, by name; empty in its first, which stands for zeros.
        common: c, by name.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], own: Mapping[str, Tensor], common: Mapping[str, Tensor]
    ) -> None:
        self._parameters = parameters
        self._own = {name: own.get(name, torch.zeros_like(p, device="cpu")) for name, p in parameters.items()}
        self._shift = {n: (common[n] - self._own[n]).to(p.device) for n, p in parameters.items()}
        self._sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        self._steps = 0

    def correct(self) -> None:
        """Note the gradients as they are, then correct them."""
        self._steps += 1
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._sums[name].add_(parameter.grad)
                parameter.grad.add_(self._shift[name])

    def change(self) -> dict[str, Tensor]:
        """c_i' - c_i, with c_i' the mean of the gradients that were noted."""
        means = {name: (total / max(1, self._steps)).cpu() for name, total in self._sums.items()}
        return {name: mean - self._own[name] for name, mean in means.items()}

    def kept(self, arrived: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the site goes on from: c_i and its change as the server will see it."""
        return {name: own + arrived[name] for name, own in self._own.items()}
