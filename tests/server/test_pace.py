"""Deadlines from measured time, and sites that are left out until they answer again. Oracles: arithmetic, a clock."""

import re
import time
from pathlib import Path

import pytest
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st

from client.contract import TRAIN
from server import pace
from server.pace import LEAST_S, Pace
from server.records import RoundFinished, SiteSetAside

from .tiny_federation import Site, TinyGrid, TinySite, federate, tiny_settings

SECONDS = st.floats(0, 1e5)


@given(st.lists(SECONDS, min_size=1, max_size=12), st.floats(1, 10), SECONDS)
def test_a_site_may_take_a_few_times_its_longest_recent_round(
    took: list[float], factor: float, deadline: float
) -> None:
    measured = Pace(factor)
    assert measured.patience("a", deadline) == deadline
    for seconds in took:
        measured.note("a", seconds)
    assert measured.patience("a", deadline) == min(deadline, max(LEAST_S, factor * max(took[-5:])))
    assert measured.patience("b", deadline) == deadline
    assert Pace(0).patience("a", deadline) == deadline


def test_what_earlier_sessions_measured_counts() -> None:
    history = [{"sites": [{"site": "a", "seconds": 100.0}]}, {"sites": [{"site": "a", "seconds": 50.0}]}]
    assert Pace(4.0, history).patience("a", 3600.0) == 400.0


class Silent:
    """A site that does not answer in some rounds, and hangs over nothing else."""

    def __init__(self, site: Site, rounds: range) -> None:
        self.site, self.rounds = site, rounds
        self.asked: list[int] = []

    def __call__(self, message: Message) -> Message | None:
        if message.metadata.message_type == TRAIN:
            self.asked.append(int(message.metadata.group_id))
            if self.asked[-1] in self.rounds:
                return None
        return self.site(message)  # type: ignore[return-value]


def test_a_site_that_died_costs_a_few_of_its_rounds_not_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LEAST_S", 0.3)
    grid = TinyGrid({11: TinySite("a"), 12: TinySite("b"), 13: Silent(TinySite("c"), range(2, 4))})
    began = time.monotonic()
    events = federate(grid, tmp_path, tiny_settings(pace=4.0, round_deadline_s=3600.0))
    assert time.monotonic() - began < 20
    reasons = [e.what.reason for e in events if isinstance(e, SiteSetAside)]
    assert len(reasons) == 2
    assert all(re.fullmatch(r"it did not answer within \d s", reason) for reason in reasons), reasons


def test_after_three_rounds_nobody_waits_for_it_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LEAST_S", 0.2)
    gone = Silent(TinySite("c"), range(2, 5))
    grid = TinyGrid({11: TinySite("a"), 12: TinySite("b"), 13: gone})
    events = federate(grid, tmp_path, tiny_settings(rounds=6, pace=4.0))
    sites = [[s.site for s in e.record.sites] for e in events if isinstance(e, RoundFinished)]
    assert sites == [["a", "b", "c"], ["a", "b"], ["a", "b"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c"]]
    told = [e.what.reason for e in events if isinstance(e, SiteSetAside)]
    assert told[-1] == "it failed 3 rounds in a row, and is left out until it answers again"


def test_a_site_that_stays_away_is_not_asked_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LEAST_S", 0.2)

    class Dead(Silent):
        """It does not even say that it is ready, once it is gone."""

        def __call__(self, message: Message) -> Message | None:
            return None if self.asked and self.asked[-1] >= 2 else super().__call__(message)

    dead = Dead(TinySite("c"), range(2, 100))
    grid = TinyGrid({11: TinySite("a"), 12: TinySite("b"), 13: dead})
    federate(grid, tmp_path, tiny_settings(rounds=7, pace=4.0))
    sent = [m.metadata.group_id for m in grid.sent if m.metadata.dst_node_id == 13 and m.metadata.message_type == TRAIN]
    assert sent == ["1", "2", "3", "4"]
