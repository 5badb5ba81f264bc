"""Oracles: volumes worked by hand, and the challenge's rule spelt out over whole volumes, lesion by lesion."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segformer3d.errors import ConfigurationError
from segformer3d.lesions import LesionScore, score_lesions
from segformer3d.metrics import score_case
from segformer3d.protocols import LesionRule, choose_protocol
from tests.examples import examples

ISOTROPIC = (1.0, 1.0, 1.0)
RULE = LesionRule(dilation_voxels=3, smallest_mm3=50, penalty_mm=374.0)
SHAPE = (40, 14, 14)


def cuboids(*corners, size=(5, 5, 5), shape=SHAPE):
    mask = np.zeros(shape, bool)
    for corner in corners:
        mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    return mask


NOTHING = np.zeros(SHAPE, bool)


def test_found_missed_and_invented_lesions_by_hand():
    truth = cuboids((2, 4, 4), (20, 4, 4))
    predicted = cuboids((2, 4, 4), (33, 4, 4))
    score = score_lesions(predicted, truth, ISOTROPIC, RULE)
    assert score == LesionScore(pytest.approx(1 / 3), pytest.approx(2 * 374 / 3), found=1, missed=1, invented=1)


def test_a_found_lesion_has_its_own_dice_and_distance():
    truth, predicted = cuboids((2, 4, 4), (20, 4, 4)), cuboids((3, 4, 4), (22, 4, 4))
    score = score_lesions(predicted, truth, (0.9, 1.0, 1.0), RULE)
    # Shifts of 1 and 2 voxels along X: 4/5 and 3/5 of the voxels overlap, and whole faces are 0.9 and 1.8 mm away.
    assert score == LesionScore(pytest.approx(0.7), pytest.approx(1.35), found=2, missed=0, invented=0)


@pytest.mark.parametrize(("gap", "lesions"), [(6, 1), (7, 2)])
def test_lesions_whose_dilations_meet_are_one(gap, lesions):
    # Each side grows by 3 voxels: over a gap of 6 they become neighbours, over one of 7 a voxel stays between them.
    truth = cuboids((2, 4, 4), (7 + gap, 4, 4))
    score = score_lesions(NOTHING, truth, ISOTROPIC, RULE)
    assert (score.missed, score.dice, score.hd95_mm) == (lesions, 0.0, 374.0)


def test_one_lesion_of_two_parts_takes_the_predictions_of_both():
    truth = cuboids((2, 4, 4), (10, 4, 4))
    assert score_lesions(truth, truth, ISOTROPIC, RULE) == LesionScore(1.0, 0.0, 1, 0, 0)
    half = cuboids((2, 4, 4))
    score = score_lesions(half, truth, ISOTROPIC, RULE)
    assert (score.dice, score.found) == (pytest.approx(2 / 3), 1)


def test_small_lesions_are_left_out_and_a_prediction_of_one_is_no_invention():
    truth = cuboids((2, 4, 4)) | cuboids((20, 4, 4), size=(5, 5, 2))  # 125 and 50 voxels
    missed, found = cuboids((2, 4, 4)), truth
    for predicted in (missed, found):
        assert score_lesions(predicted, truth, ISOTROPIC, RULE) == LesionScore(1.0, 0.0, 1, 0, 0)
    # With voxels of 1.1 mm³ the small one is over 50 mm³, and counts.
    assert score_lesions(missed, truth, (1.1, 1.0, 1.0), RULE).missed == 1


def test_what_touches_the_dilated_lesion_is_its_prediction():
    truth = cuboids((2, 4, 4))
    for gap, invented in ((2, 0), (3, 1)):  # the dilation covers 3 voxels behind the face
        near = cuboids((2, 4, 4)) | cuboids((7 + gap, 4, 4), size=(3, 3, 3))
        score = score_lesions(near, truth, ISOTROPIC, RULE)
        assert score.invented == invented
    assert score.dice == pytest.approx(1 / 2)


def test_one_component_may_be_the_prediction_of_two_lesions():
    truth = cuboids((2, 4, 4), (20, 4, 4))
    bridge = cuboids((7, 6, 6), size=(13, 1, 1))
    score = score_lesions(truth | bridge, truth, ISOTROPIC, RULE)
    assert (score.dice, score.found, score.invented) == (pytest.approx(2 * 125 / (125 + 250 + 13)), 2, 0)


def test_dilation_leaves_out_corners_and_components_do_not():
    rule = LesionRule(dilation_voxels=1, smallest_mm3=0, penalty_mm=10.0)
    truth = cuboids((2, 4, 4))
    at_the_edge, at_the_corner = cuboids((7, 9, 6), size=(1, 1, 1)), cuboids((7, 9, 9), size=(1, 1, 1))
    assert score_lesions(at_the_edge, truth, ISOTROPIC, rule).invented == 0
    assert score_lesions(at_the_corner, truth, ISOTROPIC, rule).invented == 1
    # Joined to the lesion by its corner, the voxel is of the same component.
    assert score_lesions(truth | at_the_corner, truth, ISOTROPIC, rule).invented == 0


def test_without_lesions_a_case_is_perfect():
    tiny = cuboids((20, 4, 4), size=(1, 1, 1))
    for predicted, truth in ((NOTHING, NOTHING), (NOTHING, tiny), (tiny, tiny)):
        assert score_lesions(predicted, truth, ISOTROPIC, RULE) == LesionScore(1.0, 0.0, 0, 0, 0)
    assert score_lesions(tiny, NOTHING, ISOTROPIC, RULE) == LesionScore(0.0, 374.0, 0, 0, 1)


def test_the_protocol_of_brats_2023_scores_lesions_too():
    truth, predicted = cuboids((2, 4, 4), (20, 4, 4)), cuboids((2, 4, 4))
    (score,) = score_case(predicted[None], truth[None], ISOTROPIC, choose_protocol("brats2023"))
    assert (score.dice, score.lesion_dice, score.lesion_hd95_mm) == (pytest.approx(2 / 3), 0.5, 187.0)
    (score,) = score_case(predicted[None], truth[None], ISOTROPIC, choose_protocol("brats2021"))
    assert score.lesions is None
    assert math.isnan(score.lesion_dice)


def rule_over_whole_volumes(predicted, truth, spacing, rule):
    """The challenge's steps one by one: each lesion dilated by itself, everything over the whole volume."""
    eighteen, all_neighbours = ndimage.generate_binary_structure(3, 2), np.ones((3, 3, 3))
    dilated = ndimage.binary_dilation(truth, eighteen, iterations=rule.dilation_voxels)
    lesions, count = ndimage.label(dilated, all_neighbours)
    components, predictions = ndimage.label(predicted, all_neighbours)
    pairs, belonging = [], set()
    for number in range(1, count + 1):
        lesion = truth & (lesions == number)
        around = ndimage.binary_dilation(lesion, eighteen, iterations=rule.dilation_voxels)
        touching = set(np.unique(components[around])) - {0}
        belonging |= touching
        if lesion.sum() * math.prod(spacing) > rule.smallest_mm3:
            pairs.append((np.isin(components, sorted(touching)), lesion))
    scores = [score_case(p[None], t[None], spacing)[0] if p.any() else None for p, t in pairs]
    dice = [score.dice if score else 0.0 for score in scores]
    distances = [score.hd95_mm if score else rule.penalty_mm for score in scores]
    invented = predictions - len(belonging)
    total = len(scores) + invented
    if not total:
        return LesionScore(1.0, 0.0, 0, 0, 0)
    found = sum(score is not None for score in scores)
    distance = (sum(distances) + invented * rule.penalty_mm) / total
    return LesionScore(sum(dice) / total, distance, found, len(scores) - found, invented)


@settings(max_examples=examples(60))
@given(seed=st.integers(0, 2**32 - 1), dilations=st.integers(1, 3), smallest=st.sampled_from([0, 2, 6]))
def test_boxes_and_shared_dilations_change_nothing(seed, dilations, smallest):
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.normal(size=(2, 18, 16, 14)), (0, 1, 1, 1))
    predicted, truth = noise > generator.uniform(0.1, 0.4, size=(2, 1, 1, 1))
    rule, spacing = LesionRule(dilations, smallest, 99.0), (1.0, 0.5, 2.0)
    ours = score_lesions(predicted, truth, spacing, rule)
    theirs = rule_over_whole_volumes(predicted, truth, spacing, rule)
    assert vars(ours) == pytest.approx(vars(theirs), rel=1e-12)


def test_a_rule_without_dilation_is_refused():
    with pytest.raises(ConfigurationError, match="dilation"):
        LesionRule(dilation_voxels=0, smallest_mm3=50, penalty_mm=374.0)
