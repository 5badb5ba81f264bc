"""Rules that a case breaks by being unlike the others of its dataset: geometry, intensities, labels.

Lengths and volumes are compared by their logarithms: half as large is as far off as twice as large.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from segformer3d.data_check.facts import CaseFacts, StructureFacts
from segformer3d.data_check.intensities import MEDIAN
from segformer3d.data_check.outliers import LEAST_CASES, standing_apart
from segformer3d.data_check.rules import (
    AT_EDGE,
    FIELD,
    INTENSITY,
    MISSING,
    MIXED_AXES,
    MIXED_SCALES,
    MIXED_SPACING,
    NOT_JUDGED,
    OFTEN,
    PIECES,
    SPACING,
    TILTED,
    VOLUME,
    Finding,
    Rule,
)
from segformer3d.task import Task

# Floors of the robust z-scores; five of them are worth a look.
LENGTH_FLOOR = math.log(1.1)
VOLUME_FLOOR = math.log(1.15)
STRAY_FLOOR = 0.02
WINDOW_FLOOR = 0.05  # of the task's window
TILT_DEGREES = 15.0
MIXED_SCALES_TIMES = 10
# Spacings within 2 % are one protocol.
SAME_SPACING = 0.02
# What one case in ten does is how the dataset is, and said once.
RARE = 0.1

_AXES = ("left-right", "front-back", "top-bottom")


def check_cohort(cases: Sequence[CaseFacts], task: Task) -> Iterator[Finding]:
    """What stands apart among the cases that can be read."""
    if not cases:
        return
    yield from _check_spacing(cases, task)
    yield from _check_axes(cases)
    yield from _check_tilt(cases)
    yield from _check_fields(cases)
    yield from _check_scales(cases, task)
    if all(case.structures is not None for case in cases):
        for number in range(len(task.structures)):
            yield from _check_structure(cases, [case.structures[number] for case in cases if case.structures])
    if len(cases) < LEAST_CASES:
        found = f"there are {len(cases)} usable cases; what is unusual is not judged with fewer than {LEAST_CASES}"
        yield Finding(NOT_JUDGED, None, found)


def _check_spacing(cases: Sequence[CaseFacts], task: Task) -> Iterator[Finding]:
    """Without a spacing of the task, the model sees each case on its own grid, and any other is worth a look."""
    groups = _groups([case.geometry.spacing_mm for case in cases])
    if len(groups) < 2:
        return
    largest = max(groups, key=len)
    text = _spacing_text(cases[largest[0]])
    after = "" if task.spacing is None else ", and all are brought to the task's"
    kinds = f"there are {len(groups)} spacings; {len(largest)} of {len(cases)} cases have {text} mm{after}"
    yield Finding(MIXED_SPACING, None, kinds)
    apart: set[int] = set()
    if task.spacing is None and 2 * len(largest) > len(cases):
        apart = set(range(len(cases))) - set(largest)
    for axis in range(3):
        apart |= set(standing_apart([math.log(case.geometry.spacing_mm[axis]) for case in cases], LENGTH_FLOOR))
    for index in sorted(apart):
        yield Finding(SPACING, cases[index].name, f"its voxels are {_spacing_text(cases[index])} mm; most have {text}")


def _groups(spacings: Sequence[tuple[float, ...]]) -> list[list[int]]:
    """Indices of those that agree; each belongs to the first group that it fits."""
    groups: list[list[int]] = []
    for index, spacing in enumerate(spacings):
        fits = (group for group in groups if np.allclose(spacings[group[0]], spacing, rtol=SAME_SPACING, atol=0))
        group = next(fits, None)
        if group is None:
            groups.append([index])
        else:
            group.append(index)
    return groups


def _spacing_text(case: CaseFacts) -> str:
    return " x ".join(f"{mm:.3g}" for mm in case.geometry.spacing_mm)


def _check_axes(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    counts = Counter(case.geometry.axes for case in cases)
    if len(counts) > 1:
        yield Finding(MIXED_AXES, None, ", ".join(f"{axes} in {count} cases" for axes, count in counts.most_common()))


def _check_tilt(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """A tilt that most cases have is their protocol's; of a few cases nobody knows what most would have."""
    tilts = [case.geometry.tilt_degrees for case in cases]
    usual = float(np.median(tilts)) if len(cases) >= LEAST_CASES else 0.0
    for case, tilt in zip(cases, tilts, strict=True):
        if abs(tilt - usual) > TILT_DEGREES:
            found = f"its axes are turned by {tilt:.0f} degrees against the patient's, the others' by {usual:.0f}"
            yield Finding(TILTED, case.name, found)


