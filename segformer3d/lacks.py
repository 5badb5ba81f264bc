"""What the cases of a dataset lack, as its `dataset.json` says: contrasts, structures, the border between structures.

Hospitals differ in what they scan and outline. Three keys say so, by the names of the task:

    "absent": ["t1ce"]                       no case has this contrast: the model sees 0 in its place
    "merged": [["anterior", "posterior"]]    the label tells them from the rest, but not from one another
    "unlabelled": ["posterior"]              the label does not outline it: its voxels are labelled as background

The model keeps all contrasts and structures, and learns from such labels what they tell: the marginal loss of Shi et
al., "Marginal loss and exclusion loss for partially supervised multi-organ segmentation", Medical Image Analysis 2021.
Where structures exclude each other, the probabilities of classes that a label does not tell apart are added up, the
background being one of them; of regions, which may overlap, those that are not outlined are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segformer3d.errors import CaseError, DataError
from segformer3d.layouts.description import DESCRIPTION, read_description
from segformer3d.task import Task

KEYS = ("absent", "merged", "unlabelled")
Names = tuple[str, ...]
# Output channels that a label tells from one another: each group counts as one channel.
Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Lacks:
    """What every case of a dataset lacks; false where that is nothing.

    Attributes:
        absent: contrasts that were not scanned.
        merged: groups of structures that the label does not tell apart.
        unlabelled: structures that the label does not outline.

    Raises:
        DataError: a name stands there twice, or a group holds fewer than two.
    """

    absent: Names = ()
    merged: tuple[Names, ...] = ()
    unlabelled: Names = ()

    def __post_init__(self) -> None:
        if any(len(group) < 2 for group in self.merged):
            raise DataError("each group of 'merged' must name two structures or more")
        for names in (self.absent, self.structures):
            spelled = [_plain(name) for name in names]
            twice = [name for name in names if spelled.count(_plain(name)) > 1]
            if twice:
                raise DataError(f"{twice[0]!r} may stand once in {', '.join(KEYS)}")

    def __bool__(self) -> bool:
        return bool(self.absent or self.merged or self.unlabelled)

    @property
    def structures(self) -> Names:
        """All structures that the label does not tell, or not from others."""
        return (*(name for group in self.merged for name in group), *self.unlabelled)


NOTHING = Lacks()


def read_lacks(folder: Path) -> Lacks:
    """What the `dataset.json` of a folder says that its cases lack; without such a file, nothing.

    Raises:
        DataError: the file cannot be read, or says it in another form.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        return NOTHING
    described = read_description(path)
    try:
        absent, unlabelled = (_names(f"{key!r}", described.get(key, [])) for key in ("absent", "unlabelled"))
        return Lacks(absent, _groups(described.get("merged", [])), unlabelled)
    except DataError as error:
        raise DataError(f"{path}: {error}; see docs/data.md, What a site lacks") from error


def tells_only_lacks(described: Mapping[str, Any]) -> bool:
    """Whether a `dataset.json` stands in a folder of another layout to say what is lacking, and says nothing else."""
    return bool(described) and set(described) <= set(KEYS)


def check_lacks(lacks: Lacks, task: Task) -> None:
    """See that what lacks is of the task, and that something is left.

    Raises:
        CaseError: a name is not the task's, regions are to be merged, or nothing is left to see or to learn.
    """
    for what, names, known in (
        ("contrast", lacks.absent, task.modalities),
        ("structure", lacks.structures, tuple(structure.name for structure in task.structures)),
    ):
        for name in names:
            if _plain(name) not in map(_plain, known):
                raise CaseError(
                    f"{DESCRIPTION} says that a {what} {name!r} is lacking, and those of task {task.name} are "
                    f"{', '.join(known)}; correct the name"
                )
    if lacks.merged and task.activation == "sigmoid":
        raise CaseError(
            f"{DESCRIPTION} merges {' and '.join(lacks.merged[0])}, which overlap in task {task.name}; name the "
            "regions that the label does not show under 'unlabelled'"
        )
    if len(lacks.absent) == len(task.modalities) or not (any(told(task, lacks)) or lacks.merged):
        raise CaseError(f"{DESCRIPTION} says that all contrasts, or all structures, of task {task.name} are lacking")


def present_task(task: Task, lacks: Lacks) -> Task:
    """The task with the contrasts that are there: what a case's images are read and checked for."""
    if not lacks.absent:
        return task
    there = tuple(task.modalities[channel] for channel in present_channels(task, lacks))
    return replace(task, modalities=there, model=replace(task.model, in_channels=len(there)))


def present_channels(task: Task, lacks: Lacks) -> list[int]:
    """The places, among the task's contrasts, of those that are there."""
    absent = set(map(_plain, lacks.absent))
    return [channel for channel, name in enumerate(task.modalities) if _plain(name) not in absent]


def known_groups(task: Task, lacks: Lacks) -> Groups | None:
    """Which output channels a label tells from one another, the background's group first; None where it tells all.

    Softmax: every channel is in one group. Sigmoid: each outlined region is a group, and the others are in none.
    """
    if not lacks.structures:
        return None
    unlabelled = _channels(task, lacks.unlabelled)
    if task.activation == "sigmoid":
        return tuple((channel,) for channel in range(task.channels) if channel not in unlabelled)
    together = [(0, *unlabelled), *(_channels(task, group) for group in lacks.merged)]
    apart = set(range(task.channels)) - {channel for group in together for channel in group}
    return tuple(sorted([*together, *((channel,) for channel in apart)]))


def told(task: Task, lacks: Lacks) -> tuple[bool, ...]:
    """For each structure, whether a label shows it, and it alone: what a model can be measured by."""
    untold = set(map(_plain, lacks.structures))
    return tuple(_plain(structure.name) not in untold for structure in task.structures)


def _channels(task: Task, names: Sequence[str]) -> tuple[int, ...]:
    """The output channels of structures."""
    wanted, first = set(map(_plain, names)), task.channels - len(task.structures)
    return tuple(first + i for i, structure in enumerate(task.structures) if _plain(structure.name) in wanted)


def _groups(value: object) -> tuple[Names, ...]:
    if not isinstance(value, list):
        raise DataError("'merged' must be a list of groups, each a list of names")
    return tuple(_names("each group of 'merged'", group) for group in value)


def _names(what: str, value: object) -> Names:
    if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
        raise DataError(f"{what} must be a list of names")
    return tuple(value)


def _plain(name: str) -> str:
    """Datasets write Anterior where a task says anterior."""
    return name.strip().casefold()
