"""FedBN: normalisation layers stay at the site, where scanners differ.

Li et al., "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", ICLR 2021. A site puts its own
norms into the global model before it measures and trains it, and keeps them afterwards. It still sends them: their mean
is what a hospital that has never trained gets, and what the last model and every evaluation outside the sites has.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def norm_names(model: nn.Module) -> frozenset[str]:
    """The state dict's entries that belong to normalisation layers: weights, biases and running statistics."""
    layers = {name for name, module in model.named_modules() if isinstance(module, _NORMS)}
    return frozenset(name for name in model.state_dict() if name.rpartition(".")[0] in layers)


def put_norms(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Put a site's own norms into a model; nothing is changed where none are kept."""
    state = model.state_dict()
    with torch.no_grad():
        for name in sorted(norm_names(model) & set(kept)):
            state[name].copy_(kept[name])


def norms_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's norms, on the CPU."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().clone() for name in sorted(norm_names(model))}
