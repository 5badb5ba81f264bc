"""Replies are guests: every way to break one is set aside and told, and the round completes with the rest."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.contract import TRAIN, EvaluateReply, EvaluateRequest, PrepareReply, PrepareRequest, TrainReply
from client.weights import Weights, decode_weights, encode_weights
from segformer3d.errors import ReplyError
from segformer3d.training_reports import TrainingReport, ValidationReport
from server.aggregation import apply, init
from server.exchange import read_train
from server.records import Event, RoundFinished, RunFinished
from server.replies import (
    ABSOLUTE_FACTOR,
    RELATIVE_FACTOR,
    SetAside,
    check_evaluate,
    check_prepare,
    longest_update,
    set_aside_outliers,
)
from server.run_folder import newest_state
from server.state import read_state
from tests.examples import examples

from ..client.tiny_site import RUN, TINY, tiny_weights, train_request
from .hostile import HOSTILE, Change
from .tiny_federation import TinyGrid, TinySite, federate, moved, tiny_settings

WEIGHTS = tiny_weights()
READY = PrepareReply("site-3", RUN, 4, 2, 0, (0.1,), 0.5)
REQUEST = train_request(weights=WEIGHTS)
LAST = EvaluateRequest(RUN, 3, TINY, WEIGHTS)
VALIDATION = ValidationReport((0.5,), 1.0, 2, 0.1)


def good_reply(weights: Weights = WEIGHTS) -> TrainReply:
    return TrainReply("site-3", RUN, 1, moved(weights, 0.01), TrainingReport(1.0, 4, 4, 2, 0.5), VALIDATION)


def read(records: RecordDict) -> TrainReply:
    return read_train(records, READY, request=REQUEST, digest="", longest=lambda: longest_update(WEIGHTS))


def rounds(events: list[Event]) -> list[RoundFinished]:
    return [event for event in events if isinstance(event, RoundFinished)]


def test_a_good_reply_is_taken_as_it_is() -> None:
    reply = read(good_reply().encode())
    assert (reply.training, reply.validation) == (good_reply().training, good_reply().validation)
    for name, value in good_reply().update.items():
        np.testing.assert_array_equal(reply.update[name], value)


@pytest.mark.parametrize(("change", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_reply_is_set_aside_and_the_round_completes(change: Change, reason: str, tmp_path: Path) -> None:
    sites = {n: TinySite(f"site-{n}") for n in (1, 2)}
    grid = TinyGrid({**sites, 3: TinySite("site-3", change={TRAIN: change}, failing=(2,))})
    finished = rounds(federate(grid, tmp_path))
    assert [len(event.record.sites) for event in finished] == [3, 2, 3]
    ((item,),) = [event.record.set_aside for event in finished if event.record.set_aside]
    assert (item.site, item.phase) == ("site-3", TRAIN)
    assert reason in item.reason
    assert item.remedy
    newest = newest_state(tmp_path)
    assert newest is not None
    assert all(np.isfinite(value).all() for value in read_state(newest).weights.values())


def test_a_hostile_reply_leaves_no_trace_in_the_model(tmp_path: Path) -> None:
    """The model is to the bit the one that the two good sites make without the third."""
    sites = {n: TinySite(f"site-{n}") for n in (1, 2)}
    federate(TinyGrid(sites), tmp_path / "two")
    federate(TinyGrid({**sites, 3: TinySite("site-3", change={TRAIN: HOSTILE["NaN"][0]})}), tmp_path / "three")
    assert (tmp_path / "two" / "last.safetensors").read_bytes() == (
        tmp_path / "three" / "last.safetensors"
    ).read_bytes()


names = st.sampled_from([name for name in WEIGHTS if WEIGHTS[name].size])
numbers = st.one_of(st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -1.0, 0.0, 1e-45, 1e6]), st.floats(width=32))
odd_values = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.lists(st.floats(), max_size=3), st.integers(0, 20)
)


@st.composite
def corrupted(draw: st.DrawFn) -> RecordDict:
    """A good reply with one to three things done to it."""
    records = good_reply().encode()
    for _ in range(draw(st.integers(1, 3))):
        draw(st.sampled_from([_flip_bytes, _change_value, _change_number, _change_text, _drop]))(draw, records)
    return records


def _flip_bytes(draw: st.DrawFn, records: RecordDict) -> None:
    arrays: Any = records.get("arrays", ArrayRecord())
    if name := draw(st.sampled_from(sorted(arrays))) if arrays else None:
        data = bytearray(arrays[name].data)
        for place in draw(st.lists(st.integers(0, len(data)), max_size=4)):
            data[place : place + 1] = bytes([draw(st.integers(0, 255))])
        arrays[name] = Array(arrays[name].dtype, arrays[name].shape, arrays[name].stype, bytes(data))


def _change_value(draw: st.DrawFn, records: RecordDict) -> None:
    with np.errstate(invalid="ignore"):
        name = draw(names)
        changed = np.full_like(WEIGHTS[name], draw(numbers))
    if "arrays" in records:
        with suppress(ReplyError):  # its bytes are corrupted already
            weights = decode_weights(cast(ArrayRecord, records["arrays"]))
            records["arrays"] = encode_weights({**weights, name: changed})


def _change_number(draw: st.DrawFn, records: RecordDict) -> None:
    metrics: Any = records.get("metrics", MetricRecord())
    if metrics:
        metrics[draw(st.sampled_from(sorted(metrics)))] = draw(odd_values)


def _change_text(draw: st.DrawFn, records: RecordDict) -> None:
    about: Any = records.get("about", ConfigRecord())
    if about:
        about[draw(st.sampled_from(sorted(about)))] = draw(st.one_of(st.text(), st.binary(), st.integers(-3, 3)))


def _drop(draw: st.DrawFn, records: RecordDict) -> None:
    if records:
        del records[draw(st.sampled_from(sorted(records)))]


@given(corrupted())
@settings(max_examples=examples(120), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_whatever_is_done_to_a_reply_the_model_stays_finite(records: RecordDict) -> None:
    try:
        reply = read(records)
    except ReplyError:
        return
    assert (reply.site, reply.training.cases) == ("site-3", 4)
    other = TrainReply("site-1", RUN, 1, moved(WEIGHTS, 0.01), reply.training, VALIDATION)
    state, diagnostics = apply(init(WEIGHTS), [reply, other])
    assert diagnostics.shares == {"site-1": 0.5, "site-3": 0.5}
    for name, value in state.weights.items():
        assert np.isfinite(value).all()
        assert (value.dtype, value.shape) == (WEIGHTS[name].dtype, WEIGHTS[name].shape)


def scaled(site: str, step: float) -> TrainReply:
    return TrainReply(site, RUN, 1, moved(WEIGHTS, step), TrainingReport(1.0, 4, 4, 2, 0.5), VALIDATION)


@pytest.mark.parametrize(
    ("factor", "kept"), [(0.5 * RELATIVE_FACTOR, 3), (2 * RELATIVE_FACTOR, 2)], ids=["large", "absurd"]
)
def test_an_update_is_measured_against_the_others(factor: float, kept: int) -> None:
    replies = [scaled("a", 1e-5), scaled("b", 1e-5), scaled("c", factor * 1e-5)]
    good, aside = set_aside_outliers(replies, TRAIN)
    assert len(good) == kept
    assert [item.site for item in aside] == ["c"] * (3 - kept)


def test_an_outlier_leaves_no_trace_in_the_model(tmp_path: Path) -> None:
    """The model is to the bit the one that the two others make without it."""
    sites = {n: TinySite(f"site-{n}", step=1e-5) for n in (1, 2)}
    far = TinySite("site-3", step=2 * RELATIVE_FACTOR * 1e-5)
    federate(TinyGrid(sites), tmp_path / "two", tiny_settings(rounds=1))
    (finished,) = rounds(federate(TinyGrid({**sites, 3: far}), tmp_path / "three", tiny_settings(rounds=1)))
    assert [site.site for site in finished.record.sites] == ["site-1", "site-2"]
    assert [(item.site, item.phase) for item in finished.record.set_aside] == [("site-3", TRAIN)]
    two, three = (read_state(tmp_path / name / "state-0001.safetensors").weights for name in ("two", "three"))
    assert all(np.array_equal(value, three[name]) for name, value in two.items())


def test_two_replies_cannot_outvote_each_other() -> None:
    assert set_aside_outliers([scaled("a", 1e-5), scaled("b", 1.0)], TRAIN)[1] == ()


def test_sites_that_do_not_move_at_all_make_no_one_an_outlier() -> None:
    assert set_aside_outliers([scaled("a", 0.0), scaled("b", 0.0), scaled("c", 1e-3)], TRAIN)[1] == ()


def test_the_absolute_limit_is_as_documented() -> None:
    with pytest.raises(ReplyError, match="above the limit"):
        read(scaled("site-3", 2 * ABSOLUTE_FACTOR).encode())


def test_a_structure_that_no_case_has_is_no_fault() -> None:
    absent = ValidationReport((math.nan,), 1.0, 2, 0.1)
    check_evaluate(EvaluateReply("site-3", RUN, 3, absent), READY, LAST)


def test_a_site_without_validation_cases_is_no_fault() -> None:
    nobody = PrepareReply("site-3", RUN, 1, 0, 0, (0.1,), 0.5)
    check_evaluate(EvaluateReply("site-3", RUN, 3, ValidationReport((math.nan,), math.nan, 0, 0.0)), nobody, LAST)


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": "other"},
        {"train_cases": 0},
        {"train_cases": 10_000_001},
        {"validation_cases": -1},
        {"set_aside": -1},
        {"balance": ()},
        {"balance": (1.5,)},
        {"balance": (math.nan,)},
        {"seconds": math.inf},
    ],
)
def test_what_a_site_says_of_its_data_is_checked(wrong: dict[str, Any]) -> None:
    said = {
        "site": "s",
        "run": RUN,
        "train_cases": 1,
        "validation_cases": 0,
        "set_aside": 0,
        "balance": (0.0,),
        "seconds": 0.5,
    }
    request = PrepareRequest(RUN, TINY, 3)
    check_prepare(PrepareReply(**said), request)  # type: ignore[arg-type]
    with pytest.raises(ReplyError):
        check_prepare(PrepareReply(**{**said, **wrong}), request)  # type: ignore[arg-type]


def test_a_bad_measurement_of_the_final_model_is_set_aside(tmp_path: Path) -> None:
    def better(records: RecordDict) -> RecordDict:
        records["metrics"]["validation_dice"] = [2.0]  # type: ignore[index]
        return records

    grid = TinyGrid({1: TinySite("site-1"), 2: TinySite("site-2", change={"evaluate": better})})
    (end,) = [event for event in federate(grid, tmp_path) if isinstance(event, RunFinished)]
    assert list(end.record.sites) == ["site-1"]
    assert [(item.site, item.phase) for item in end.record.set_aside] == [("site-2", "evaluate")]


def test_what_is_set_aside_reads_as_one_line() -> None:
    assert (
        str(SetAside("site-2", TRAIN, "its update has norm 9", "do this")) == "site-2: its update has norm 9; do this"
    )
