"""Label habits: the first site outlines every structure 1 voxel wider, the second does not tell two structures apart.

The second says so ("merged" in its `dataset.json`, see `segformer3d.lacks`); the first has no way to know.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from segformer3d.errors import ConfigurationError
from segformer3d.task import Task
from simulations.scenarios.rewriting import describe, relabel

Label = np.ndarray[Any, Any]


def check_habits(task: Task) -> None:
    """See that a task has structures that can be merged.

    Raises:
        ConfigurationError: it has one, or they are regions that overlap.
    """
    if task.activation != "softmax" or len(task.structures) < 2:
        raise ConfigurationError(
            f"scenario labels needs a task of two or more structures that exclude each other, and task {task.name} has "
            "none; choose another scenario"
        )


def change_habits(sites: Sequence[Path], seed: int, task: Task) -> None:
    """Write the labels of the first two sites anew. No chance is in it.

    Raises:
        DataError: a label lies outside its site's folder.
        StorageError: the disk is full or a folder cannot be written.
    """
    relabel(sites[0], partial(widen, task=task))
    relabel(sites[1], partial(merge, task=task))
    describe(sites[1], {"merged": [[structure.name for structure in task.structures[:2]]]})


def widen(label: Label, task: Task) -> Label:
    """Background voxels with a face next to a structure become that structure; next to several, the lowest value's."""
    grown = label.copy()
    for value in sorted(set(task.label_values) - {0}):
        grown[ndimage.binary_dilation(label == value) & (grown == 0)] = value
    return grown


def merge(label: Label, task: Task) -> Label:
    """The first two structures of the task become one: both have the first one's value."""
    first, second = task.structures[:2]
    return np.where(np.isin(label, second.labels), first.labels[0], label)
