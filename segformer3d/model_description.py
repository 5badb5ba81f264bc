"""What a model file says of itself, read without PyTorch: the task it solves, and the notes it was saved with."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from segformer3d.errors import CheckpointError, ConfigurationError
from segformer3d.tasks import Task, task_from_json

FORMAT = "segfed-model-1"
DESCRIPTION = "segfed"  # the name of the description in the file's metadata
_TORCH_SUFFIXES = (".bin", ".pt", ".pth")


def load_task(path: Path | str) -> Task:
    """The task that a model file of ours was trained for.

    Raises:
        CheckpointError: the file is damaged, or names no task.
    """
    task = known_task(path)
    if task is None:
        raise CheckpointError(f"{path} does not say what task it was trained for; name it with --task")
    return task


def known_task(path: Path | str) -> Task | None:
    """The same, or None where the file names no task.

    Raises:
        CheckpointError: the file is damaged.
    """
    described = read_description(Path(path))
    if "task" not in described:
        return None
    try:
        return task_from_json(described["task"])
    except ConfigurationError as error:
        raise CheckpointError(f"{path} describes its task in a way that this version cannot read ({error})") from error


def read_notes(path: Path | str) -> Mapping[str, Any]:
    """The notes that a model file was saved with; empty for files that are not ours.

    Raises:
        CheckpointError: the file is damaged.
    """
    notes = read_description(Path(path)).get("notes", {})
    return notes if isinstance(notes, dict) else {}


def read_description(path: Path) -> dict[str, Any]:
    """All that a file says about its tensors; empty for files that are not ours.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    if is_torch(path):
        return {}
    with open_model(path, "np") as stored:
        return description_of(stored)


def is_torch(path: Path) -> bool:
    """Whether a file is one of `torch.save`, by its name.

    Raises:
        CheckpointError: there is no such file.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    return path.suffix in _TORCH_SUFFIXES


@contextmanager
def open_model(path: Path, tensors: Literal["np", "pt"]) -> Iterator[Any]:
    """An open safetensors file, whose tensors are NumPy's or PyTorch's.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with safe_open(path, tensors) as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file ({error}); copy it again") from error


def description_of(stored: Any) -> dict[str, Any]:
    """What an open file says; empty where that is not ours to read."""
    try:
        described = json.loads((stored.metadata() or {}).get(DESCRIPTION, "{}"))
    except ValueError:
        return {}
    return described if isinstance(described, dict) else {}