def _check_fields(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    for axis, name in enumerate(_AXES):
        fields = [case.geometry.field_mm[axis] for case in cases]
        for index in standing_apart([math.log(field) for field in fields], LENGTH_FLOOR):
            found = f"it covers {fields[index]:.0f} mm {name}; the median is {np.median(fields):.0f} mm"
            yield Finding(FIELD, cases[index].name, found)


def _check_scales(cases: Sequence[CaseFacts], task: Task) -> Iterator[Finding]:
    """Of a CT every case must have the same scale; scanners of MRI have scales of their own."""
    for number, name in enumerate(task.modalities):
        medians = [case.channels[number].percentiles[MEDIAN] for case in cases]
        if task.window is not None:
            for index in standing_apart(medians, WINDOW_FLOOR * (task.window[1] - task.window[0])):
                found = f"the median of {name} is {medians[index]:g}; among the cases it is {np.median(medians):g}"
                yield Finding(INTENSITY, cases[index].name, found)
        elif 0 < MIXED_SCALES_TIMES * min(medians) < max(medians):
            found = f"the median of {name} goes from {min(medians):g} to {max(medians):g} among the cases"
            yield Finding(MIXED_SCALES, None, found)


def _check_structure(cases: Sequence[CaseFacts], facts: Sequence[StructureFacts]) -> Iterator[Finding]:
    name, total = facts[0].name, len(cases)
    present = [index for index, fact in enumerate(facts) if fact.volume_ml > 0]
    absent = [index for index in range(total) if index not in set(present)]
    labelled = [index for index in absent if any(s.volume_ml for s in cases[index].structures or ())]
    yield from _rare(MISSING, cases, labelled, lambda _: f"it has no {name}", f"have no {name}")
    volumes = [facts[index].volume_ml for index in present]
    for place in standing_apart([math.log(volume) for volume in volumes], VOLUME_FLOOR):
        found = f"{name} is {volumes[place]:.3g} ml; the median is {np.median(volumes):.3g} ml"
        yield Finding(VOLUME, cases[present[place]].name, found)
    for index in standing_apart([fact.stray for fact in facts], STRAY_FLOOR):
        found = f"{name} has {facts[index].pieces} pieces; {facts[index].stray:.0%} of it lie outside the largest"
        yield Finding(PIECES, cases[index].name, found)
    edges = [index for index, fact in enumerate(facts) if fact.edges]
    told: Callable[[int], str] = lambda index: f"{name} touches the image's {' and '.join(facts[index].edges)} edge"  # noqa: E731
    yield from _rare(AT_EDGE, cases, edges, told, f"have {name} at an edge of the image")


def _rare(
    rule: Rule, cases: Sequence[CaseFacts], broken: Sequence[int], told: Callable[[int], str], many: str
) -> Iterator[Finding]:
    """A finding for each case; where the cases are many, one note for all, and where they are few, none is unusual."""
    if not broken:
        return
    if len(cases) >= LEAST_CASES and len(broken) <= max(1, RARE * len(cases)):
        yield from (Finding(rule, cases[index].name, told(index)) for index in broken)
    else:
        yield Finding(OFTEN, None, f"{len(broken)} of {len(cases)} cases {many}")
