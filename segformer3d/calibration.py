"""What predicted probabilities are worth: of the voxels given 70 %, are seven in ten in the structure?

Reliability (Guo et al., ICML 2017) for each structure over the voxels of all cases, gathered slab by slab: ten bins of
predicted probability, in each the mean probability and the observed frequency, and the expected calibration error

    ECE = Σ over bins of (voxels in the bin / all voxels) · |mean probability − observed frequency|

Voxels given less than `FLOOR` are left out: they are nearly all of a scan, rightly, and would hide the rest. What of a
structure was overlooked so is told. Promises: memory for the bins, whatever the size and number of volumes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10
FLOOR = 0.01


@dataclass(frozen=True)
class Reliability:
    """Sums over voxels, for S structures.

    Attributes:
        voxels: (S, BINS) voxels by predicted probability.
        probability: (S, BINS) the sum of their probabilities.
        observed: (S, BINS) how many of them are in the structure.
        below: (S,) voxels of the structure that were given less than FLOOR.
    """

    voxels: NDArray[np.int64]
    probability: NDArray[np.float64]
    observed: NDArray[np.int64]
    below: NDArray[np.int64]

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(
            self.voxels + other.voxels,
            self.probability + other.probability,
            self.observed + other.observed,
            self.below + other.below,
        )

    def of(self, structures: Sequence[bool]) -> "Reliability":
        """The sums of some structures; those of the others are 0."""
        kept = np.array(structures)
        bins = kept[:, None]
        return Reliability(self.voxels * bins, self.probability * bins, self.observed * bins, self.below * kept)


@dataclass(frozen=True)
class Bin:
    """The voxels given a probability from `low` up to `high`; without voxels there is no mean and no frequency."""

    low: float
    high: float
    voxels: int
    mean_probability: float | None
    observed: float | None


@dataclass(frozen=True)
class StructureCalibration:
    """One structure's reliability.

    Attributes:
        name: the structure.
        bins: from low to high probability.
        expected_error: the expected calibration error, in [0, 1]; None if no voxel was given FLOOR or more.
        overlooked: the share of the structure's true voxels that were given less than FLOOR; None without any.
    """

    name: str
    bins: tuple[Bin, ...]
    expected_error: float | None
    overlooked: float | None

    def to_json(self) -> dict[str, Any]:
        """The reliability as plain JSON values."""
        return {
            "expected_error": self.expected_error,
            "overlooked": self.overlooked,
            "bins": [asdict(entry) for entry in self.bins],
        }


def no_voxels(structures: int) -> Reliability:
    """The sums over nothing."""
    shape = (structures, BINS)
    counts = np.zeros(shape, np.int64)
    return Reliability(counts, np.zeros(shape), counts, np.zeros(structures, np.int64))


def reliability(probabilities_SXYZ: NDArray[np.float32], truth_SXYZ: NDArray[np.bool_]) -> Reliability:
    """The sums over one slab: probabilities in [0, 1] and true masks of one shape."""
    parts = [_of_structure(p, t) for p, t in zip(probabilities_SXYZ, truth_SXYZ, strict=True)]
    voxels, probability, observed, below = zip(*parts, strict=True)
    return Reliability(np.stack(voxels), np.stack(probability), np.stack(observed), np.array(below, np.int64))


_Sums = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], int]


def _of_structure(probability_XYZ: NDArray[np.float32], truth_XYZ: NDArray[np.bool_]) -> _Sums:
    seen = probability_XYZ >= FLOOR
    probability, truth = probability_XYZ[seen].astype(np.float64), truth_XYZ[seen]
    place = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    voxels = np.bincount(place, minlength=BINS).astype(np.int64)
    sums = np.bincount(place, weights=probability, minlength=BINS).astype(np.float64)
    observed = np.bincount(place[truth], minlength=BINS).astype(np.int64)
    return voxels, sums, observed, int(np.count_nonzero(truth_XYZ)) - int(observed.sum())


def calibrate(names: Sequence[str], sums: Reliability) -> tuple[StructureCalibration, ...]:
    """Each structure's reliability out of the sums over all cases."""
    return tuple(_calibrate(name, sums, index) for index, name in enumerate(names))


def _calibrate(name: str, sums: Reliability, index: int) -> StructureCalibration:
    voxels, probability, observed = sums.voxels[index], sums.probability[index], sums.observed[index]
    total, true = int(voxels.sum()), int(observed.sum() + sums.below[index])
    return StructureCalibration(
        name,
        tuple(_bin(place, int(voxels[place]), probability[place], observed[place]) for place in range(BINS)),
        float(np.abs(probability - observed).sum() / total) if total else None,
        float(sums.below[index] / true) if true else None,
    )


def _bin(place: int, voxels: int, probability: np.float64, observed: np.int64) -> Bin:
    low, high = max(FLOOR, place / BINS), (place + 1) / BINS
    if voxels == 0:
        return Bin(low, high, 0, None, None)
    return Bin(low, high, voxels, float(probability / voxels), float(observed / voxels))
