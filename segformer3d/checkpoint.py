"""Models at rest: safetensors with a readable JSON description inside, and the published checkpoints.

A file says which architecture, task and weights it holds; one that is truncated, of another architecture, or no
checkpoint at all is refused in one line. Nothing is ever unpickled beyond what PyTorch's `weights_only=True` allows.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from segformer3d.config import ModelConfig
from segformer3d.errors import CheckpointError, ConfigurationError
from segformer3d.model import SegFormer3D, skeleton
from segformer3d.model_description import DESCRIPTION, FORMAT, description_of, is_torch, open_model
from segformer3d.published import infer_config, is_published, translate
from segformer3d.tasks import Task
from segformer3d.tensor_file import write_tensors


def save(path: Path, model: SegFormer3D, task: Task | None = None, notes: Mapping[str, Any] | None = None) -> None:
    """Write a model: its weights, its configuration, the task it solves, and notes (plain JSON values).

    Raises:
        StorageError: the file cannot be written; an older file at `path` is untouched.
    """
    weights = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    save_weights(path, weights, model.config, task, notes)


def save_weights(
    path: Path,
    weights: Mapping[str, NDArray[Any]],
    config: ModelConfig,
    task: Task | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a model of which there are only the weights: the arrays of its state dict, by name.

    Raises:
        StorageError: the file cannot be written; an older file at `path` is untouched.
    """
    described = {"format": FORMAT, "config": config.to_json(), "notes": dict(notes or {})}
    if task is not None:
        described["task"] = task.to_json()
    write_tensors(path, weights, {DESCRIPTION: json.dumps(described)})


def load(path: Path | str, **config: Any) -> SegFormer3D:
    """Read a model from a file of ours or a published checkpoint (`.safetensors`, `.bin`, `.pt`, `.pth`).

    Args:
        path: the file.
        config: for published checkpoints, what their weights do not show (strides, paddings, heads) where it differs.

    Raises:
        CheckpointError: the file is missing, truncated, of another architecture, or no checkpoint.
    """
    state, described = read_weights(Path(path))
    if is_published(state):
        return _load_published(state, config, str(path))
    if described.get("format") != FORMAT:
        raise CheckpointError(f"{path} holds weights, but not those of a SegFormer3D that segfed can read")
    try:
        model = skeleton(ModelConfig.from_json(described["config"]))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not describe its model properly ({error}); it was not written by segfed"
        ) from error
    load_state(model, state, str(path))
    return model.eval()


def from_published(state_dict: Mapping[str, Tensor], **config: Any) -> SegFormer3D:
    """A model with published weights, under whatever wrapper their names come.

    Args:
        state_dict: published names to weights.
        config: settings of `ModelConfig` that the weights do not show, where they differ from the published ones.

    Raises:
        CheckpointError: names or shapes are not those of a SegFormer3D.
    """
    return _load_published(state_dict, config, "the published checkpoint")


def _load_published(state: Mapping[str, Tensor], config: Mapping[str, Any], what: str) -> SegFormer3D:
    try:
        model = skeleton(infer_config(state, config))
    except (CheckpointError, ConfigurationError) as error:
        raise CheckpointError(f"{what} does not form a SegFormer3D: {error}") from error
    load_state(model, translate(state), what)
    return model.eval()


def load_state(model: SegFormer3D, state: Mapping[str, Tensor], what: str) -> None:
    """Put weights into a model, every one of them and nothing else.

    Raises:
        CheckpointError: a weight is missing, unknown, or of another shape.
    """
    expected = model.state_dict()
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or unknown:
        name = f"lacks {missing[0]}" if missing else f"has an unknown {unknown[0]}"
        raise CheckpointError(f"{what} is of another architecture: it {name}")
    for name, value in expected.items():
        if state[name].shape != value.shape:
            raise CheckpointError(
                f"{what} is of another architecture: {name} has shape {tuple(state[name].shape)}, "
                f"not {tuple(value.shape)}"
            )
    # A skeleton takes these very tensors for its own, so they must not be the caller's.
    copies = {name: state[name].to(value.dtype, copy=True) for name, value in expected.items()}
    model.load_state_dict(copies, assign=True)


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """A hash of a model's weights alone: names, shapes, types and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].cpu().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, and what `save` wrote about them (empty for files that are not ours).

    Raises:
        CheckpointError: the file is missing, truncated or no checkpoint.
    """
    if is_torch(path):
        return _read_torch(path), {}
    with open_model(path, "pt") as stored:
        weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is no mapping
        return weights, description_of(stored)


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged archive; none is a fault of ours
        raise CheckpointError(f"{path} is truncated, or holds more than weights ({type(error).__name__})") from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(stored, Mapping) and isinstance(stored.get(wrapper), Mapping):
            stored = stored[wrapper]
    if not isinstance(stored, Mapping) or not stored or not all(isinstance(v, Tensor) for v in stored.values()):
        raise CheckpointError(f"{path} holds no state dict of tensors")
    return {str(name): value for name, value in stored.items()}
