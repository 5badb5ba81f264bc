"""Rules that one case breaks by itself, whatever the others are like."""

import itertools
from collections.abc import Iterator

from segformer3d.data_check.facts import CaseFacts, ChannelFacts
from segformer3d.data_check.rules import (
    CLIPPED,
    EMPTY_LABEL,
    FEW_LEVELS,
    FLAT,
    MOSTLY_EMPTY,
    OUTSIDE,
    SAME_CONTRAST,
    SHEARED,
    Finding,
    Rule,
)
from segformer3d.task import Task

# Contrasts of one patient look alike, but two series never have the same noise.
SAME_CORRELATION = 0.999
# The brightest voxel of a sound scan stands alone, or nearly so; a window that cut it off leaves many.
CLIPPED_SHARE = 0.005
# An 8-bit export of a small crop still has about a hundred.
FEWEST_LEVELS = 16
EMPTY_SHARE = 0.99
SHEAR_DEGREES = 1.0
OUTSIDE_SHARE = 0.1


def check_case(facts: CaseFacts, task: Task) -> Iterator[Finding]:
    """What is wrong with one case."""

    def finding(rule: Rule, found: str) -> Finding:
        return Finding(rule, facts.name, found)

    if min(facts.geometry.shape) == 1:
        yield finding(FLAT, f"the image is {' x '.join(map(str, facts.geometry.shape))} voxels: a single slice")
    if facts.geometry.shear_degrees > SHEAR_DEGREES:
        yield finding(SHEARED, f"its axes are {facts.geometry.shear_degrees:.1f} degrees off a right angle")
    for name, channel in zip(task.modalities, facts.channels, strict=True):
        yield from (finding(rule, found) for rule, found in _check_channel(name, channel))
    yield from (finding(SAME_CONTRAST, found) for found in _same_contrasts(facts, task))
    yield from (finding(rule, found) for rule, found in _check_label(facts))


def _check_channel(name: str, facts: ChannelFacts) -> Iterator[tuple[Rule, str]]:
    if facts.at_highest >= CLIPPED_SHARE:
        yield CLIPPED, f"{facts.at_highest:.1%} of {name} have the highest value, {facts.highest:g}"
    if facts.levels < FEWEST_LEVELS:
        yield FEW_LEVELS, f"{name} has {facts.levels} different values outside the background"
    if facts.background > EMPTY_SHARE:
        yield MOSTLY_EMPTY, f"{facts.background:.1%} of {name} are background"


def _same_contrasts(facts: CaseFacts, task: Task) -> Iterator[str]:
    pairs = itertools.combinations(range(len(facts.channels)), 2)
    for (one, other), correlation in zip(pairs, facts.relations, strict=True):
        if correlation >= SAME_CORRELATION:
            yield f"{task.modalities[one]} and {task.modalities[other]} are the same image"


def _check_label(facts: CaseFacts) -> Iterator[tuple[Rule, str]]:
    if facts.structures is None:
        return
    if not any(structure.volume_ml for structure in facts.structures):
        yield EMPTY_LABEL, "no structure is labelled"
    for structure in facts.structures:
        if structure.outside >= OUTSIDE_SHARE:
            yield OUTSIDE, f"{structure.outside:.0%} of {structure.name} lie where the image is background"
