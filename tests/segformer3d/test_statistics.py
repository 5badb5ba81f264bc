"""Oracles: hand-worked moments, the exact bootstrap distribution of two values, the normal theory, determinism."""

import json
import math

import numpy as np
import pytest

from segformer3d.statistics import Summary, bootstrap_interval, summarise


def test_mean_and_standard_deviation_by_hand():
    summary = summarise([1.0, 2.0, 3.0, 6.0], seed=0)
    assert summary.mean == 3.0
    assert summary.standard_deviation == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3))
    assert (summary.count, summary.excluded) == (4, 0)
    assert 1.0 <= summary.low < 3.0 < summary.high <= 6.0


def test_two_values_span_the_interval():
    # The resampled means are 0, 1/2 and 1 with chances 1/4, 1/2 and 1/4, so the 2.5th percentile is 0, the 97.5th 1.
    assert bootstrap_interval(np.array([0.0, 1.0]), seed=3) == (0.0, 1.0)


def test_the_interval_is_that_of_normal_theory_for_many_values():
    values = np.random.default_rng(5).normal(10.0, 2.0, size=400)
    low, high = bootstrap_interval(values, seed=1)
    half_width = 1.96 * values.std(ddof=1) / math.sqrt(values.size)
    assert (values.mean() - low, high - values.mean()) == pytest.approx((half_width, half_width), rel=0.05)


def test_none_and_nan_are_excluded_and_counted():
    with_gaps = summarise([0.5, None, 0.7, math.nan, 0.9], seed=2)
    without = summarise([0.5, 0.7, 0.9], seed=2)
    assert (with_gaps.count, with_gaps.excluded) == (3, 2)
    assert (with_gaps.mean, with_gaps.low, with_gaps.high) == (without.mean, without.low, without.high)


@pytest.mark.parametrize(("values", "excluded"), [([], 0), ([None, math.nan], 2)])
def test_no_value_gives_no_number(values, excluded):
    summary = summarise(values, seed=0)
    assert summary == Summary(None, None, None, None, 0, excluded)
    assert '"mean": null' in json.dumps(summary.to_json(), allow_nan=False)


def test_one_value_is_its_own_interval():
    assert summarise([0.83], seed=0) == Summary(0.83, None, 0.83, 0.83, 1, 0)


def test_equal_values_have_no_spread():
    summary = summarise([0.1] * 7, seed=0)
    assert (summary.low, summary.high, summary.standard_deviation) == pytest.approx((0.1, 0.1, 0.0))


def test_the_seed_decides():
    values = np.random.default_rng(0).random(40)
    assert summarise(values, seed=7) == summarise(values, seed=7)
    assert summarise(values, seed=7) != summarise(values, seed=8)


def test_to_json_holds_plain_numbers():
    assert json.loads(json.dumps(summarise([1.0, 2.0], seed=0).to_json())) == {
        "mean": 1.5,
        "standard_deviation": pytest.approx(math.sqrt(0.5)),
        "low": 1.0,
        "high": 2.0,
        "count": 2,
        "excluded": 0,
    }
