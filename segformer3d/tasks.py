"""Which task it is: a built-in one by its name, one's own from a TOML file, or the one that a dataset folder tells."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segformer3d.benchmark_tasks import TASKS
from segformer3d.cases import find_cases
from segformer3d.config import ModelConfig
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.lacks import tells_only_lacks
from segformer3d.layouts.description import DESCRIPTION, channel_names, read_description
from segformer3d.task import INTENSITIES, Intensity, Structure, Task, adjust, task_from_json
from segformer3d.task_file import read_task_file

__all__ = [
    "INTENSITIES",
    "TASKS",
    "Intensity",
    "Structure",
    "Task",
    "adjust",
    "choose_task",
    "get_task",
    "named_task",
    "task_from_json",
    "task_of_folder",
]

# The Decathlon's own name for its Task01.
_OTHER_NAMES = {"brats": "brats2017"}


def get_task(name: str) -> Task:
    """The built-in task of this name.

    Raises:
        ConfigurationError: there is none.
    """
    if name not in TASKS:
        raise ConfigurationError(
            f"there is no task {name!r}; built in are {', '.join(TASKS)}, and one's own is a TOML file (docs/data.md)"
        )
    return TASKS[name]


def named_task(name: str, folder: Path | None = None) -> Task:
    """The built-in task of this name, or the one in this TOML file, which is looked for in `folder` first.

    Raises:
        ConfigurationError: there is none, or a value of the file breaks its rule.
    """
    if not name.endswith(".toml"):
        return get_task(name)
    beside = Path(name) if folder is None else folder / name
    return read_task_file(beside if beside.is_file() else Path(name))


def choose_task(name: str | None, folder: Path | None) -> Task:
    """The task of this name or file, or where none is given, the one that the dataset folder tells.

    Raises:
        ConfigurationError: there is no such task.
        DataError: no name is given and the folder does not say.
    """
    if name is None and folder is not None:
        return task_of_folder(folder)
    return named_task(str(name))


def task_of_folder(folder: Path) -> Task:
    """The task that a `dataset.json` describes (a built-in one by its name, or derived from it), or file names tell.

    Raises:
        DataError: the folder is no dataset, or does not tell its task, so that it must be named.
    """
    path = folder / DESCRIPTION
    described = read_description(path) if path.is_file() else {}
    if described and not tells_only_lacks(described):
        name = str(described.get("name", "")).strip().lower()
        name = _OTHER_NAMES.get(name, name)
        return TASKS[name] if name in TASKS else _derive(name or folder.name, described, path)
    told = {case.benchmark for case in find_cases(folder)}
    if None in told or len(told) != 1:
        raise DataError(f"{folder} does not tell its task; say --task, one of {', '.join(TASKS)}, or a TOML file")
    return TASKS[str(told.pop())]


def _derive(name: str, described: Mapping[str, Any], path: Path) -> Task:
    """A task over the labels of the file: classes with softmax, or nnU-Net's regions with sigmoid."""
    try:
        modalities = channel_names(described)
        structures = _structures(described["labels"])
        regions = any(len(structure.labels) > 1 for structure in structures)
        values = tuple(sorted({0, *(value for structure in structures for value in structure.labels)}))
        model = replace(ModelConfig(), in_channels=len(modalities), num_classes=len(structures) + (not regions))
        activation = "sigmoid" if regions else "softmax"
        return Task(name, modalities, structures, values, activation, model=model)  # type: ignore[arg-type]
    except KeyError as missing:
        raise DataError(f"{path} has no {missing.args[0]!r}; repair it or name a task") from missing
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} does not list its modalities and labels by number ({error}); repair it or name a task"
        ) from error


def _structures(labels: Mapping[str, Any]) -> tuple[Structure, ...]:
    """By their label values, without the background: the Decathlon maps numbers to names, nnU-Net names to numbers."""
    if any(isinstance(value, Sequence) and not isinstance(value, str) for value in labels.values()):
        named = [(str(name), _values(value)) for name, value in labels.items()]
    else:
        pairs = [(k, v) if re.fullmatch(r"-?\d+", str(k)) else (v, k) for k, v in labels.items()]
        named = [(str(name), (int(value),)) for value, name in sorted(pairs, key=lambda pair: int(pair[0]))]
    return tuple(Structure(name, values) for name, values in named if values != (0,))


def _values(value: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(int(v) for v in value) if isinstance(value, Sequence) else (int(value),)
