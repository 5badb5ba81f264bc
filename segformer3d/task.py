"""What is segmented in what: a task is one frozen value that training, inference, metrics and reports all share.

A task says which contrasts an image has, which structures are scored and how they come from label values, the grid and
patch the model works on, how intensities are scaled, and the shape of the model.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segformer3d.config import ModelConfig, Triple
from segformer3d.errors import ConfigurationError

Intensity = Literal["zscore", "zscore_nonzero", "minmax", "window"]
INTENSITIES = ("zscore", "zscore_nonzero", "minmax", "window")


@dataclass(frozen=True)
class Structure:
    """One scored structure: the union of label values. The regions of a sigmoid task may overlap."""

    name: str
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """A segmentation task.

    Attributes:
        name: what users type.
        modalities: the image's channels, in order.
        structures: what is predicted and scored, without the background.
        label_values: every value that a label file may hold, 0 included.
        activation: "softmax" for structures that exclude each other (background is channel 0), "sigmoid" for regions.
        spacing: the grid of the model in mm (RAS axes), or None for each image's own.
        patch: voxels (x, y, z) of one training sample and one inference window.
        intensity: "zscore" over the volume, "zscore_nonzero" over non-zero voxels, "minmax", or "window" (CT).
        window: the (low, high) that "window" maps to (0, 1).
        flip_axes: axes along which mirrored anatomy is as likely: used to augment, and by `mirror`.
        mirror: whether predictions for mirrored copies are averaged, which doubles the time for each of `flip_axes`.
        prior: the share of voxels in each structure, from which the last layer starts.
        model: the shape of the network.

    Raises:
        ConfigurationError: a value breaks its rule.
    """

    name: str
    modalities: tuple[str, ...]
    structures: tuple[Structure, ...]
    label_values: tuple[int, ...]
    activation: Literal["softmax", "sigmoid"] = "softmax"
    spacing: tuple[float, float, float] | None = None
    patch: Triple = (96, 96, 96)
    intensity: Intensity = "zscore"
    window: tuple[float, float] | None = None
    flip_axes: tuple[int, ...] = ()
    mirror: bool = False
    prior: tuple[float, ...] = ()
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        if not self.prior:
            object.__setattr__(self, "prior", (0.05 / max(1, len(self.structures)),) * len(self.structures))
        _check_labels(self)
        _check_numbers(self)

    @property
    def channels(self) -> int:
        """The model's output channels."""
        return len(self.structures) + (self.activation == "softmax")

    @property
    def output_bias(self) -> tuple[float, ...]:
        """The logits that predict the prior everywhere."""
        if self.activation == "sigmoid":
            return tuple(math.log(p / (1 - p)) for p in self.prior)
        return tuple(math.log(p) for p in (1 - sum(self.prior), *self.prior))

    def structure_masks(self, label_XYZ: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Label values (X, Y, Z) to one mask per structure (S, X, Y, Z)."""
        return np.stack([np.isin(label_XYZ, structure.labels) for structure in self.structures])

    def to_json(self) -> dict[str, Any]:
        """The task as plain JSON values; `task_from_json` is its inverse."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]


def task_from_json(values: Mapping[str, Any]) -> Task:
    """Rebuild a task that `Task.to_json` wrote.

    Raises:
        ConfigurationError: a setting is unknown, missing or breaks its rule.
    """
    try:
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        plain["structures"] = tuple(Structure(s["name"], tuple(s["labels"])) for s in values["structures"])
        plain["model"] = ModelConfig.from_json(values["model"])
        return Task(**plain)
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(f"this is not the description of a task: {error}") from error


def adjust(task: Task, model: Mapping[str, Any], grid: Mapping[str, Any]) -> Task:
    """A task with some settings of its model and its grid replaced.

    Raises:
        ConfigurationError: an unknown setting, or a value that breaks its rule.
    """
    if not model and not grid:
        return task
    unknown = sorted(set(grid) - {"patch", "spacing", "intensity", "window", "flip_axes", "mirror"})
    if unknown:
        raise ConfigurationError(f"unknown setting {unknown[0]!r} of [grid]")
    shaped = replace(task, model=ModelConfig.from_json({**task.model.to_json(), **model}))
    return task_from_json({**shaped.to_json(), **grid})


def _check_labels(task: Task) -> None:
    if not task.modalities or not task.structures:
        raise ConfigurationError(f"task {task.name!r} needs at least one modality and one structure")
    if 0 not in task.label_values or any(type(v) is not int or not 0 <= v <= 32767 for v in task.label_values):
        raise ConfigurationError(
            f"label_values of task {task.name!r} must hold 0, the background, and whole numbers up to 32767, "
            f"got {task.label_values}"
        )
    for structure in task.structures:
        if not structure.labels or not set(structure.labels) <= set(task.label_values) - {0}:
            raise ConfigurationError(
                f"structure {structure.name!r} of task {task.name!r} must use labels of {task.label_values} "
                f"other than 0, got {structure.labels}"
            )
    if len({structure.name for structure in task.structures}) < len(task.structures):
        raise ConfigurationError(f"the structures of task {task.name!r} must have different names")
    used = [value for structure in task.structures for value in structure.labels]
    if task.activation == "softmax" and len(used) != len(set(used)):
        raise ConfigurationError(
            f"structures of task {task.name!r} overlap; overlapping regions need activation 'sigmoid'"
        )


def _check_numbers(task: Task) -> None:
    if task.activation not in ("softmax", "sigmoid"):
        raise ConfigurationError(f"activation must be 'softmax' or 'sigmoid', got {task.activation!r}")
    if task.intensity not in INTENSITIES:
        raise ConfigurationError(f"intensity must be one of {', '.join(INTENSITIES)}, got {task.intensity!r}")
    if (task.intensity == "window") != (task.window is not None) or not _is_window(task.window):
        raise ConfigurationError("window takes (low, high) with low < high, and only with intensity 'window'")
    if len(task.patch) != 3 or any(type(v) is not int or v < 1 for v in task.patch):
        raise ConfigurationError(f"patch takes three voxel counts of 1 or more, got {task.patch}")
    if task.spacing is not None and (len(task.spacing) != 3 or not all(0 < mm < math.inf for mm in task.spacing)):
        raise ConfigurationError(f"spacing takes three positive lengths in mm, got {task.spacing}")
    if not set(task.flip_axes) <= {0, 1, 2} or len(set(task.flip_axes)) < len(task.flip_axes):
        raise ConfigurationError(f"flip_axes may hold 0, 1 and 2, each once, got {task.flip_axes}")
    if type(task.mirror) is not bool:
        raise ConfigurationError(f"mirror must be true or false, got {task.mirror!r}")
    total = sum(task.prior) if task.activation == "softmax" else 0
    if len(task.prior) != len(task.structures) or not all(0 < p < 1 for p in task.prior) or total >= 1:
        raise ConfigurationError(f"prior takes one share in (0, 1) per structure, got {task.prior}")
    if (task.model.in_channels, task.model.num_classes) != (len(task.modalities), task.channels):
        raise ConfigurationError(
            f"the model of task {task.name!r} must have {len(task.modalities)} in_channels and {task.channels} "
            "num_classes"
        )


def _is_window(window: tuple[float, ...] | None) -> bool:
    return window is None or (len(window) == 2 and -math.inf < window[0] < window[1] < math.inf)
