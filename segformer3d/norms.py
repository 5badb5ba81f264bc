"""Normalisation layers, and whose a model has: under FedBN each site keeps its own (see `client.strategies.fedbn`).

Such a model's file holds the mean of the sites' norms, with which nobody has trained or measured. So whoever uses it
says which are wanted: a site's own, from what the site remembers of the run, or the mean. Training that begins with
such a model (`--start`) begins with the mean, as any first weights will do.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from segformer3d.checkpoint import read_weights
from segformer3d.errors import CheckpointError, ConfigurationError

MEAN = "mean"
KEPT_AS = "norms:"  # before the names of a site's norms in the file of what it remembers
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
_WHERE = "RUN/memory-NNNN.safetensors in the site's work folder"


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


def choose_norms(model: nn.Module, path: Path, told: str | None, asked: str | None) -> str | None:
    """Give a model the norms that are asked for, and say in words whose they are.

    Args:
        model: changed in place.
        path: its file, for messages.
        told: whose norms the file says that it holds; None where they are the model's own.
        asked: "mean" leaves those of the file; else the file of what a site remembers; None where nothing was asked.

    Returns:
        Whose norms the model has now; None where they are its own.

    Raises:
        ConfigurationError: something must be asked and was not, or the reverse.
        CheckpointError: the site's file is damaged, or holds no norms of such a model.
    """
    if told is None:
        if asked is not None:
            raise ConfigurationError(f"{path} has norms of its own (it was not trained with FedBN); leave --norms out")
        return None
    if asked is None:
        raise ConfigurationError(
            f"{path} was trained with FedBN: its norms are {told}. Say which are to be used: --norms FILE, a site's "
            f"own ({_WHERE}), or --norms {MEAN}"
        )
    if asked == MEAN:
        return told
    take_norms(model, Path(asked))
    return f"a site's own, from {asked}"


def norms_in(memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A site's own norms, of all that it remembers."""
    return {name.removeprefix(KEPT_AS): value for name, value in memory.items() if name.startswith(KEPT_AS)}


def take_norms(model: nn.Module, path: Path) -> None:
    """Give a model a site's own norms, from the file of what the site remembers.

    Raises:
        CheckpointError: the file is damaged, or holds no norms of such a model.
    """
    found = norms_in(read_weights(path)[0])
    if not found:
        raise CheckpointError(f"{path} holds no site's norms; they are in {_WHERE}, after a run with FedBN")
    state = model.state_dict()
    names = norm_names(model)
    if set(found) != names or any(found[name].shape != state[name].shape for name in names):
        raise CheckpointError(f"{path} holds norms of another architecture; take those of the model's own run")
    put_norms(model, found)
