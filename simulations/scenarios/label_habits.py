"""Label habits: the first site outlines every structure 1 voxel wider, the second does not tell two structures apart.

The second says so (see `segformer3d.lacks`): where structures exclude each other, that the first two are "merged";
where they are regions in one another, as tumours' are, that the inner one of the first such pair is "unlabelled", and
with it all that its voxels belong to otherwise. The first site has no way to know.
"""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from segformer3d.errors import ConfigurationError
from segformer3d.task import Structure, Task
from simulations.scenarios.rewriting import describe, relabel

Label = np.ndarray[Any, Any]


def check_habits(task: Task) -> None:
    """See that a task has structures that can be merged.

    Raises:
        ConfigurationError: it has one, or regions of which none lies in another.
    """
    if len(task.structures) < 2 or (task.activation == "sigmoid" and not _nested(task)):
        raise ConfigurationError(
            f"scenario labels needs a task of two structures that exclude each other or lie in one another, and task "
            f"{task.name} has none; choose another scenario"
        )


def change_habits(sites: Sequence[Path], seed: int, task: Task) -> None:
    """Write the labels of the first two sites anew. No chance is in it.

    Raises:
        DataError: a label lies outside its site's folder.
        StorageError: the disk is full or a folder cannot be written.
    """
    relabel(sites[0], partial(widen, task=task))
    relabel(sites[1], partial(merge, task=task))
    describe(sites[1], _told(task))


def widen(label: Label, task: Task) -> Label:
    """Voxels with a face next to a structure become that structure; next to several, the lowest value's.

    Structures that exclude each other grow into the background alone, regions into what is around each of them.
    """
    grown = label.copy()
    for values in _widened(task):
        free = ~np.isin(label, values)
        for value in values:
            near = ndimage.binary_dilation(label == value) & free
            grown[near] = value
            free &= ~near
    return grown


def _widened(task: Task) -> list[list[int]]:
    """Values of what grows by itself, one after another: all structures at once, or each region, outer ones first."""
    if task.activation == "softmax":
        return [sorted(set(task.label_values) - {0})]
    return [sorted(region.labels) for region in sorted(task.structures, key=lambda region: -len(region.labels))]


def merge(label: Label, task: Task) -> Label:
    """Two structures of the task become one: what the second is made of gets a value that is only the first one's."""
    first, second = _pair(task)
    return np.where(np.isin(label, second.labels), _value(first, second), label)


def _told(task: Task) -> Mapping[str, Any]:
    """What the second site says of its labels: of regions, those that are not as they were."""
    first, second = _pair(task)
    if task.activation == "softmax":
        return {"merged": [[first.name, second.name]]}
    moved = {*second.labels, _value(first, second)}
    whole = (moved <= set(region.labels) or not moved & set(region.labels) for region in task.structures)
    return {"unlabelled": [r.name for r, kept in zip(task.structures, whole, strict=True) if not kept]}


def _pair(task: Task) -> tuple[Structure, Structure]:
    return _nested(task)[0] if task.activation == "sigmoid" else (task.structures[0], task.structures[1])


def _nested(task: Task) -> list[tuple[Structure, Structure]]:
    """Pairs of regions of which the first has all labels of the second, and more."""
    pairs = itertools.permutations(task.structures, 2)
    return [(outer, inner) for outer, inner in pairs if set(inner.labels) < set(outer.labels)]


def _value(first: Structure, second: Structure) -> int:
    return next(value for value in first.labels if value not in second.labels)
