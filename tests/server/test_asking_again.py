"""A site that fails is asked again within the round. Oracles: what the sites were sent, and a clock."""

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Error, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from client.contract import PREPARE, TRAIN
from client.failures import SITE_FAILURE, SITE_REFUSAL
from server import mailbox, pace, repeats, roster
from server.mailbox import Mailbox
from server.records import RoundFinished, SiteAskedAgain, SiteSetAside

from .tiny_federation import Site, TinyGrid, TinySite, federate, silent, tiny_settings

CRASHED = Error(8, "ClientApp stopped responding.")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "SHORTEST_AGAIN_S", 0.05)


class Stumbling:
    """A site that answers its first `times` train messages of round 2 with an error."""

    def __init__(self, site: Site, times: int, error: Error = CRASHED) -> None:
        self.site, self.times, self.error = site, times, error
        self.asked: list[str] = []
        self.failed_at: float | None = None

    def __call__(self, message: Message) -> Message:
        if message.metadata.message_type == TRAIN:
            self.asked.append(message.metadata.group_id)
            if message.metadata.group_id == "2" and self.asked.count("2") <= self.times:
                self.failed_at = time.monotonic()
                return Message(self.error, reply_to=message)
        return self.site(message)  # type: ignore[return-value]


def grid_with(site: Site) -> TinyGrid:
    return TinyGrid({11: TinySite("a"), 12: TinySite("b"), 13: site})


def test_a_site_that_comes_back_in_time_counts(tmp_path: Path) -> None:
    undisturbed = federate(grid_with(TinySite("c")), tmp_path / "undisturbed", tiny_settings(again_s=30))
    stumbling = Stumbling(TinySite("c"), times=3)
    events = federate(grid_with(stumbling), tmp_path / "disturbed", tiny_settings(again_s=30))
    assert stumbling.asked == ["1", "2", "2", "2", "2", "3"]
    again = [event.what.reason for event in events if isinstance(event, SiteAskedAgain)]
    assert again == ["its process died"] * 3
    assert not [event for event in events if isinstance(event, SiteSetAside)]
    for one, other in zip(rounds(undisturbed), rounds(events), strict=True):
        assert [s.site for s in one.record.sites] == [s.site for s in other.record.sites] == ["a", "b", "c"]
    assert (tmp_path / "undisturbed/last.safetensors").read_bytes() == (
        tmp_path / "disturbed/last.safetensors"
    ).read_bytes()


def test_one_that_does_not_is_waited_for_no_longer_than_agreed(tmp_path: Path) -> None:
    stumbling = Stumbling(TinySite("c"), times=1000)
    began = time.monotonic()
    events = federate(grid_with(stumbling), tmp_path, tiny_settings(again_s=0.5))
    assert 0.5 < time.monotonic() - began < 10
    assert [event.what.site for event in events if isinstance(event, SiteSetAside)] == ["c"]
    assert [[s.site for s in e.record.sites] for e in rounds(events)] == [["a", "b", "c"], ["a", "b"], ["a", "b", "c"]]
    assert stumbling.asked.count("2") >= 3


def test_what_would_fail_again_is_not_asked_again(tmp_path: Path) -> None:
    refusal = Error(SITE_REFUSAL, "c could not train: it does 1 rounds at most; settle it with the site")
    stumbling = Stumbling(TinySite("c"), times=1, error=refusal)
    events = federate(grid_with(stumbling), tmp_path, tiny_settings(again_s=30))
    assert stumbling.asked == ["1", "2", "3"]
    assert [e.what.reason for e in events if isinstance(e, SiteSetAside)] == ["it does 1 rounds at most"]


def test_a_full_disk_may_be_mended(tmp_path: Path) -> None:
    full = Error(SITE_FAILURE, "c could not train: its disk is full; free space at the site")
    events = federate(grid_with(Stumbling(TinySite("c"), 1, full)), tmp_path, tiny_settings(again_s=30))
    assert [e.what.reason for e in events if isinstance(e, SiteAskedAgain)] == ["its disk is full"]
    assert all(len(event.record.sites) == 3 for event in rounds(events))


def test_a_site_that_dies_while_it_prepares_is_asked_again(tmp_path: Path) -> None:
    died: list[int] = []

    def dying(message: Message) -> Message:
        if message.metadata.message_type == PREPARE and len(died) < 2:
            died.append(1)
            return Message(CRASHED, reply_to=message)
        return TinySite("c")(message)  # type: ignore[return-value]

    events = federate(grid_with(dying), tmp_path, tiny_settings(minimum_sites=3, again_s=30))
    assert all(len(event.record.sites) == 3 for event in rounds(events))
    assert len(died) == 2


class LeavingGrid(TinyGrid):
    """The third site is not connected for a while after it has failed."""

    def get_node_ids(self) -> list[int]:
        stumbling = self.sites[13]
        assert isinstance(stumbling, Stumbling)
        failed = stumbling.failed_at
        away = failed is not None and time.monotonic() < failed + 0.5
        return [11, 12] if away else [11, 12, 13]


