"""Section: the scores of one whole scan with three overlapping regions, by MONAI's functions and by ours, on one core.

Tumours are nested lumps of noise, predictions such lumps moved by a voxel or two. In `scattered` a hundredth of the
brain's voxels is predicted on top, which is what makes a box around the structures useless. `monai` scores whole
volumes, `monai, boxed` the box around prediction and truth (what segfed did before), `segfed` asks a tree of each
surface, and `segfed, lesions` scores lesion by lesion as well.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from benchmarks.measure import Series, interleaved, spoken, table, times_as_fast
from benchmarks.settings import Settings
from benchmarks.worker import seconds_of
from segformer3d.boxes import bounding_box
from segformer3d.config import Triple
from segformer3d.metrics import score_case
from segformer3d.protocols import WHOLE_SCAN, choose_protocol
from segformer3d.surfaces import PERCENTILE, Mask

SPACING = (1.0, 1.0, 1.0)
SCATTERED = 0.01  # of the brain's voxels
_BRAIN = 0.29  # half axes, over those of the volume
_REGIONS = (0.17, 0.1, 0.07)
_ROUGHNESS = 0.12

_Way = Callable[[Mask, Mask], list[tuple[float, float, float]]]


def measure_metrics(settings: Settings) -> dict[str, Any]:
    """Seconds of every way for both predictions, and how far our scores are from MONAI's."""
    lumps, scattered, truth = tumour_masks(settings.scan_shape)
    found: dict[str, Any] = {}
    for name, predicted in (("lumps", lumps), ("scattered", scattered)):
        deeds = {way: partial(_seconds, score, predicted, truth) for way, score in _WAYS.items()}
        seconds = interleaved(deeds, settings.slow_repeats)
        ours, theirs = (np.array(_WAYS[way](predicted, truth)) for way in ("segfed", "monai, boxed"))
        found[name] = {
            "seconds": {way: series.seconds for way, series in seconds.items()},
            "ratios": {way: times_as_fast(seconds["monai, boxed"], series) for way, series in seconds.items()},
            "largest_difference": float((np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))).max()),
        }
    return found


def describe_metrics(found: Mapping[str, Any]) -> str:
    """The section in Markdown."""
    rows = [
        (f"{name}: {way}", f"{told['ratios'][way]:.2f}", spoken(Series(told["seconds"][way])))
        for name, told in found.items()
        for way in told["seconds"]
    ]
    largest = max(told["largest_difference"] for told in found.values())
    return f"{table(('way', 'ratio', 'time'), rows)}\n\nLargest difference of a score from MONAI's: {largest:.1e}."


def tumour_masks(shape: Triple) -> tuple[Mask, Mask, Mask]:
    """A good prediction, the same with scattered false voxels, and the truth: (3, X, Y, Z) masks, one in the other."""
    generator = np.random.default_rng(0)
    truth, lumps = _nested(shape, generator, 0.0), _nested(shape, generator, 1.5)
    brain = _radius(shape, (0.0, 0.0, 0.0)) < _BRAIN
    scattered = lumps | ((generator.random((3, *shape)) < SCATTERED) & brain)
    return lumps, scattered, truth


def _nested(shape: Triple, generator: np.random.Generator, shift: float) -> Mask:
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(generator.normal(size=shape).astype(np.float32), 6)
    radius = _radius(shape, (shift - 20, shift + 10, shift)) * (1 + _ROUGHNESS * noise / noise.std())
    return np.stack([radius < size for size in _REGIONS])


def _radius(shape: Triple, centre: tuple[float, float, float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Distance from the middle of the volume, moved by `centre` voxels, in sides of the volume."""
    axes = np.ogrid[tuple(slice(0, side) for side in shape)]
    scaled = (((axis - side / 2 - c) / side) ** 2 for axis, side, c in zip(axes, shape, centre, strict=True))
    return np.sqrt(sum(scaled)).astype(np.float32)


def _seconds(score: _Way, predicted: Mask, truth: Mask) -> float:
    return seconds_of(lambda: score(predicted, truth), torch.device("cpu"))


def _monai(predicted: Mask, truth: Mask) -> list[tuple[float, float, float]]:
    scores = []
    for p, t in zip(predicted, truth, strict=True):
        pair = [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (p, t)]
        asked = {"include_background": True, "spacing": list(SPACING)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MONAI's, of itself
            distance = compute_hausdorff_distance(*pair, percentile=PERCENTILE, **asked)
            surface = compute_surface_dice(*pair, [WHOLE_SCAN.tolerance_mm], **asked)
        scores.append((float(compute_dice(*pair)), float(distance), float(surface)))
    return scores


def _monai_boxed(predicted: Mask, truth: Mask) -> list[tuple[float, float, float]]:
    boxes = [bounding_box(p | t) for p, t in zip(predicted, truth, strict=True)]
    parts = ((p[box][None], t[box][None]) for p, t, box in zip(predicted, truth, boxes, strict=True))
    return [score for p, t in parts for score in _monai(p, t)]


def _segfed(predicted: Mask, truth: Mask, *, lesions: bool = False) -> list[tuple[float, float, float]]:
    protocol = choose_protocol("brats2023") if lesions else WHOLE_SCAN
    scores = score_case(predicted, truth, SPACING, protocol)
    return [(score.dice, score.hd95_mm, score.surface_dice) for score in scores]


_WAYS: Mapping[str, _Way] = {
    "monai": _monai,
    "monai, boxed": _monai_boxed,
    "segfed": _segfed,
    "segfed, lesions": partial(_segfed, lesions=True),
}
