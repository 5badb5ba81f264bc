"""A reply that is told of and does not come. Nobody else's reply, and no deadline, waits for it."""

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st

from client.contract import TRAIN
from server.pulling import AT_ONCE, BESIDE, Pulling
from server.records import RoundFinished, SiteSetAside
from server.rounds import Federation

from .tiny_federation import TinyGrid, TinySite, tiny_settings, tiny_state


class HalfSentGrid(TinyGrid):
    """Fetching the third site's training replies takes until `arrived` is set, as when a site breaks off."""

    def __init__(self) -> None:
        super().__init__({11: TinySite("a"), 12: TinySite("b"), 13: TinySite("c")})
        self.arrived = threading.Event()
        self._slow: set[str] = set()
        self._guard = threading.Lock()

    def _push(self, message: Message) -> str:
        message_id = super()._push(message)
        if message.metadata.dst_node_id == 13 and message.metadata.message_type == TRAIN:
            self._slow.add(message_id)
        return message_id

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        (message_id,) = message_ids
        if message_id in self._slow:
            self.arrived.wait(30)
        with self._guard:
            return super().pull_messages([message_id])


@pytest.fixture
def grid() -> Iterator[HalfSentGrid]:
    made = HalfSentGrid()
    yield made
    made.arrived.set()


def test_the_deadline_holds_and_the_others_count(grid: HalfSentGrid, tmp_path: Path) -> None:
    events: list[object] = []
    settings = tiny_settings(rounds=2, round_deadline_s=1.0, again_s=30)
    began = time.monotonic()
    Federation(grid, settings, tmp_path, tiny_state(settings), events.append, pulling=BESIDE).run()
    assert time.monotonic() - began < 10
    assert [[s.site for s in e.record.sites] for e in events if isinstance(e, RoundFinished)] == [["a", "b"]] * 2
    assert {e.what.site for e in events if isinstance(e, SiteSetAside)} == {"c"}


def test_a_reply_that_takes_its_time_counts(grid: HalfSentGrid, tmp_path: Path) -> None:
    events: list[object] = []
    settings = tiny_settings(rounds=1, minimum_sites=3, round_deadline_s=30.0)
    threading.Timer(0.5, grid.arrived.set).start()
    Federation(grid, settings, tmp_path, tiny_state(settings), events.append, pulling=BESIDE).run()
    assert [len(e.record.sites) for e in events if isinstance(e, RoundFinished)] == [3]


@pytest.mark.parametrize("pulling", [AT_ONCE, BESIDE])
def test_what_goes_wrong_is_raised_where_the_result_is_asked_for(pulling: Pulling) -> None:
    def fail() -> list[Message]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pulling.begin(fail).result(5)
    assert pulling.begin(list).result(5) == []


@given(st.floats(0, 1e6))
def test_a_late_look_costs_a_share_of_the_time_waited(waited: float) -> None:
    for pulling in (AT_ONCE, BESIDE):
        pause = pulling.pause_after(waited)
        assert pulling.shortest_s <= pause <= max(pulling.shortest_s, pulling.share * waited)
        assert pause <= pulling.longest_s
