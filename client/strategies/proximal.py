"""FedProx: a pull towards the weights that a round began with.

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020: each site minimises its loss plus
mu / 2 · |w - w_t|². The pull's gradient, mu (w - w_t), is added once the data's gradient is clipped and, in a private
run, noisy: it knows no patient, so nothing is paid for it, and clipping does not weaken it. AdamW steps by directions
and not by lengths: there mu says how much the pull has to say against the data's gradient, and not how far a step goes.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from segformer3d.training import Adjust


def proximal_pull(
    parameters: Sequence[nn.Parameter], strength: float, towards: Sequence[Tensor] | None = None
) -> Adjust:
    """Adds strength · (w - w0) to the gradients, w0 being `towards`, or else the parameters' values now."""
    before = [value.detach().clone() for value in parameters] if towards is None else list(towards)

    def pull() -> None:
        for parameter, origin in zip(parameters, before, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - origin, alpha=strength)

    return pull
