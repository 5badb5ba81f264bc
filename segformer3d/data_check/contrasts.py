"""Contrasts that were mixed up: a case whose contrasts stand in another order, or that holds another contrast.

What a contrast looks like is learnt from the dataset itself, as the median over its cases: the shape of the histogram
whatever the scanner's scale, the brightness of each structure, and how the contrasts of a case correlate. A case's
distance from it is the mean absolute difference over all of these, each in units of its own spread among the cases. A
case is said to be swapped where another order of its contrasts fits much better than its own. If most cases are wrong,
or there are few, nothing can be told.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segformer3d.data_check.facts import CaseFacts
from segformer3d.data_check.outliers import LEAST_CASES, NORMAL, standing_apart
from segformer3d.data_check.rules import BRIGHTNESS, HISTOGRAM, SWAPPED, Finding
from segformer3d.task import Task

# Another order fits so many times as well as the case's own, which is so far off. No sound phantom comes near, whatever
# its scanner, and nearly every swap of two contrasts goes beyond.
TIMES_BETTER = 1.5
FAR_OFF = 1.5
# More contrasts than this have more orders than can be tried.
MOST_CONTRASTS = 6
# Floors of the robust z-scores, in standard deviations of the image.
SHAPE_FLOOR = 0.02
BRIGHTNESS_FLOOR = 0.1

Values = NDArray[np.float64]
Order = tuple[int, ...]


@dataclass(frozen=True)
class Features:
    """What the contrasts of one case look like.

    Attributes:
        shapes: (C, P) standardised percentiles of each contrast.
        structures: (C, S) standardised brightness of each structure in it; NaN where the structure is missing.
        relations: (C, C) correlations.
    """

    shapes: Values
    structures: Values
    relations: Values

    def in_order(self, order: Order) -> tuple[Values, Values, Values]:
        """The three kinds, each in a row, as if the contrasts stood in another order."""
        rows = list(order)
        pairs = self.relations[np.ix_(rows, rows)][np.triu_indices(len(rows), 1)]
        return self.shapes[rows].ravel(), self.structures[rows].ravel(), pairs


@dataclass(frozen=True)
class Profile:
    """One kind of feature over the cases: where enough cases have it, its median, and its spread."""

    known: NDArray[np.bool_]
    medians: Values
    spreads: Values

    def distance(self, values: Values) -> float:
        """The mean difference in spreads; NaN where nothing can be compared."""
        apart = np.abs(values[self.known] - self.medians) / self.spreads
        apart = apart[np.isfinite(apart)]
        return float(apart.mean()) if apart.size else np.nan


def check_contrasts(cases: Sequence[CaseFacts], task: Task) -> Iterator[Finding]:
    """Cases whose contrasts are not what their places say."""
    if len(cases) < LEAST_CASES:
        return
    features = [features_of(case) for case in cases]
    swapped = find_swapped(features) if 1 < len(task.modalities) <= MOST_CONTRASTS else {}
    for index, order in swapped.items():
        found = ", ".join(
            f"{task.modalities[place]} looks like {task.modalities[order.index(place)]}"
            for place in range(len(order))
            if order.index(place) != place
        )
        yield Finding(SWAPPED, cases[index].name, found)
    for number in range(len(task.modalities)):
        yield from _check_histograms(cases, features, number, task, set(swapped))
        yield from _check_brightness(cases, features, number, task, set(swapped))


def features_of(case: CaseFacts) -> Features:
    """The features of one case."""
    count = len(case.channels)
    relations = np.eye(count)
    for (one, other), value in zip(itertools.combinations(range(count), 2), case.relations, strict=True):
        relations[one, other] = relations[other, one] = value
    structures = np.array([channel.in_structures for channel in case.channels]).reshape(count, -1)
    return Features(np.array([channel.standardised for channel in case.channels]), structures, relations)


def find_swapped(features: Sequence[Features]) -> dict[int, Order]:
    """Cases that fit much better in another order: the contrast at place i of a profile is the case's `order[i]`."""
    orders = list(itertools.permutations(range(len(features[0].shapes))))
    kinds = zip(*(found.in_order(orders[0]) for found in features), strict=True)
    profiles = [_learn(np.array(values)) for values in kinds]
    swapped = {}
    for index, found in enumerate(features):
        distances = [_distance(profiles, found.in_order(order)) for order in orders]
        best = int(np.argmin(distances))
        if distances[0] > max(FAR_OFF, TIMES_BETTER * distances[best]):
            swapped[index] = orders[best]
    return swapped


def _learn(values_NK: Values) -> Profile:
    known = np.isfinite(values_NK).sum(axis=0) >= LEAST_CASES
    values = values_NK[:, known]
    medians = np.nanmedian(values, axis=0) if known.any() else np.empty(0)
    spreads = NORMAL * np.nanmedian(np.abs(values - medians), axis=0) if known.any() else np.empty(0)
    # What hardly differs among a few cases must not decide alone.
    least = max(0.5 * float(np.median(spreads)), 1e-6) if known.any() else 0.0
    return Profile(known, medians, np.maximum(spreads, least))


def _distance(profiles: Sequence[Profile], kinds: Sequence[Values]) -> float:
    apart = [profile.distance(values) for profile, values in zip(profiles, kinds, strict=True)]
    return float(np.mean([value for value in apart if np.isfinite(value)]))


def _check_histograms(
    cases: Sequence[CaseFacts], features: Sequence[Features], number: int, task: Task, told: set[int]
) -> Iterator[Finding]:
    """1-Wasserstein distance of each standardised histogram from the median one of its contrast."""
    shapes_NCP = np.array([found.shapes for found in features])
    usual_CP = np.median(shapes_NCP, axis=0)
    apart = np.abs(shapes_NCP[:, number] - usual_CP[number]).mean(axis=1)
    for index in standing_apart(apart.tolist(), SHAPE_FLOOR):
        if apart[index] < np.median(apart) or index in told:
            continue
        others = np.abs(shapes_NCP[index, number] - usual_CP).mean(axis=1)
        nearest = int(np.argmin(others))
        alike = f", and more like {task.modalities[nearest]}" if others[nearest] < apart[index] / 2 else ""
        found = f"the histogram of {task.modalities[number]} is unlike the others'{alike}"
        yield Finding(HISTOGRAM, cases[index].name, found)


def _check_brightness(
    cases: Sequence[CaseFacts], features: Sequence[Features], number: int, task: Task, told: set[int]
) -> Iterator[Finding]:
    for place in range(features[0].structures.shape[1]):
        values = [float(found.structures[number, place]) for found in features]
        usual = float(np.nanmedian(values)) if np.isfinite(values).any() else np.nan
        for index in standing_apart(values, BRIGHTNESS_FLOOR):
            if index not in told:
                kind = "brighter" if values[index] > usual else "darker"
                where = f"{task.structures[place].name} is much {kind} in {task.modalities[number]}"
                yield Finding(BRIGHTNESS, cases[index].name, f"{where} than in the other cases")
