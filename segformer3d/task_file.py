"""One's own task from a TOML file: what a `Task` is made of, by the same names.

    name = "my-tumours"
    modalities = ["t1ce", "flair"]
    intensity = "zscore_nonzero"

    [[structures]]
    name = "tumour"
    labels = [1, 4]

The numbers of the model's channels follow from these; `[model]` changes other settings of `ModelConfig`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from segformer3d.benchmark_tasks import TASKS
from segformer3d.config import ModelConfig
from segformer3d.errors import ConfigurationError
from segformer3d.task import Task, task_from_json
from segformer3d.toml_file import read_toml

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_NEEDED = ("name", "modalities", "structures")


def read_task_file(path: Path) -> Task:
    """The task in a TOML file.

    Raises:
        ConfigurationError: the file cannot be read, or a value breaks its rule; one line names file, rule and value.
    """
    values = read_toml(path, "a task is the name of a built-in one, or a TOML file that describes one")
    try:
        return _task(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _task(values: Mapping[str, Any]) -> Task:
    known = [item.name for item in fields(Task)]
    for name in sorted(set(values) - set(known)):
        raise ConfigurationError(f"unknown setting {name!r}; a task knows {', '.join(known)}")
    for name in _NEEDED:
        if name not in values:
            raise ConfigurationError(f"a task needs {name}")
    for name, (right, rule) in _RULES.items():
        if name in values and not right(values[name]):
            raise ConfigurationError(f"{name} must be {rule}, got {values[name]!r}")
    if values["name"] in TASKS:
        raise ConfigurationError(f"the name {values['name']!r} is a built-in task's; choose another")
    labels = {0, *(label for structure in values["structures"] for label in structure["labels"])}
    return task_from_json({"label_values": sorted(labels), **values, "model": _model(values)})


def _model(values: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings; its channels are the task's."""
    asked = values.get("model", {})
    channels = {
        "in_channels": len(values["modalities"]),
        "num_classes": len(values["structures"]) + (values.get("activation", "softmax") == "softmax"),
    }
    for name in sorted(set(asked) & set(channels)):
        raise ConfigurationError(f"{name} of [model] follows from the modalities and structures; leave it out")
    return ModelConfig.from_json({**asked, **channels}).to_json()


def _texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) and item for item in value)


def _whole(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(item) in (int, float) for item in value)


def _structures(value: object) -> bool:
    tables = value if isinstance(value, list) else []
    shapes = [isinstance(table, Mapping) and set(table) == {"name", "labels"} for table in tables]
    return bool(shapes) and all(shapes) and all(_texts([t["name"]]) and _whole(t["labels"]) for t in tables)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


# What TOML may hold in a setting's place; what its values must be is checked where a task is built.
_RULES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "name": (_is_name, "1 to 40 small letters, digits, - and _"),
    "modalities": (_texts, "a list of names of contrasts"),
    "structures": (_structures, "tables [[structures]], each with a name and a list of labels"),
    "label_values": (_whole, "a list of whole numbers"),
    "activation": (lambda value: isinstance(value, str), "'softmax' or 'sigmoid'"),
    "spacing": (_numbers, "a list of lengths in mm"),
    "patch": (_whole, "a list of voxel counts"),
    "intensity": (lambda value: isinstance(value, str), "the name of a scaling"),
    "window": (_numbers, "a list of two numbers"),
    "flip_axes": (_whole, "a list of axes"),
    "prior": (_numbers, "a list of shares"),
    "model": (lambda value: isinstance(value, Mapping), "a table [model]"),
}
