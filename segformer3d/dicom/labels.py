"""The label map of a case, from the segmentation or the structure set that is about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape

import numpy as np
from numpy.typing import NDArray

from segformer3d.dicom.contours import read_contours
from segformer3d.dicom.instances import CONTOURS, Instance
from segformer3d.dicom.segments import read_segments
from segformer3d.dicom.selection import Case, Wish
from segformer3d.errors import CaseError
from segformer3d.tasks import Task


@dataclass(frozen=True, eq=False)
class CaseLabel:
    """A label map, and what a reader should know about it.

    Attributes:
        values: (columns, rows, slices) label values of the task.
        source: the object that it comes from.
        notes: what was taken as absent, left out or adjusted; no names but those of the task.
    """

    values: NDArray[np.int16]
    source: Instance
    notes: tuple[str, ...]


def read_label(case: Case, task: Task, wishes: Sequence[Wish]) -> CaseLabel | None:
    """The label of a case, or None where nothing is about it.

    Structures are found by their names in the task, or by the patterns of `wishes`; several that fit one pattern are
    one structure together. Overlapping regions become a label map as predictions do.

    Raises:
        CaseError: there are several objects, none of the task's structures, or the object cannot be used.
    """
    if not case.labels:
        return None
    if len(case.labels) > 1:
        raise CaseError(
            f"{len(case.labels)} segmentations or structure sets are about it; import the one that is to be learnt from"
        )
    source = case.labels[0]
    chosen = _choose(source, task, wishes)
    read = read_contours if source.sop_class in CONTOURS else read_segments
    masks_SIJK = np.stack(read(source, case.scans[0].grid, chosen))
    values, notes = _to_label(masks_SIJK, task)
    return CaseLabel(values, source, (*_count(source, task, chosen), *notes))


def _choose(source: Instance, task: Task, wishes: Sequence[Wish]) -> list[list[int]]:
    """For each structure of the task, the places of its names in the object."""
    patterns = {wish.name: wish for wish in wishes}
    names = [structure.name for structure in task.structures]
    wanted = [patterns.get(name, Wish(name, escape(name))) for name in names]
    chosen = [[place for place, name in enumerate(source.structures) if wish.fits([name])] for wish in wanted]
    if not any(chosen):
        raise CaseError(
            f"none of the {len(source.structures)} structures of its label is called {' or '.join(names)}; say what "
            'they are called with --structure "NAME=PATTERN" (private/series.json lists them)'
        )
    return chosen


def _count(source: Instance, task: Task, chosen: Sequence[Sequence[int]]) -> list[str]:
    absent = [structure.name for structure, places in zip(task.structures, chosen, strict=True) if not places]
    unused = len(source.structures) - len({place for places in chosen for place in places})
    notes = [f"the label has no structure {name}: taken as absent" for name in absent]
    return [*notes, f"{unused} structures of the label are not of the task: left out"] if unused else notes


def _to_label(masks_SIJK: NDArray[np.bool_], task: Task) -> tuple[NDArray[np.int16], list[str]]:
    from segformer3d.inference import masks_to_label

    label_IJK = masks_to_label(masks_SIJK, task)
    changed = int((task.structure_masks(label_IJK) != masks_SIJK).any(axis=0).sum())
    if changed and task.activation == "softmax":
        raise CaseError(f"structures of its label overlap in {changed} voxels; correct them where they were drawn")
    notes = [f"inner regions of the label reach beyond outer ones in {changed} voxels: the outer ones were enlarged"]
    empty = ["the label has no voxel of any structure"]
    return label_IJK, [*(notes if changed else []), *(empty if not label_IJK.any() else [])]
