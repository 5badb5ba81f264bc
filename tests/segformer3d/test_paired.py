"""Oracles: p-values by hand and by every flip of the signs, Holm's own steps by hand, counts by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, wilcoxon

from segformer3d.metrics import StructureScore
from segformer3d.paired import holm, paired_difference, paired_differences, signed_rank_p, spoken_p
from segformer3d.protocols import WHOLE_SCAN, choose_protocol
from segformer3d.results import CaseResult
from tests.examples import examples

NAN = math.nan


def by_every_flip(differences):
    """P(|W - mean| as large or larger) when every sign is a coin; W is the sum of the ranks of positive differences."""
    apart = differences[differences != 0]
    ranks = rankdata(np.abs(apart))
    middle = ranks.sum() / 2
    seen = abs(ranks[apart > 0].sum() - middle)
    flips = [
        abs(np.dot(signs, ranks) - middle) >= seen - 1e-9 for signs in itertools.product((0, 1), repeat=len(apart))
    ]
    return float(np.mean(flips))


def test_five_wins_in_a_row_have_two_chances_in_32():
    assert signed_rank_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 32)
    assert signed_rank_p(-np.array([0.1, 0.1, 0.1, 0.1, 0.1])) == pytest.approx(2 / 32)  # ties too


def test_pairs_without_a_difference_are_dropped():
    assert signed_rank_p(np.array([0, 0.1, 0, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 32)
    assert signed_rank_p(np.zeros(8)) == 1.0


def test_few_pairs_are_not_tested():
    assert signed_rank_p(np.array([0.1, 0.2, 0.3, 0.4])) is None
    assert signed_rank_p(np.array([])) is None


@settings(max_examples=examples(30))
@given(st.lists(st.integers(-4, 4), min_size=5, max_size=10))
def test_small_samples_are_exact_with_ties_and_zeros(whole):
    differences = np.array(whole, np.float64) / 8
    expected = by_every_flip(differences) if differences.any() else 1.0
    assert signed_rank_p(differences) == pytest.approx(expected)


def test_larger_samples_are_exact_without_ties():
    differences = np.random.default_rng(0).normal(0.2, 1, 40)
    assert signed_rank_p(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue)


def test_holm_by_hand():
    # 0.01 * 3 = 0.03; 0.03 * 2 = 0.06; 0.04 * 1 = 0.04, but never below the one before.
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_wins_follow_the_metric():
    first, second = np.array([0.9, 0.8, 0.7, 0.5, NAN]), np.array([0.8, 0.8, 0.8, 0.4, 0.3])
    dice = paired_difference(first, second, structure="s", metric="dice", seed=0)
    assert (dice.wins, dice.losses, dice.ties) == (2, 1, 1)
    assert (dice.difference.count, dice.difference.excluded) == (4, 1)
    assert dice.difference.mean == pytest.approx((0.1 + 0 - 0.1 + 0.1) / 4)
    distance = paired_difference(first, second, structure="s", metric="hd95_mm", seed=0)
    assert (distance.wins, distance.losses, distance.ties) == (1, 2, 1)
    assert distance.difference == dice.difference


def test_rounding_does_not_tell_equal_differences_apart():
    first, second = np.array([0.3, 0.2, 0.5, 0.8, 0.7]), np.array([0.2, 0.1, 0.4, 0.7, 0.6])
    assert len(set(first - second)) > 1
    found = paired_difference(first, second, structure="s", metric="dice", seed=0)
    assert (found.difference.low, found.difference.high) == pytest.approx((0.1, 0.1))
    assert found.p_value == pytest.approx(2 / 32)


def case(name, *dice):
    return CaseResult(
        name, tuple(StructureScore(d, 10 * (1 - d), d) for d in dice), (1.0,) * len(dice), (1.0,) * len(dice)
    )


def test_models_are_compared_by_mean_and_by_structure_with_holm():
    first = [case(str(n), 0.9 + n / 100, 0.5 + (n % 2) / 10) for n in range(8)]
    second = [case(str(n), 0.8, 0.55) for n in range(8)]
    found = paired_differences(first, second, ("a", "b"), WHOLE_SCAN, seed=0)
    assert [(d.structure, d.metric) for d in found] == [
        ("mean", "dice"),
        ("a", "dice"),
        ("b", "dice"),
        ("a", "hd95_mm"),
        ("b", "hd95_mm"),
        ("a", "surface_dice"),
        ("b", "surface_dice"),
    ]
    mean, a, b = found[:3]
    assert (a.wins, b.wins, b.losses) == (8, 4, 4)
    assert mean.difference.mean == pytest.approx((a.difference.mean + b.difference.mean) / 2)
    assert (mean.p_holm, a.p_value) == (None, pytest.approx(2 / 256))
    assert (a.p_holm, b.p_holm) == (pytest.approx(4 / 256), pytest.approx(b.p_value))
    again = paired_differences(first, second, ("a", "b"), choose_protocol("brats2023"), seed=0)
    assert {d.metric for d in again} > {"lesion_dice", "lesion_hd95_mm"}


def test_p_values_are_spoken_with_three_digits():
    assert [spoken_p(p) for p in (None, NAN, 0.0312, 0.0004, 1.0)] == ["-", "-", "0.031", "< 0.001", "1.000"]
