"""Whole runs over a Grid in this process: who takes part, who is late, what is kept, what a run that stopped leaves."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from client.contract import EVALUATE, PREPARE, TRAIN
from client.failures import SiteFailure
from segformer3d import checkpoint
from segformer3d.errors import CheckpointError, FederationError
from server.records import (
    Event,
    RoundFinished,
    RoundStarted,
    RunFinished,
    SiteReplied,
    SiteSetAside,
    SitesReady,
    message_bytes,
)
from server.rounds import Federation
from server.run_folder import newest_state
from server.state import read_state

from ..client.tiny_site import tiny_weights
from .tiny_federation import (
    Site,
    TinyGrid,
    TinySite,
    answering_late,
    failing,
    federate,
    silent,
    tiny_settings,
    tiny_state,
)


def two_sites() -> dict[int, Any]:
    return {11: TinySite("site-1"), 12: TinySite("site-2", cases=12)}


def finished(events: list[Event]) -> list[RoundFinished]:
    return [event for event in events if isinstance(event, RoundFinished)]


def put_aside(events: list[Event]) -> list[tuple[int, str, str]]:
    return [(e.round, e.what.site, e.what.reason) for e in events if isinstance(e, SiteSetAside)]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    events = federate(TinyGrid(two_sites()), tmp_path)
    kinds = [type(event) for event in events]
    one_round = [RoundStarted, SiteReplied, SiteReplied, RoundFinished]
    assert kinds == [SitesReady, *one_round * 3, SiteReplied, SiteReplied, RunFinished]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors",
        "last.safetensors",
        "result.json",
        "rounds.jsonl",
        "state-0002.safetensors",
        "state-0003.safetensors",
    ]


def test_the_global_model_is_what_the_sites_make_of_it(tmp_path: Path) -> None:
    """Both sites add 0.01 to every parameter in each of three rounds."""
    federate(TinyGrid(two_sites()), tmp_path)
    state = read_state(tmp_path / "state-0003.safetensors")
    name = "decoder.fuse.weight"
    np.testing.assert_allclose(state.weights[name], tiny_weights()[name] + 0.03, atol=1e-6)
    assert state.weights["decoder.fuse_norm.num_batches_tracked"] == 6
    model = checkpoint.load(tmp_path / "last.safetensors")
    np.testing.assert_array_equal(model.state_dict()[name].numpy(), state.weights[name])


def test_a_rounds_record_tells_all(tmp_path: Path) -> None:
    grid = TinyGrid(two_sites())
    events = federate(grid, tmp_path)
    record = lines(tmp_path)[1]
    assert [event.record.round for event in finished(events)] == [1, 2, 3]
    assert [site["site"] for site in record["sites"]] == ["site-1", "site-2"]
    first = record["sites"][0]
    request = next(m for m in grid.sent if m.metadata.message_type == TRAIN)
    assert first["bytes_down"] == message_bytes(request.content)
    size = sum(value.nbytes for value in tiny_weights().values())
    assert size < first["bytes_up"] < first["bytes_down"] < 2 * size + 40_000
    assert (first["cases"], first["share"], first["loss"], first["steps"]) == (4, 0.25, 0.5, 4)
    assert (first["training_seconds"], first["validation_seconds"]) == (0.5, 0.25)
    assert 0 <= first["seconds"] <= record["seconds"] < 10
    assert record["agreement"] == pytest.approx(1.0)
    assert record["step_norm"] == pytest.approx(first["update_norm"], rel=1e-4)
    # What a round measures is the model that it started from.
    assert record["measured"] == {"round": 1, "dice": [0.51], "mean_dice": 0.51, "loss": 1.0, "cases": 4}


def test_all_bytes_are_counted_whether_they_were_of_use_or_not(tmp_path: Path) -> None:
    """Of each message that the grid got and gave, and not only of those that counted."""
    came: list[int] = []

    def counted(site: TinySite) -> Site:
        def answer(message: Message) -> Message | None:
            reply = site(message)
            came.append(0 if reply is None or reply.has_error() else message_bytes(reply.content))
            return reply

        return answer

    useless = TinySite("site-3", change={TRAIN: lambda content: RecordDict({"about": content["about"]})})
    grid = TinyGrid({node: counted(site) for node, site in {**two_sites(), 13: useless}.items()})
    events = federate(grid, tmp_path)
    records = [*(event.record for event in finished(events)), events[-1].record]
    assert [reason for _, _, reason in put_aside(events)].count("the message lacks 'arrays'") == 3
    assert sum(record.bytes_down for record in records) == sum(message_bytes(m.content) for m in grid.sent)
    assert sum(record.bytes_up for record in records) == sum(came)
    first = lines(tmp_path)[0]
    of_use = sum(site["bytes_down"] for site in first["sites"])
    assert first["bytes_down"] > 1.4 * of_use, "the third site got its model, too"


def test_the_best_model_is_the_one_that_was_measured_best(tmp_path: Path) -> None:
    def dice(rounds: int) -> float:
        return (0.1, 0.2, 0.9, 0.3)[rounds]

    sites = {1: TinySite("site-1", dice=dice), 2: TinySite("site-2", dice=dice)}
    (end,) = [event for event in federate(TinyGrid(sites), tmp_path) if isinstance(event, RunFinished)]
    assert end.record.best is not None
    assert (end.record.best.round, end.record.best.dice) == (2, 0.9)
    assert (end.record.final.round, end.record.final.mean_dice) == (3, 0.3)
    best = checkpoint.load(tmp_path / "best.safetensors").state_dict()["decoder.fuse.weight"].numpy()
    np.testing.assert_array_equal(best, read_state(tmp_path / "state-0002.safetensors").weights["decoder.fuse.weight"])


def test_the_final_model_can_be_the_best(tmp_path: Path) -> None:
    federate(TinyGrid(two_sites()), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["best"] == {"round": 3, "dice": 0.53}
    assert result["sites"]["site-1"]["dice"] == [0.53]
    assert (tmp_path / "best.safetensors").read_bytes() != b""


def test_validation_is_weighted_by_validation_cases_and_absent_structures_are_null(tmp_path: Path) -> None:
    sites = {
        1: TinySite("site-1", validation_cases=1, dice=lambda rounds: 0.2),
        2: TinySite("site-2", validation_cases=3, dice=lambda rounds: 0.6),
        3: TinySite("site-3", validation_cases=9, dice=lambda rounds: float("nan")),
    }
    federate(TinyGrid(sites), tmp_path)
    assert lines(tmp_path)[0]["measured"]["mean_dice"] == pytest.approx(0.5)
    assert lines(tmp_path)[0]["sites"][2]["dice"] == [None]


def test_a_site_that_does_not_answer_costs_no_more_than_the_deadline(tmp_path: Path) -> None:
    def mute(message: Message) -> Any:
        return TinySite("site-3")(message) if message.metadata.message_type == PREPARE else silent(message)

    began = time.monotonic()
    events = federate(TinyGrid({**two_sites(), 13: mute}), tmp_path, tiny_settings(rounds=2, round_deadline_s=1.0))
    assert 3.0 <= time.monotonic() - began < 9
    reason = "it did not answer within 1 s"
    assert put_aside(events) == [(1, "site-3", reason), (2, "site-3", reason), (3, "site-3", reason)]
    assert [len(event.record.sites) for event in finished(events)] == [2, 2]


def test_a_late_reply_of_an_earlier_round_is_ignored(tmp_path: Path) -> None:
    """Site 3 answers round 1 during round 2, and round 2 in time."""
    kept_back: list[Message] = []

    def late(message: Message) -> Any:
        reply = TinySite("site-3", step=0.02)(message)
        if message.metadata.message_type == TRAIN and message.metadata.group_id == "1":
            kept_back.append(reply)
            return None
        return [*kept_back, reply] if message.metadata.message_type == TRAIN else reply

    settings = tiny_settings(rounds=2, round_deadline_s=1.0)
    events = federate(TinyGrid({**two_sites(), 13: late}), tmp_path, settings)
    assert put_aside(events) == [(1, "site-3", "it did not answer within 1 s")]
    assert [len(event.record.sites) for event in finished(events)] == [2, 3]


def test_sites_that_work_in_this_process_are_not_asked_after_the_deadline(tmp_path: Path) -> None:
    sites = {n: answering_late(TRAIN, 0.2, TinySite(f"site-{n}")) for n in range(1, 4)}
    with pytest.raises(FederationError, match="round 1 got 0 good replies of at least 2"):
        federate(TinyGrid(sites, patience=3), tmp_path, tiny_settings(round_deadline_s=0.01))


def test_an_error_reply_is_blamed_on_the_site_that_was_asked_whoever_signs_it(tmp_path: Path) -> None:
    """Flower signs the error of a site that went offline with the server's own node id."""

    def offline(message: Message) -> Any:
        if message.metadata.message_type != TRAIN:
            return TinySite("site-3")(message)
        reply = Message(Error(5, "node 13 of /secret"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = 1
        return reply

    events = federate(TinyGrid({**two_sites(), 13: offline}), tmp_path, tiny_settings(rounds=1))
    assert put_aside(events) == [(1, "site-3", "the site went offline")]
    assert lines(tmp_path)[0]["set_aside"][0]["remedy"] == "check its SuperNode and its connection"


def test_a_site_that_answers_twice_counts_once(tmp_path: Path) -> None:
    def twice(message: Message) -> Any:
        site = TinySite("site-3")
        return [site(message), site(message)] if message.metadata.message_type == TRAIN else site(message)

    events = federate(TinyGrid({**two_sites(), 13: twice}), tmp_path, tiny_settings(rounds=1))
    assert put_aside(events) == [(1, "site-3", "it answered twice; its first answer counts")]
    assert [site.site for site in finished(events)[0].record.sites] == ["site-1", "site-2", "site-3"]
    federate(TinyGrid({**two_sites(), 13: TinySite("site-3")}), tmp_path / "once", tiny_settings(rounds=1))
    assert (tmp_path / "last.safetensors").read_bytes() == (tmp_path / "once" / "last.safetensors").read_bytes()


@pytest.mark.parametrize("error", [KeyError("dtype"), ValueError("bytes"), IndexError(3), RecursionError()])
def test_a_reply_that_cannot_be_unpacked_takes_no_other_with_it(tmp_path: Path, error: Exception) -> None:
    grid = TinyGrid({**two_sites(), 13: TinySite("site-3")})

    def broken(message_id: str) -> None:
        message = next(m for m in grid.sent if m.metadata.message_id == message_id)
        if message.metadata.dst_node_id == 13 and message.metadata.message_type == TRAIN:
            raise error

    grid.on_pull = broken
    events = federate(grid, tmp_path, tiny_settings(rounds=1))
    assert put_aside(events) == [(1, "site-3", f"its reply cannot be unpacked ({type(error).__name__})")]
    assert len(finished(events)[0].record.sites) == 2


def test_replies_in_any_order_give_the_same_model(tmp_path: Path) -> None:
    results = set()
    for number, order in enumerate([(1, 2, 3), (3, 1, 2), (2, 3, 1)]):
        sites = {node: TinySite(f"site-{node}", cases=node, step=0.01 / 3**node) for node in order}
        federate(TinyGrid(sites), tmp_path / str(number))
        results.add((tmp_path / str(number) / "last.safetensors").read_bytes())
    assert len(results) == 1


def test_too_few_good_replies_stop_the_run_with_one_clear_line(tmp_path: Path) -> None:
    sick = SiteFailure("site-2", TRAIN, "its disk is full", "free space at the site").encode()
    sites = {1: TinySite("site-1"), 2: TinySite("site-2")}
    grid = TinyGrid(sites)

    def fall_ill(message_id: str) -> None:
        if grid.sent[-1].metadata.group_id == "2":
            grid.sites[2] = failing(TRAIN, sick, sites[2])

    grid.on_pull = fall_ill
    with pytest.raises(FederationError) as caught:
        federate(grid, tmp_path)
    assert str(caught.value) == (
        "round 3 got 1 good replies of at least 2 (site-2: its disk is full); the state after round 2 is kept: "
        "repair the sites and resume the run"
    )
    assert [line["round"] for line in lines(tmp_path)] == [1, 2]
    resumed = newest_state(tmp_path)
    assert resumed is not None
    federate(TinyGrid(sites), tmp_path, state=read_state(resumed))
    assert [line["round"] for line in lines(tmp_path)] == [1, 2, 3]
    federate(TinyGrid(sites), tmp_path / "undisturbed")
    assert (tmp_path / "last.safetensors").read_bytes() == (tmp_path / "undisturbed/last.safetensors").read_bytes()


def test_ctrl_c_in_a_round_leaves_the_last_complete_state(tmp_path: Path) -> None:
    grid = TinyGrid(two_sites())

    def interrupt(message_id: str) -> None:
        if grid.sent[-1].metadata.group_id == "3":
            raise KeyboardInterrupt

    grid.on_pull = interrupt
    with pytest.raises(KeyboardInterrupt):
        federate(grid, tmp_path)
    newest = newest_state(tmp_path)
    assert newest == tmp_path / "state-0002.safetensors"
    state = read_state(newest)
    assert len(state.history) == 2
    federate(TinyGrid(two_sites()), tmp_path, state=state)
    federate(TinyGrid(two_sites()), tmp_path / "undisturbed")
    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_a_line_that_was_cut_by_a_crash_is_written_again_from_the_state(tmp_path: Path) -> None:
    federate(TinyGrid(two_sites()), tmp_path)
    (tmp_path / "rounds.jsonl").write_text('{"round": 1', encoding="utf-8")
    federate(TinyGrid(two_sites()), tmp_path, state=read_state(tmp_path / "state-0003.safetensors"))
    assert [line["round"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_run_folder_belongs_to_one_run(tmp_path: Path) -> None:
    federate(TinyGrid(two_sites()), tmp_path)
    with pytest.raises(FederationError, match="holds run run-1 after round 3; resume it, or choose another folder"):
        federate(TinyGrid(two_sites()), tmp_path)
    other = tiny_state(tiny_settings(), "run-2")
    with pytest.raises(FederationError, match="holds run run-1"):
        federate(TinyGrid(two_sites()), tmp_path, state=other)


def test_other_settings_do_not_resume_a_run(tmp_path: Path) -> None:
    state = tiny_state(tiny_settings())
    with pytest.raises(CheckpointError, match="rounds was 3 and is 5"):
        federate(TinyGrid(two_sites()), tmp_path, tiny_settings(rounds=5), state)


def test_nobody_comes(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(FederationError, match="0 of at least 2 sites can take part, with 0 connected"):
        federate(TinyGrid({}), tmp_path, tiny_settings(prepare_deadline_s=0.3))
    assert 0.3 <= time.monotonic() - began < 3


def test_a_site_whose_data_is_broken_is_named_at_once(tmp_path: Path) -> None:
    sick = SiteFailure("site-2", PREPARE, "no usable case", "see the log at the site").encode()
    sites = {1: TinySite("site-1"), 2: failing(PREPARE, sick, TinySite("site-2"))}
    began = time.monotonic()
    with pytest.raises(FederationError) as caught:
        federate(TinyGrid(sites), tmp_path, tiny_settings())
    assert time.monotonic() - began < 5
    assert str(caught.value) == (
        "1 of at least 2 sites can take part, with 2 connected (site-2: no usable case); "
        "connect or repair sites, then start or resume the run"
    )


def test_a_site_that_was_repaired_joins_at_the_next_round(tmp_path: Path) -> None:
    sick = SiteFailure("site-3", PREPARE, "no usable case", "see the log at the site").encode()
    grid = TinyGrid({**two_sites(), 13: failing(PREPARE, sick, TinySite("site-3"))})

    def repair(message_id: str) -> None:
        if grid.sent[-1].metadata.message_type == TRAIN:
            grid.sites[13] = TinySite("site-3")

    grid.on_pull = repair
    events = federate(grid, tmp_path)
    assert [[site.site for site in event.record.sites] for event in finished(events)] == [
        ["site-1", "site-2"],
        ["site-1", "site-2", "site-3"],
        ["site-1", "site-2", "site-3"],
    ]
    assert [item["site"] for item in lines(tmp_path)[0]["set_aside"]] == ["site-3"]
    assert lines(tmp_path)[1]["set_aside"] == []


def test_a_restarted_site_comes_back_under_its_name_with_another_node(tmp_path: Path) -> None:
    grid = TinyGrid({**two_sites(), 13: TinySite("site-3")})

    def restart(message_id: str) -> None:
        if grid.sent[-1].metadata.group_id == "1":
            grid.offline = {13}
            grid.sites[14] = TinySite("site-3")

    grid.on_pull = restart
    events = federate(grid, tmp_path)
    assert [len(event.record.sites) for event in finished(events)] == [3, 3, 3]
    assert put_aside(events) == []
    nodes = [m.metadata.dst_node_id for m in grid.sent if m.metadata.group_id == "2"]
    assert sorted(nodes) == [11, 12, 14]


def test_two_sites_of_one_name_are_told_apart(tmp_path: Path) -> None:
    grid = TinyGrid({**two_sites(), 13: TinySite("site-1")})
    events = federate(grid, tmp_path, tiny_settings(rounds=1))
    assert ("site-1", "another site is called site-1 too") in [aside[1:] for aside in put_aside(events)]
    assert [site.site for site in finished(events)[0].record.sites] == ["site-1", "site-2"]


@pytest.mark.parametrize("name", [None, "site-4"])
def test_a_node_takes_part_under_the_name_that_it_is_registered_under_or_not_at_all(
    tmp_path: Path, name: str | None
) -> None:
    grid = TinyGrid({**two_sites(), 13: TinySite("site-3")})
    settings, events = tiny_settings(rounds=1), list[Event]()
    names = {11: "site-1", 12: "site-2", 13: name}
    Federation(grid, settings, tmp_path, tiny_state(settings), events.append, names.get).run()
    reason = f"it is registered as {name or 'nobody'} and calls itself site-3"
    assert put_aside(events) == [(1, name or "site-3", reason)]
    assert [site.site for site in finished(events)[0].record.sites] == ["site-1", "site-2"]
    assert [m.metadata.message_type for m in grid.sent if m.metadata.dst_node_id == 13] == [PREPARE]


def test_a_newcomer_that_prepares_for_long_holds_up_no_round(tmp_path: Path) -> None:
    """It takes no part in the first rounds; its answer comes during round 2, and it joins in round 3."""
    grid = TinyGrid(two_sites())
    held: list[Message] = []

    def slow(message: Message) -> Any:
        if message.metadata.message_type != PREPARE:
            return TinySite("site-3")(message)
        held.append(message)
        return None

    def play(message_id: str) -> None:
        group = grid.sent[-1].metadata.group_id
        if group == "1":
            grid.sites[13] = slow
        if group == "2" and held:
            request = held.pop()
            grid._replies[request.metadata.message_id] = [TinySite("site-3")(request)]  # type: ignore[list-item]

    grid.on_pull = play
    events = federate(grid, tmp_path)
    assert [len(event.record.sites) for event in finished(events)] == [2, 2, 3]


def test_a_site_without_connection_is_not_asked(tmp_path: Path) -> None:
    grid = TinyGrid({**two_sites(), 13: TinySite("site-3")})

    def unplug(message_id: str) -> None:
        if grid.sent[-1].metadata.group_id == "1":
            grid.offline = {13}

    grid.on_pull = unplug
    events = federate(grid, tmp_path)
    assert [len(event.record.sites) for event in finished(events)] == [3, 2, 2]


class ForgetfulGrid(TinyGrid):
    """A grid that cannot push to one node, and says so as Flower's grids do."""

    def __init__(self, sites: dict[int, Any], lost: int, *, leaves_gaps: bool) -> None:
        super().__init__(sites)
        self._lost, self._leaves_gaps = lost, leaves_gaps

    def push_messages(self, messages: Any) -> Any:
        ids = [None if self._loses(message) else self._push(message) for message in messages]
        return ids if self._leaves_gaps else [i for i in ids if i is not None]

    def _loses(self, message: Message) -> bool:
        return message.metadata.dst_node_id == self._lost and message.metadata.message_type == TRAIN


@pytest.mark.parametrize("leaves_gaps", [True, False])
def test_a_request_that_cannot_be_sent_is_told_at_once(tmp_path: Path, leaves_gaps: bool) -> None:
    grid = ForgetfulGrid({10: TinySite("site-0"), **two_sites()}, 10, leaves_gaps=leaves_gaps)
    settings = tiny_settings(rounds=1)
    events = federate(grid, tmp_path, settings)
    assert put_aside(events) == [(1, "site-0", "the request could not be sent to it")]
    told = [event.record.bytes_down for event in events if isinstance(event, RoundFinished | RunFinished)]
    assert sum(told) == sum(message_bytes(message.content) for message in grid.sent)
    assert len(finished(events)[0].record.sites) == 2


def test_a_patient_grid_is_asked_again(tmp_path: Path) -> None:
    events = federate(TinyGrid(two_sites(), patience=3), tmp_path, tiny_settings())
    assert len(finished(events)) == 3


def test_messages_expire_with_their_round(tmp_path: Path) -> None:
    grid = TinyGrid(two_sites())
    federate(grid, tmp_path, tiny_settings(round_deadline_s=100.0, prepare_deadline_s=200.0))
    lives = {(m.metadata.message_type, m.metadata.ttl) for m in grid.sent}
    assert lives == {(PREPARE, 260.0), (TRAIN, 160.0), (EVALUATE, 160.0)}


def test_nothing_of_a_run_is_lost_when_a_listener_fails(tmp_path: Path) -> None:
    def listener(event: Event) -> None:
        assert not isinstance(event, RoundFinished), "the display broke"

    with pytest.raises(AssertionError, match="the display broke"):
        Federation(TinyGrid(two_sites()), tiny_settings(), tmp_path, tiny_state(tiny_settings()), listener).run()
    newest = newest_state(tmp_path)
    assert newest is not None
    assert read_state(newest).round == 1


def test_a_run_survives_without_any_validation_case(tmp_path: Path) -> None:
    def none(records: RecordDict) -> RecordDict:
        metrics: Any = records["metrics"]
        for name, value in (("cases", 0), ("loss", float("nan")), ("dice", [float("nan")])):
            metrics[f"validation_{name}"] = value
        return records

    sites = {
        n: TinySite(f"site-{n}", validation_cases=0, change={TRAIN: none, EVALUATE: none}, dice=lambda rounds: 0.5)
        for n in (1, 2)
    }
    (end,) = [event for event in federate(TinyGrid(sites), tmp_path) if isinstance(event, RunFinished)]
    assert end.record.best is None
    assert end.record.final.cases == 0
    assert not (tmp_path / "best.safetensors").exists()
    assert lines(tmp_path)[0]["measured"]["mean_dice"] is None
