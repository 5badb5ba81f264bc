"""Batches made ahead: the same ones in the same order, while the one before is in use, errors included."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer3d.ahead import Waits, prepared_ahead


@given(items=st.lists(st.integers() | st.none(), max_size=8))
def test_items_and_their_order_are_kept(items: list[int | None]) -> None:
    assert list(prepared_ahead(items)) == items


def test_the_next_item_is_made_while_this_one_is_used() -> None:
    made = [threading.Event() for _ in range(3)]

    def source() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in prepared_ahead(source()):
        assert made[min(number + 1, 2)].wait(timeout=30)
        assert number > 0 or not made[2].is_set(), "one item ahead, not all of them"


def test_an_error_is_raised_where_the_item_is_wanted() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    items = prepared_ahead(source())
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_only_waiting_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("segformer3d.ahead.time.perf_counter", lambda: now)

    def source() -> Iterator[int]:
        nonlocal now
        for number in range(3):
            now += 5
            yield number
        now += 1

    items = Waits(source())
    for _ in items:
        now += 100
    assert items.seconds == 16
