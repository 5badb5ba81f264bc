"""Sparse changes. Oracles: a sort, and the inverse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from client.exchange.sparse import fewest_gap_bytes, gaps_of, kept_of, largest_places, most_gap_bytes, places_of
from segformer3d.errors import ReplyError


@given(arrays(np.float32, st.integers(0, 60), elements=st.sampled_from([-3, -2, -1, 0, 1, 2, 3, 0.5])), st.data())
def test_the_largest_are_kept_and_of_equal_ones_the_first(values: np.ndarray, data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, values.size))
    order = np.argsort(-np.abs(values), kind="stable")[:kept]
    assert largest_places(values, kept).tolist() == sorted(order.tolist())


def test_what_is_no_number_is_kept_so_that_it_is_found_out() -> None:
    values = np.arange(100, dtype=np.float32)
    values[[3, 40]] = np.nan, -np.inf
    assert set(largest_places(values, 2)) == {3, 40}


@given(st.integers(1, 3000), st.data())
def test_places_come_back(count: int, data: st.DataObject) -> None:
    places = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), max_size=12))), np.int64)
    gaps = gaps_of(places)
    assert fewest_gap_bytes(places.size) <= len(gaps) <= most_gap_bytes(places.size, count)
    assert np.array_equal(places_of(np.frombuffer(gaps, np.uint8), places.size, count), places)


@pytest.mark.parametrize("gaps", [[], [0], [0, 0, 0], [0, 0, 255], [255, 255], [0, 200], [5, 4]])
def test_other_bytes_are_refused(gaps: list[int]) -> None:
    """Two places among ten."""
    with pytest.raises(ReplyError, match="places"):
        places_of(np.array(gaps, np.uint8), 2, 10)


def test_a_twentieth_is_rounded_up_and_never_more_than_all() -> None:
    assert [kept_of(count, 0.05) for count in (0, 1, 20, 21, 4_500_000)] == [0, 1, 1, 2, 225_000]
