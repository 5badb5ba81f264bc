"""Robust z-scores by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer3d.data_check.outliers import LEAST_CASES, standing_apart

TEN = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 6.0, 7.0, 8.0, 9.0]


def test_a_value_worked_by_hand():
    """The median of TEN and x is 5, that of the distances (4 3 2 1 0 0 1 2 3 4 and x) is 2, and eleven are few."""
    limit = 5 + 5 * (21 / 11) * 1.4826 * 2
    assert standing_apart([*TEN, limit - 0.01], 0.0) == []
    assert standing_apart([*TEN, limit + 0.01], 0.0) == [10]
    assert standing_apart([10 - limit - 0.01, *TEN], 0.0) == [0]


def test_differences_below_the_floor_are_none():
    """Of twenty the limit is 7.5 floors."""
    alike = [1.0] * 19
    assert standing_apart([*alike, 1.74], 0.1) == []
    assert standing_apart([*alike, 1.76], 0.1) == [19]
    assert standing_apart([*alike, 1.76], 0.2) == []


@pytest.mark.parametrize("count", [10, 30, 200])
def test_normal_numbers_stand_apart_twice_in_a_thousand_sets(count: int):
    sets = np.random.default_rng(count).standard_normal((3000, count))
    assert sum(bool(standing_apart(values.tolist(), 0.0)) for values in sets) <= 0.003 * len(sets)


def test_few_cases_are_not_judged_and_unknown_ones_do_not_count():
    assert standing_apart([1.0] * (LEAST_CASES - 2) + [100.0], 0.1) == []
    assert standing_apart([1.0] * (LEAST_CASES - 2) + [math.nan, 100.0], 0.1) == []
    assert standing_apart([math.nan] + [1.0] * (LEAST_CASES - 1) + [100.0], 0.1) == [LEAST_CASES]


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=LEAST_CASES, max_size=30),
    scale=st.sampled_from([0.5, 2.0, 4.0]),
    move=st.integers(-100, 100),
)
def test_the_unit_and_the_origin_do_not_matter(values: list[float], scale: float, move: int):
    rounded = [round(value) for value in values]
    changed = [scale * value + move for value in rounded]
    assert standing_apart(rounded, 0.25) == standing_apart(changed, 0.25 * scale)


@given(values=st.lists(st.floats(0, 1), min_size=LEAST_CASES, max_size=30))
def test_at_most_half_stand_apart(values: list[float]):
    assert len(standing_apart(values, 1e-9)) <= len(values) / 2
