"""What each contrast of a dataset looks like, learnt from its cases, and how far a case is from that.

Three kinds of features tell contrasts apart, whatever the scanner's scale: the shape of the histogram, the brightness
of each structure, and how the contrasts of a case correlate. Of each feature the profile holds the median over the
cases and its spread; a case's distance is the mean absolute difference in spreads, first over the features of a kind
and then over the kinds, so that many features of one kind do not outvote the others. If most cases are wrong, so is
the profile.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segformer3d.data_check.facts import CaseFacts
from segformer3d.data_check.outliers import LEAST_CASES, NORMAL

# What hardly differs among the cases must not decide alone: no spread is smaller than so much of its kind's median.
LEAST_SPREAD = 0.5
# A single value of a kind is too easily far off by chance.
LEAST_VALUES = 2
LEAST_KINDS = 2

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

    def in_order(self, order: Order) -> tuple[Values, ...]:
        """The three kinds, each in a row, as if the contrasts stood in another order."""
        rows = list(order)
        pairs = self.relations[np.ix_(rows, rows)][np.triu_indices(len(rows), 1)]
        return self.shapes[rows].ravel(), self.structures[rows].ravel(), pairs

    def of(self, contrast: int) -> tuple[Values, ...]:
        """The two kinds that a contrast has by itself."""
        return self.shapes[contrast], self.structures[contrast]


def features_of(case: CaseFacts) -> Features:
    """The features of one case."""
    count = len(case.channels)
    relations = np.eye(count)
    for (one, other), value in zip(itertools.combinations(range(count), 2), case.relations, strict=True):
        relations[one, other] = relations[other, one] = value
    structures = np.array([channel.in_structures for channel in case.channels]).reshape(count, -1)
    return Features(np.array([channel.standardised for channel in case.channels]), structures, relations)


@dataclass(frozen=True)
class Profile:
    """One kind of feature over the cases: which of them enough cases have, their medians and their spreads."""

    known: NDArray[np.bool_]
    medians: Values
    spreads: Values


def learn(rows: Sequence[tuple[Values, ...]]) -> tuple[Profile, ...]:
    """A profile of each kind, from the kinds of every case."""
    return tuple(_learn(np.array(values)) for values in zip(*rows, strict=True))


def _learn(values_NK: Values) -> Profile:
    known = np.isfinite(values_NK).sum(axis=0) >= LEAST_CASES
    if not known.any():
        return Profile(known, np.empty(0), np.empty(0))
    values = values_NK[:, known]
    medians = np.nanmedian(values, axis=0)
    spreads = NORMAL * np.nanmedian(np.abs(values - medians), axis=0)
    return Profile(known, medians, np.maximum(spreads, max(LEAST_SPREAD * float(np.median(spreads)), 1e-6)))


def distance(profiles: Sequence[Profile], kinds: Sequence[Values]) -> float:
    """How far the features of one case are from the profiles, in spreads; NaN where fewer than two kinds tell."""
    means = []
    for profile, values in zip(profiles, kinds, strict=True):
        apart = np.abs(values[profile.known] - profile.medians) / profile.spreads
        known = apart[np.isfinite(apart)]
        means += [float(known.mean())] if known.size >= LEAST_VALUES else []
    return float(np.mean(means)) if len(means) >= LEAST_KINDS else np.nan
