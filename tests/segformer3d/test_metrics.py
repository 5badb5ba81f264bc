"""Oracles: hand-worked cuboids and points, brute force in float64, MONAI, symmetry, and the uncropped computation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from segformer3d import metrics
from segformer3d.boxes import bounding_box
from segformer3d.errors import ConfigurationError
from segformer3d.metrics import StructureScore, score_case
from segformer3d.protocols import WHOLE_SCAN
from tests.examples import examples

ANISOTROPIC = (0.5, 1.0, 3.0)


def cuboid(shape, corner, size):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    return mask


def points(shape, *voxels):
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def score(predicted, truth, spacing=ANISOTROPIC, tolerance_mm=1.0):
    (only,) = score_case(predicted[None], truth[None], spacing, replace(WHOLE_SCAN, tolerance_mm=tolerance_mm))
    return only


def numbers(score):
    return score.dice, score.hd95_mm, score.surface_dice


def same(left, right):
    return all(a == pytest.approx(b, rel=1e-5, nan_ok=True) for a, b in zip(numbers(left), numbers(right), strict=True))


# --- reference: the definitions of the module docstring, voxel by voxel, in float64


def reference_surface(mask):
    surface = []
    for voxel in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                neighbour = voxel.copy()
                neighbour[axis] += step
                inside = all(0 <= i < n for i, n in zip(neighbour, mask.shape, strict=True))
                if not (inside and mask[tuple(neighbour)]):
                    surface.append(tuple(voxel))
    return np.array(sorted(set(surface)), dtype=np.float64)


def reference(predicted, truth, spacing, tolerance_mm):
    dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
    p, t = (reference_surface(mask) * np.array(spacing) for mask in (predicted, truth))
    distances = np.sqrt(((p[:, None] - t[None]) ** 2).sum(axis=-1))
    forth, back = distances.min(axis=1), distances.min(axis=0)
    near = (forth <= tolerance_mm).sum() + (back <= tolerance_mm).sum()
    hd95 = max(np.percentile(forth, 95), np.percentile(back, 95))
    return StructureScore(float(dice), float(hd95), float(near / (forth.size + back.size)))


def random_masks(seed, shape=(7, 6, 5)):
    generator = np.random.default_rng(seed)
    masks = generator.random((2, *shape)) < generator.uniform(0.05, 0.7, size=(2, 1, 1, 1))
    masks[:, 3, 3, 2] = True  # neither is empty
    return masks


# --- hand-worked examples


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_a_shifted_cuboid_has_the_shift_as_hd95(axis, shift):
    corner = [3, 3, 3]
    truth = cuboid((14, 14, 14), corner, (5, 5, 5))
    corner[axis] += shift
    predicted = cuboid((14, 14, 14), corner, (5, 5, 5))
    # A whole face of 25 of the 98 surface voxels is `shift` away, so the 95th percentile is that distance, and 2 * 5 *
    # (5 - shift) of each 5 * 5 * 5 voxels overlap.
    result = score(predicted, truth)
    assert result.hd95_mm == pytest.approx(shift * ANISOTROPIC[axis], rel=1e-6)
    assert result.dice == pytest.approx((5 - shift) / 5)


def test_surface_dice_of_a_shifted_cuboid_counts_surface_voxels():
    truth, predicted = cuboid((12, 12, 12), (3, 3, 3), (4, 4, 4)), cuboid((12, 12, 12), (4, 3, 3), (4, 4, 4))
    # Each cube has 4³ - 2³ = 56 surface voxels. Of the prediction's, the far face (16) and the inner 4 voxels of the
    # near face, which lie inside the truth, are 1 voxel off; the others (36) lie on the truth's surface.
    exact, lenient = (score(predicted, truth, (0.5, 1.0, 3.0), tolerance) for tolerance in (0.0, 0.5))
    assert exact.surface_dice == pytest.approx(36 / 56)
    assert lenient.surface_dice == 1.0


def test_single_voxels_are_their_own_surface():
    truth, predicted = points((9, 9, 9), (2, 2, 2)), points((9, 9, 9), (4, 3, 3))
    expected = math.sqrt((2 * 0.5) ** 2 + 1.0**2 + 3.0**2)
    assert same(score(predicted, truth), StructureScore(0.0, expected, 0.0))
    assert same(score(predicted, truth, tolerance_mm=expected + 1e-3), StructureScore(0.0, expected, 1.0))


def test_the_95th_percentile_interpolates():
    # Truth: one voxel. Prediction: that voxel and 20 more in a row, 0..20 voxels away. Sorted distances d_i = i / 2 mm;
    # the 95th percentile of 21 values is d_19 = 9.5 mm. The way back is 0.
    truth, predicted = points((30, 3, 3), (4, 1, 1)), cuboid((30, 3, 3), (4, 1, 1), (21, 1, 1))
    assert score(predicted, truth).hd95_mm == pytest.approx(19 * 0.5)
    # With 4 voxels, 0..3 away, position 0.95 * 3 = 2.85: 1.0 mm + 0.85 * 0.5 mm.
    assert score(cuboid((30, 3, 3), (4, 1, 1), (4, 1, 1)), truth).hd95_mm == pytest.approx(1.0 + 0.85 * 0.5)


def test_hd95_is_the_larger_direction_and_not_the_pooled_percentile():
    truth = cuboid((120, 3, 3), (0, 1, 1), (100, 1, 1))
    predicted = points((120, 3, 3), (0, 1, 1), (109, 1, 1))
    forth = [0.0, 10.0]
    back = [min(i, 109 - i) for i in range(100)]
    larger = max(np.percentile(forth, 95), np.percentile(back, 95))
    assert score(predicted, truth, (1.0, 1.0, 1.0)).hd95_mm == pytest.approx(larger)
    assert larger != pytest.approx(np.percentile(forth + back, 95))


def test_the_edge_of_the_image_is_surface():
    full = np.ones((4, 4, 4), bool)
    inner = cuboid((4, 4, 4), (1, 1, 1), (2, 2, 2))
    # The 56 outer voxels are full's surface; corners are sqrt(0.25 + 1 + 9) from the inner cube's nearest corner.
    corners = math.sqrt(0.5**2 + 1 + 9)
    assert score(full, inner).hd95_mm == pytest.approx(corners)
    assert same(score(full, full), StructureScore(1.0, 0.0, 1.0))


# --- empty masks


EMPTY, PRESENT = np.zeros((6, 6, 6), bool), cuboid((6, 6, 6), (2, 2, 2), (2, 2, 2))


@pytest.mark.parametrize(
    ("predicted", "truth", "dice", "surface_dice"),
    [(EMPTY, EMPTY, 1.0, 1.0), (EMPTY, PRESENT, 0.0, 0.0), (PRESENT, EMPTY, 0.0, 0.0)],
    ids=["both empty", "missed", "invented"],
)
def test_a_missing_structure_has_a_defined_score_and_no_warning(predicted, truth, dice, surface_dice):
    result = score(predicted, truth)
    assert (result.dice, result.surface_dice) == (dice, surface_dice)
    assert math.isnan(result.hd95_mm)


def test_structures_are_scored_alone_and_in_order():
    masks = np.stack([PRESENT, EMPTY, PRESENT])
    predicted = np.stack([PRESENT, EMPTY, EMPTY])
    assert [s.dice for s in score_case(predicted, masks, ANISOTROPIC)] == [1.0, 1.0, 0.0]


# --- reference and properties


@settings(max_examples=examples(60))
@given(
    seed=st.integers(0, 2**32 - 1),
    spacing=st.tuples(*[st.sampled_from([0.4, 0.9375, 1.0, 2.5])] * 3),
    tolerance_mm=st.sampled_from([0.0, 0.95, 1.7, 4.01]),
)
def test_scores_agree_with_brute_force(seed, spacing, tolerance_mm):
    predicted, truth = random_masks(seed)
    assert same(score(predicted, truth, spacing, tolerance_mm), reference(predicted, truth, spacing, tolerance_mm))


def monai_score(predicted, truth, spacing, tolerance_mm):
    p, t = (torch.from_numpy(mask)[None, None] for mask in (predicted, truth))
    sides = list(spacing)
    return StructureScore(
        float(compute_dice(p, t)),
        float(compute_hausdorff_distance(p, t, include_background=True, percentile=95, spacing=sides)),
        float(compute_surface_dice(p, t, [tolerance_mm], include_background=True, spacing=sides)),
    )


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's, of itself
@settings(max_examples=examples(60))
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.4, 0.9375, 1.0, 2.5])] * 3),
    tolerance_mm=st.sampled_from([0.0, 0.95, 1.7, 4.01]),
)
def test_scores_are_those_of_monai(seed, shape, spacing, tolerance_mm):
    generator = np.random.default_rng(seed)
    predicted, truth = generator.random((2, *shape)) < generator.uniform(0.02, 0.9, size=(2, 1, 1, 1))
    for mask in (predicted, truth):
        mask[tuple(generator.integers(shape))] = True  # neither is empty
    ours, theirs = score(predicted, truth, spacing, tolerance_mm), monai_score(predicted, truth, spacing, tolerance_mm)
    assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-6, abs=1e-6)


@settings(max_examples=examples(25))
@given(seed=st.integers(0, 2**32 - 1))
def test_scores_are_symmetric(seed):
    predicted, truth = random_masks(seed)
    assert same(score(predicted, truth), score(truth, predicted))


@settings(max_examples=examples(25))
@given(
    seed=st.integers(0, 2**32 - 1),
    before=st.tuples(*[st.integers(0, 4)] * 3),
    after=st.tuples(*[st.integers(0, 4)] * 3),
)
def test_the_crop_changes_no_value(seed, before, after):
    predicted, truth = random_masks(seed)
    margins = tuple(zip(before, after, strict=True))
    assert score(np.pad(predicted, margins), np.pad(truth, margins)) == score(predicted, truth)


def test_without_our_crop_the_values_are_the_same(monkeypatch):
    predicted, truth = (np.pad(mask, 3) for mask in random_masks(1))
    cropped = score(predicted, truth)
    monkeypatch.setattr(metrics, "bounding_box", lambda mask: (slice(None),) * 3)
    assert score(predicted, truth) == cropped


def test_the_bounding_box_ends_at_the_volume():
    mask = cuboid((6, 7, 8), (0, 3, 7), (2, 1, 1))
    assert bounding_box(mask) == (slice(0, 3), slice(2, 5), slice(6, 9))
    assert mask[bounding_box(mask)].shape == (3, 3, 2)
    assert bounding_box(EMPTY) == (slice(None),) * 3


def test_views_with_negative_strides_are_scored():
    predicted, truth = random_masks(3)
    assert same(score(predicted[::-1, :, ::-1], truth[::-1, :, ::-1]), score(predicted, truth))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"truth": PRESENT[None, :5]}, "one shape"),
        ({"predicted": PRESENT, "truth": PRESENT}, "one shape"),
        ({"predicted": PRESENT[None].astype(np.uint8)}, "boolean"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing"),
        ({"spacing": (1.0, math.nan, 1.0)}, "spacing"),
        ({"spacing": (1.0, 1.0)}, "spacing"),
    ],
)
def test_wrong_input_is_refused(change, text):
    arguments = {
        "predicted": PRESENT[None],
        "truth": PRESENT[None],
        "spacing": ANISOTROPIC,
    } | change
    with pytest.raises(ConfigurationError, match=text):
        score_case(**arguments)
