"""An optimizer's moments between rounds.

A site that begins every round with empty moments spends part of it finding its step sizes again; kept on its disk
(36 MB for AdamW and the full model, never sent) they carry over.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from segformer3d.checkpoint import read_weights
from segformer3d.errors import CheckpointError
from segformer3d.optimizers import SGD, AdamW
from segformer3d.tensor_file import write_tensors

_MOMENTS: Mapping[type[torch.optim.Optimizer], tuple[str, ...]] = {
    AdamW: ("exp_avg", "exp_avg_sq"),
    SGD: ("momentum_buffer",),
}

_NOTE = "note:"


def save_optimizer(
    path: Path,
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    over: Path | None = None,
    notes: Mapping[str, float] | None = None,
) -> None:
    """Write step counts and moments under the parameters' names.

    Args:
        path: the file.
        optimizer, model: whose state it is; the optimizer may have some of the model's parameters only.
        over: an older state that is not needed any more; its file is used again.
        notes: more numbers to keep, for `load_optimizer` to give back.

    Raises:
        StorageError: the file cannot be written; an older file at `path` is untouched.
    """
    stored = {}
    for name, parameter in _trained(optimizer, model).items():
        for key, value in optimizer.state[parameter].items():
            stored[f"{key}:{name}"] = value.detach().cpu().numpy()
    kept = {_NOTE + name: np.array(value, np.float64) for name, value in (notes or {}).items()}
    write_tensors(path, stored | kept, {}, over)


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer, model: nn.Module) -> Mapping[str, float]:
    """Take up moments that `save_optimizer` wrote; returns its notes.

    Raises:
        CheckpointError: the file is damaged, or belongs to another architecture or optimizer.
    """
    stored, _ = read_weights(path)
    for name, parameter in _trained(optimizer, model).items():
        shapes = dict.fromkeys(_MOMENTS[type(optimizer)], parameter.shape)
        if isinstance(optimizer, AdamW):
            shapes["step"] = torch.Size()
        if any(f"{key}:{name}" not in stored or stored[f"{key}:{name}"].shape != shapes[key] for key in shapes):
            raise CheckpointError(
                f"the optimizer state {path.name} is of another architecture; remove it to begin afresh"
            )
        optimizer.state[parameter] = {key: stored[f"{key}:{name}"].to(parameter.device) for key in shapes}
    return {name.removeprefix(_NOTE): float(value) for name, value in stored.items() if name.startswith(_NOTE)}


def _trained(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that the optimizer has, by name."""
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in own}
