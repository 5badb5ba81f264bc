"""AdamW's moments between rounds.

A site that begins every round with empty moments spends part of it finding its step sizes again; kept on its disk
(36 MB for the full model, never sent) they carry over.
"""

from pathlib import Path

import torch
from torch import nn

from segformer3d.checkpoint import read_weights
from segformer3d.errors import CheckpointError
from segformer3d.tensor_file import write_tensors

_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_optimizer(path: Path, optimizer: torch.optim.AdamW, model: nn.Module, over: Path | None = None) -> None:
    """Write step counts and moments under the parameters' names.

    Args:
        path: the file.
        optimizer, model: whose state it is.
        over: an older state that is not needed any more; its file is used again.

    Raises:
        StorageError: the file cannot be written; an older file at `path` is untouched.
    """
    stored = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            stored[f"{key}:{name}"] = value.detach().cpu().numpy()
    write_tensors(path, stored, {}, over)


def load_optimizer(path: Path, optimizer: torch.optim.AdamW, model: nn.Module) -> None:
    """Take up moments that `save_optimizer` wrote.

    Raises:
        CheckpointError: the file is damaged, or belongs to another architecture.
    """
    stored, _ = read_weights(path)
    for name, parameter in model.named_parameters():
        shapes = {"step": torch.Size(), **dict.fromkeys(_MOMENTS, parameter.shape)}
        if any(f"{key}:{name}" not in stored or stored[f"{key}:{name}"].shape != shapes[key] for key in shapes):
            raise CheckpointError(
                f"the optimizer state {path.name} is of another architecture; remove it to begin afresh"
            )
        optimizer.state[parameter] = {key: stored[f"{key}:{name}"].to(parameter.device) for key in shapes}
