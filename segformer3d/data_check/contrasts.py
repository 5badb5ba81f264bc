"""Contrasts that were mixed up: a case whose contrasts stand in another order, or that holds another contrast.

A case is said to be swapped where another order of its contrasts fits the dataset's profiles much better than its own,
and a contrast to look like another where that one's profile fits it much better. Where nothing fits, the histogram or
the brightness of a structure is said to be unlike the others'. Of few cases nothing can be told.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from segformer3d.data_check.facts import CaseFacts
from segformer3d.data_check.outliers import LEAST_CASES, standing_apart
from segformer3d.data_check.profiles import Features, Order, distance, features_of, learn
from segformer3d.data_check.rules import ANOTHER_CONTRAST, BRIGHTNESS, HISTOGRAM, SWAPPED, Finding
from segformer3d.task import Task

# So far off is the case's own order, and so many times as far as the best one. Among made-up brains of several
# scanners no sound case comes near, and nineteen of twenty swaps go beyond.
SWAPPED_SPREADS, SWAPPED_TIMES = 1.5, 1.5
# The same for one contrast by itself, which has fewer features: nine of ten go beyond.
ANOTHER_SPREADS, ANOTHER_TIMES = 2.0, 2.0
# More contrasts than this have more orders than can be tried.
MOST_CONTRASTS = 6
# Floors of the robust z-scores, in standard deviations of the image.
SHAPE_FLOOR = 0.02
BRIGHTNESS_FLOOR = 0.1


def check_contrasts(cases: Sequence[CaseFacts], task: Task) -> Iterator[Finding]:
    """Cases whose contrasts are not what their places say."""
    if len(cases) < LEAST_CASES:
        return
    features, names = [features_of(case) for case in cases], task.modalities
    swapped = find_swapped(features) if 1 < len(names) <= MOST_CONTRASTS else {}
    for index, order in swapped.items():
        pairs = ((place, order.index(place)) for place in range(len(order)) if order.index(place) != place)
        found = ", ".join(f"{names[place]} looks like {names[other]}" for place, other in pairs)
        yield Finding(SWAPPED, cases[index].name, found)
    others = {pair: like for pair, like in find_others(features).items() if pair[0] not in swapped}
    for (index, number), like in others.items():
        yield Finding(ANOTHER_CONTRAST, cases[index].name, f"{names[number]} looks like {names[like]}")
    for number in range(len(names)):
        told = set(swapped) | {index for index, contrast in others if contrast == number}
        yield from _check_histograms(cases, features, number, task, told)
        yield from _check_brightness(cases, features, number, task, told)


def find_swapped(features: Sequence[Features]) -> dict[int, Order]:
    """Cases that fit much better in another order: what should stand at place i stands at `order[i]`."""
    orders = list(itertools.permutations(range(len(features[0].shapes))))
    profiles = learn([found.in_order(orders[0]) for found in features])
    swapped = {}
    for index, found in enumerate(features):
        distances = [distance(profiles, found.in_order(order)) for order in orders]
        best = int(np.argmin(distances))
        if distances[0] > SWAPPED_SPREADS and distances[0] > SWAPPED_TIMES * distances[best]:
            swapped[index] = orders[best]
    return swapped


def find_others(features: Sequence[Features]) -> dict[tuple[int, int], int]:
    """Contrasts of cases, as (case, contrast), that look like another contrast, and which."""
    count = len(features[0].shapes)
    profiles = [learn([found.of(number) for found in features]) for number in range(count)]
    others = {}
    for index, number in itertools.product(range(len(features)), range(count)):
        distances = [distance(profile, features[index].of(number)) for profile in profiles]
        like = int(np.argmin(distances))
        if distances[number] > ANOTHER_SPREADS and distances[number] > ANOTHER_TIMES * distances[like]:
            others[index, number] = like
    return others


def _check_histograms(
    cases: Sequence[CaseFacts], features: Sequence[Features], number: int, task: Task, told: set[int]
) -> Iterator[Finding]:
    """1-Wasserstein distance of each standardised histogram from the median one of its contrast."""
    shapes_NP = np.array([found.shapes[number] for found in features])
    apart = np.abs(shapes_NP - np.median(shapes_NP, axis=0)).mean(axis=1)
    for index in standing_apart(apart.tolist(), SHAPE_FLOOR):
        if apart[index] > np.median(apart) and index not in told:
            found = f"the histogram of {task.modalities[number]} is unlike the others'"
            yield Finding(HISTOGRAM, cases[index].name, found)


def _check_brightness(
    cases: Sequence[CaseFacts], features: Sequence[Features], number: int, task: Task, told: set[int]
) -> Iterator[Finding]:
    for place in range(features[0].structures.shape[1]):
        values = [float(found.structures[number, place]) for found in features]
        for index in standing_apart(values, BRIGHTNESS_FLOOR):
            if index not in told:
                kind = "brighter" if values[index] > np.nanmedian(values) else "darker"
                where = f"{task.structures[place].name} is much {kind} in {task.modalities[number]}"
                yield Finding(BRIGHTNESS, cases[index].name, f"{where} than in the other cases")