def test_a_site_that_is_offline_is_asked_when_it_is_back(tmp_path: Path) -> None:
    stumbling = Stumbling(TinySite("c"), times=1)
    began = time.monotonic()
    events = federate(LeavingGrid(grid_with(stumbling).sites), tmp_path, tiny_settings(again_s=30))
    assert time.monotonic() - began > 0.5
    assert stumbling.asked == ["1", "2", "2", "3"]
    assert all(len(event.record.sites) == 3 for event in rounds(events))


class LosingGrid(TinyGrid):
    """The first answers of the third site to each round are lost on the way."""

    def __init__(self, lost: int) -> None:
        super().__init__({11: TinySite("a"), 12: TinySite("b"), 13: TinySite("c")})
        self.lost, self.times = lost, Counter[str]()

    def _push(self, message: Message) -> str:
        message_id = super()._push(message)
        metadata = message.metadata
        if metadata.dst_node_id == 13:
            self.times[f"{metadata.message_type} {metadata.group_id}"] += 1
            if self.times[f"{metadata.message_type} {metadata.group_id}"] <= self.lost:
                self._replies.pop(message_id)
        return message_id


@pytest.fixture
def _impatient_with_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SHORTEST_SILENCE_S", 0.2)
    monkeypatch.setattr(roster, "SILENCE_S", 0.2)


@pytest.mark.usefixtures("_impatient_with_silence")
@pytest.mark.parametrize(("lost", "count"), [(1, 3), (2, 1)])
def test_a_lost_answer_is_asked_for_again(tmp_path: Path, lost: int, count: int) -> None:
    federate(grid_with(TinySite("c")), tmp_path / "undisturbed", tiny_settings(rounds=count))
    grid = LosingGrid(lost)
    settings = tiny_settings(rounds=count, minimum_sites=3, again_s=30)
    events = federate(grid, tmp_path / "disturbed", settings)
    assert set(grid.times) == {"query 0", f"evaluate {count}", *(f"train {number + 1}" for number in range(count))}
    assert set(grid.times.values()) == {lost + 1}
    again = [event.what.reason for event in events if isinstance(event, SiteAskedAgain)]
    assert set(again) == {"it has not answered for longer than usual"}
    assert not [event for event in events if isinstance(event, SiteSetAside)]
    undisturbed, disturbed = ((tmp_path / n / "last.safetensors") for n in ("undisturbed", "disturbed"))
    assert undisturbed.read_bytes() == disturbed.read_bytes()


@given(st.floats(0.01, 1e4), st.integers(1, 20))
def test_each_pause_is_as_long_as_all_before_it(usual: float, times: int) -> None:
    clock = 0.0
    box = Mailbox(TinyGrid({11: silent}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mailbox.time, "monotonic", lambda: clock)
        box.send(TRAIN, "1", [11], RecordDict(), 1e9)
        for number in range(times):
            due = usual * 2**number
            clock = due
            assert box.silent(TRAIN, lambda _: usual) == set()
            clock = due * (1 + 1e-9)
            assert box.silent(TRAIN, lambda _: usual) == {11}
            clock = due
            box.send(TRAIN, "1", [11], RecordDict(), 1e9)
    assert box.waiting(TRAIN) == {11}


@pytest.mark.usefixtures("_impatient_with_silence")
def test_a_late_first_answer_counts_as_well(tmp_path: Path) -> None:
    """Its second answer is never looked at, and the pace is measured from the first question."""

    class Slow(TinyGrid):
        def __init__(self) -> None:
            super().__init__({11: TinySite("a"), 12: TinySite("b"), 13: TinySite("c")})
            self.first: dict[str, float] = {}

        def _push(self, message: Message) -> str:
            message_id = super()._push(message)
            if message.metadata.dst_node_id == 13 and message.metadata.message_type == TRAIN:
                self.first.setdefault(message_id, time.monotonic())
            return message_id

        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            (message_id,) = message_ids
            if time.monotonic() < self.first.get(message_id, 0) + 0.3:
                return []
            return super().pull_messages([message_id])

    grid = Slow()
    events = federate(grid, tmp_path, tiny_settings(rounds=1, minimum_sites=3, again_s=30))
    (only,) = rounds(events)
    assert [site.site for site in only.record.sites] == ["a", "b", "c"]
    assert 0.3 <= only.record.sites[2].seconds < 5
    assert len(grid.first) >= 2
    assert not [event for event in events if isinstance(event, SiteSetAside)]


def test_simulations_ask_nobody_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SHORTEST_SILENCE_S", 0.0)
    grid = LosingGrid(1)
    events = federate(grid, tmp_path, tiny_settings(rounds=1, round_deadline_s=0.5, prepare_deadline_s=0.5))
    assert "train 1" not in grid.times
    assert [len(event.record.sites) for event in rounds(events)] == [2]


def rounds(events: list[object]) -> list[RoundFinished]:
    return [event for event in events if isinstance(event, RoundFinished)]
