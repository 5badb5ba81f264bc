"""Whole runs whose weights travel packed, with real sites that really train, on disk.

Oracles: bits (of runs that were disturbed and runs that were not), the sizes of messages, what is on the sites' disks.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from client.app import make_client_app
from client.contract import PREPARE, TRAIN
from client.exchange.at_site import HELD, held_at
from client.exchange.parcel import digest_of_weights
from client.exchange.settings import EXCHANGES
from client.site import SiteSettings
from client.weights import WEIGHTS, is_buffer
from segformer3d.errors import ConfigurationError, FederationError
from segformer3d.settings import TrainingSettings
from server.federation import FederationSettings
from server.records import Event, RoundFinished, SiteSetAside
from server.rounds import Federation
from server.run_folder import newest_state
from server.state import ServerState, read_state

from ..client.tiny_site import (
    RUN,
    ball_of_one_window,
    context_of,
    prepare_message,
    tiny_site,
    tiny_weights,
    train_message,
)
from .tiny_federation import TinyGrid, federate, tiny_settings, tiny_state

PACKING = [name for name, exchange in EXCHANGES.items() if not exchange.plain]
Change = Callable[[Message, Message], Message]


QUICK = TrainingSettings(batch_size=2, learning_rate=0.001)  # one step a round


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> list[SiteSettings]:
    """Three sites of one validation case and two to train on, whose volumes are prepared."""
    folder = tmp_path_factory.mktemp("hospitals")
    sites = [tiny_site(folder, f"site-{n}", cases=3, seed=n, draw=ball_of_one_window) for n in (1, 2, 3)]
    for site in sites:
        make_client_app(lambda _, site=site: site)(prepare_message(), context_of())
    return sites


pytestmark = pytest.mark.usefixtures("no_site_remembered")


class Hospital:
    """A real site, and what happens to its messages: `change` makes another reply of request and reply."""

    def __init__(self, site: SiteSettings, change: Change | None = None) -> None:
        self.site, self.change, self.asked = site, change, []

    def __call__(self, message: Message) -> Message:
        kind = message.metadata.message_type
        self.asked.append((kind, message.metadata.group_id))
        reply = make_client_app(lambda _: self.site)(message, context_of())
        return self.change(message, reply) if self.change and kind == TRAIN else reply


def hospitals_in(work: Path, hospitals: list[SiteSettings]) -> dict[int, Any]:
    """Each with a work folder of its own, which may be there already."""
    for site in hospitals:
        if not (work / site.name).exists():
            shutil.copytree(site.work, work / site.name)
    return {
        10 + n: Hospital(SiteSettings(site.name, site.data, work / site.name, "cpu", threads=1))
        for n, site in enumerate(hospitals, 1)
    }


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def last(folder: Path) -> bytes:
    return (folder / "last.safetensors").read_bytes()


def put_aside(events: list[Event]) -> list[tuple[int, str, str]]:
    return [(e.round, e.what.site, e.what.reason) for e in events if isinstance(e, SiteSetAside)]


def settings_of(**changes: Any) -> FederationSettings:
    return tiny_settings(**{"exchange": "compact", "training": QUICK, **changes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, hospitals: list[SiteSettings]) -> Path:
    """The folder of a run, and beside it what was on all disks after its first round: nobody may change them."""
    folder, settings, events = tmp_path_factory.mktemp("undisturbed") / "run", settings_of(), list[Event]()

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, RoundFinished) and event.record.round == 1:
            shutil.copytree(folder, folder.with_name("first"))

    grid = TinyGrid(hospitals_in(folder / "work", hospitals))
    Federation(grid, settings, folder, tiny_state(settings), on_event).run()
    assert put_aside(events) == []
    return folder


@pytest.fixture
def begun(tmp_path: Path, undisturbed: Path) -> ServerState:
    """The state after the first round, which the test's own folder holds, as the sites' do."""
    shutil.copytree(undisturbed.with_name("first"), tmp_path, dirs_exist_ok=True)
    return read_state(tmp_path / "state-0001.safetensors")


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, hospitals: list[SiteSettings]) -> Path:
    """The work folders of sites that have answered the only round of a run, and give the same answer again."""
    folder = tmp_path_factory.mktemp("answered")

    def lost(message: Message, reply: Message) -> Message:
        return Message(Error(ErrorCode.CLIENT_APP_CRASHED, ""), reply_to=message)

    sites = hospitals_in(folder / "work", hospitals)
    for site in sites.values():
        site.change = lost
    with pytest.raises(FederationError, match="round 1 got 0 good replies"):
        federate(TinyGrid(sites), folder / "run", settings_of(rounds=1))
    return folder / "work"


@pytest.fixture
def again(tmp_path: Path, answered: Path, hospitals: list[SiteSettings]) -> dict[int, Any]:
    """These sites, asked once more."""
    shutil.copytree(answered, tmp_path / "work")
    return hospitals_in(tmp_path / "work", hospitals)


@pytest.mark.parametrize("name", PACKING)
def test_packed_messages_are_smaller_and_training_goes_on(
    tmp_path: Path, hospitals: list[SiteSettings], name: str
) -> None:
    settings = settings_of(exchange=name, rounds=2)
    events = federate(TinyGrid(hospitals_in(tmp_path / "work", hospitals[:2])), tmp_path, settings)
    assert put_aside(events) == []
    plain = sum(value.nbytes for value in tiny_weights().values())
    for record in rounds(tmp_path):
        for site in record["sites"]:
            assert site["bytes_up"] < (0.62 if name == "fp16" else 0.4) * plain
            assert site["bytes_down"] < (0.7 if name == "fp16" else 0.45) * plain
    state = read_state(tmp_path / "state-0002.safetensors")
    assert set(state.memory) == {"held"}
    assert any((state.weights[n] != v).any() for n, v in tiny_weights().items())
    assert all(np.isfinite(v).all() for v in state.weights.values())


def test_what_is_saved_is_the_exact_model_and_sites_hold_one_close_to_it(undisturbed: Path) -> None:
    state = read_state(undisturbed / "state-0003.safetensors")
    before = read_state(undisturbed / "state-0002.safetensors")
    held = state.memory["held"]
    names = [name for name in held if not is_buffer(name)]
    # What sites trained in round 3 is the exact model after round 2 but for less than they made of it in one round.
    off = max(float(np.abs(held[name] - before.weights[name]).max()) for name in names)
    assert 0 < off < max(float(np.abs(state.weights[name] - before.weights[name]).max()) for name in names)
    # The closing measurement was of the next one, in the same way.
    digests = {held_at(undisturbed / "work" / f"site-{n}" / RUN).digest for n in (1, 2, 3)}
    assert len(digests) == 1
    assert digests != {digest_of_weights(held)}


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(
    tmp_path: Path, hospitals: list[SiteSettings], undisturbed: Path, begun: ServerState
) -> None:
    """Stopped after the second round; after the first one it was begun anew already."""
    settings = settings_of()

    def stop(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.record.round == 2:
            raise KeyboardInterrupt

    grid = TinyGrid(hospitals_in(tmp_path / "work", hospitals))
    with pytest.raises(KeyboardInterrupt):
        Federation(grid, settings, tmp_path, begun, stop).run()
    newest = newest_state(tmp_path)
    assert newest is not None
    again = TinyGrid(hospitals_in(tmp_path / "work", hospitals))
    federate(again, tmp_path, settings, read_state(newest))
    assert last(tmp_path) == last(undisturbed)
    assert max(site["bytes_down"] for site in rounds(tmp_path)[2]["sites"]) == max(
        site["bytes_down"] for site in rounds(undisturbed)[2]["sites"]
    )  # sites said what they hold: nobody got the whole model again


def test_a_round_that_was_cut_off_is_redone_with_the_same_bits(
    tmp_path: Path, hospitals: list[SiteSettings], undisturbed: Path, begun: ServerState
) -> None:
    """The coordinator dies when all sites have done round 2 and nothing of it is on its disk."""
    settings = settings_of()
    sites = hospitals_in(tmp_path / "work", hospitals)

    def die(message: Message, reply: Message) -> Message:
        if message.metadata.group_id == "2":
            raise KeyboardInterrupt
        return reply

    sites[13].change = die
    with pytest.raises(KeyboardInterrupt):
        federate(TinyGrid(sites), tmp_path, settings, begun)
    newest = newest_state(tmp_path)
    assert newest is not None
    assert newest.name == "state-0001.safetensors"
    federate(TinyGrid(hospitals_in(tmp_path / "work", hospitals)), tmp_path, settings, read_state(newest))
    assert last(tmp_path) == last(undisturbed)


@pytest.mark.parametrize("before_training", [True, False])
def test_a_site_that_dies_in_a_round_is_asked_again_and_gives_the_same_bits(
    tmp_path: Path, hospitals: list[SiteSettings], undisturbed: Path, begun: ServerState, before_training: bool
) -> None:
    sites = hospitals_in(tmp_path / "work", hospitals)
    folder = tmp_path / "work" / "site-2" / RUN
    died: list[str] = []

    def die(message: Message, reply: Message) -> Message:
        if message.metadata.group_id != "2" or died:
            return reply
        died.append("once")
        if before_training:
            for path in folder.glob("*-0002.safetensors"):
                path.unlink()
        return Message(Error(ErrorCode.CLIENT_APP_CRASHED, ""), reply_to=message)

    sites[12].change = die
    federate(TinyGrid(sites), tmp_path, settings_of(again_s=30.0), begun)
    assert died == ["once"]
    assert last(tmp_path) == last(undisturbed)


def test_a_site_that_lost_the_model_gets_it_whole_in_the_same_round(
    tmp_path: Path, hospitals: list[SiteSettings], undisturbed: Path, begun: ServerState
) -> None:
    sites = hospitals_in(tmp_path / "work", hospitals)

    def lose(message: Message, reply: Message) -> Message:
        if message.metadata.group_id == "2":
            (tmp_path / "work" / "site-2" / RUN / HELD).unlink()
        return reply

    sites[12].change = lose
    events = federate(TinyGrid(sites), tmp_path, settings_of(), begun)  # nobody is asked again otherwise
    assert put_aside(events) == []
    assert [kind for kind, _ in sites[12].asked].count(TRAIN) == 3, "two rounds, one of them in vain first"
    assert last(tmp_path) == last(undisturbed)
    usual, lost, _ = (site["bytes_down"] for site in rounds(tmp_path)[2]["sites"])
    plain = sum(value.nbytes for value in tiny_weights().values())
    assert usual + 0.7 * plain < lost < usual + 1.3 * plain + 4000  # the change in vain, and the whole


@pytest.mark.parametrize("offline", [False, True])
def test_a_site_whose_answer_did_not_count_still_holds_the_model(
    tmp_path: Path, hospitals: list[SiteSettings], begun: ServerState, offline: bool
) -> None:
    """It had the request of round 2; only one that was gone then needs the whole in round 3."""
    sites = hospitals_in(tmp_path / "work", hospitals)
    grid = TinyGrid(sites)

    def fail(message: Message, reply: Message) -> Message:
        if message.metadata.group_id == "2":
            if offline:
                grid.offline.add(13)
                (tmp_path / "work" / "site-3" / RUN / HELD).unlink()
            return Message(Error(ErrorCode.CLIENT_APP_CRASHED, ""), reply_to=message)
        return reply

    def on_event(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.record.round == 2:
            grid.offline.clear()

    sites[13].change = fail
    Federation(grid, settings_of(), tmp_path, begun, on_event).run()
    told = [{site["site"]: site["bytes_down"] for site in record["sites"]} for record in rounds(tmp_path)]
    assert "site-3" not in told[1]
    assert (told[2]["site-3"] == told[2]["site-1"]) != offline
    assert [kind for kind, _ in sites[13].asked].count(TRAIN) == 2, "no change in vain"


def test_what_a_site_says_that_comes_back_as_another_node_goes_first(
    tmp_path: Path, hospitals: list[SiteSettings]
) -> None:
    """It got the model of round 2, died before it answered, and was started again: it holds what the others hold."""
    sites = hospitals_in(tmp_path / "work", hospitals)
    grid = TinyGrid(sites)

    def die(message: Message, reply: Message) -> Message:
        if message.metadata.group_id == "2":
            grid.offline.add(13)
            return Message(Error(ErrorCode.CLIENT_APP_CRASHED, ""), reply_to=message)
        return reply

    def on_event(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.record.round == 2:
            grid.sites[23] = Hospital(sites[13].site)
            del grid.sites[13]

    sites[13].change = die
    settings = settings_of(rounds=4)
    Federation(grid, settings, tmp_path, tiny_state(settings), on_event).run()
    told = [{site["site"]: site["bytes_down"] for site in record["sites"]} for record in rounds(tmp_path)]
    came = next(number for number in (2, 3) if "site-3" in told[number])
    assert (came == 2) == (told[came]["site-3"] == told[came]["site-1"]), told


def test_a_newcomer_gets_the_whole_model_at_once_and_changes_from_then_on(
    tmp_path: Path, hospitals: list[SiteSettings]
) -> None:
    sites = hospitals_in(tmp_path / "work", hospitals)
    grid = TinyGrid(sites)
    grid.offline.add(13)
    seen: list[Event] = []

    def on_event(event: Event) -> None:
        seen.append(event)
        grid.offline.clear()

    settings = settings_of(rounds=4)
    Federation(grid, settings, tmp_path, tiny_state(settings), on_event).run()
    assert put_aside(seen) == []
    told = [{site["site"]: site["bytes_down"] for site in record["sites"]} for record in rounds(tmp_path)]
    came = next(number for number, record in enumerate(told) if "site-3" in record)
    assert came in (1, 2)
    assert told[came]["site-3"] > 2 * told[came]["site-1"]
    assert told[3]["site-3"] == told[3]["site-1"]
    assert [kind for kind, _ in sites[13].asked].count(PREPARE) == 1
    assert [kind for kind, _ in sites[13].asked].count(TRAIN) == 4 - came


def test_a_site_that_says_for_ever_that_it_lacks_the_model_is_set_aside(tmp_path: Path, again: dict[int, Any]) -> None:
    def lack(message: Message, reply: Message) -> Message:
        return Message(Error(102, "site-3 could not train: no model; send it the whole model"), reply_to=message)

    again[13].change = lack
    events = federate(TinyGrid(again), tmp_path, settings_of(rounds=1))
    assert put_aside(events) == [(1, "site-3", "no model")]
    assert [kind for kind, _ in again[13].asked].count(TRAIN) == 2


def spoiled(spoil: Callable[[bytes], bytes]) -> Change:
    def change(message: Message, reply: Message) -> Message:
        record = reply.content["arrays"]
        assert isinstance(record, ArrayRecord)
        array = record[WEIGHTS]
        data = spoil(array.data)
        arrays = ArrayRecord({WEIGHTS: Array(array.dtype, (len(data),), array.stype, data)})
        return Message(RecordDict({**reply.content, "arrays": arrays}), reply_to=message)

    return change


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:-1], "cut off, damaged, or followed by something else"),
        (lambda data: data + b"\0", "cut off, damaged, or followed by something else"),
        (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "cut off, damaged, or followed by something else"),
        (lambda data: b"", "no payload at all"),
        (lambda data: data.replace(b'"base": "', b'"base": "0', 1), "description of the payload cannot be read"),
        (lambda data: data.replace(b"int4", b"int2", 1), "must be of codec int4"),
    ],
)
def test_hostile_payloads_are_set_aside_and_the_round_goes_on(
    tmp_path: Path, again: dict[int, Any], spoil: Callable[[bytes], bytes], reason: str
) -> None:
    again[13].change = spoiled(spoil)
    events = federate(TinyGrid(again), tmp_path, settings_of(rounds=1))
    ((number, site, told),) = put_aside(events)
    assert (number, site) == (1, "site-3")
    assert reason in told
    assert [site["site"] for site in rounds(tmp_path)[0]["sites"]] == ["site-1", "site-2"]


def test_an_update_that_came_plain_is_set_aside(
    tmp_path: Path, hospitals: list[SiteSettings], again: dict[int, Any]
) -> None:
    plain = Hospital(replace(hospitals[2], work=tmp_path / "plain"))(train_message())

    def change(message: Message, reply: Message) -> Message:
        return Message(RecordDict({**reply.content, "arrays": plain.content["arrays"]}), reply_to=message)

    again[13].change = change
    events = federate(TinyGrid(again), tmp_path / "run", settings_of(rounds=1))
    assert put_aside(events) == [(1, "site-3", "the weights are not in the exchange that the run has")]


def test_in_fp32_nothing_is_kept_and_nothing_changes(tmp_path: Path, hospitals: list[SiteSettings]) -> None:
    settings = settings_of(exchange="fp32", rounds=2)
    federate(TinyGrid(hospitals_in(tmp_path / "work", hospitals[:2])), tmp_path, settings)
    assert read_state(tmp_path / "state-0002.safetensors").memory == {}
    names = {path.name.split("-")[0] for path in (tmp_path / "work" / "site-1" / RUN).iterdir()}
    assert names == {"optimizer"}


def test_a_lost_work_folder_does_not_stop_a_run(
    tmp_path: Path, hospitals: list[SiteSettings], begun: ServerState
) -> None:
    sites = hospitals_in(tmp_path / "work", hospitals)

    def lose(message: Message, reply: Message) -> Message:
        if message.metadata.group_id == "2":
            shutil.rmtree(tmp_path / "work" / "site-1" / RUN)
        return reply

    sites[11].change = lose
    events = federate(TinyGrid(sites), tmp_path, settings_of(), begun)
    assert put_aside(events) == []
    assert [len(record["sites"]) for record in rounds(tmp_path)] == [3, 3, 3]


def test_an_unknown_exchange_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"exchange must be one of fp32, fp16, int8, .*, got 'int3'"):
        tiny_settings(exchange="int3")
