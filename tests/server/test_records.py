"""Records and scores. Oracles: hand-worked means; the file that a reader gets."""

import json
import math
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from segformer3d.files import StorageError
from segformer3d.training_reports import ValidationReport
from server.records import append_round, begin_rounds, last_counted, message_bytes, plain, score


def report(cases: int, *dice: float, loss: float = 1.0) -> ValidationReport:
    return ValidationReport(dice, loss, cases, 0.0)


def test_a_score_is_weighted_by_validation_cases() -> None:
    # (1·0.2 + 3·0.6) / 4 = 0.5, (1·0.4 + 3·0.8) / 4 = 0.7, (1·2 + 3·1) / 4 = 1.25.
    found = score(7, {"a": report(1, 0.2, 0.4, loss=2.0), "b": report(3, 0.6, 0.8)}, 2)
    assert (found.round, found.cases) == (7, 4)
    assert found.dice == pytest.approx((0.5, 0.7))
    assert found.mean_dice == pytest.approx(0.6)
    assert found.loss == pytest.approx(1.25)


def test_an_absent_structure_counts_where_it_is_present_only() -> None:
    found = score(1, {"a": report(1, math.nan, 0.4), "b": report(3, 0.6, 0.8)}, 2)
    assert found.dice == pytest.approx((0.6, 0.7))
    nowhere = score(1, {"a": report(2, math.nan, 0.4)}, 2)
    assert math.isnan(nowhere.dice[0])
    assert nowhere.mean_dice == 0.4


def test_nobody_measured_anything() -> None:
    found = score(1, {"a": report(0, math.nan, loss=math.nan)}, 1)
    assert math.isnan(found.mean_dice)
    assert (plain(found)["dice"], plain(found)["loss"], found.cases) == ([None], None, 0)


@given(st.lists(st.tuples(st.integers(1, 999), st.floats(0, 1)), min_size=1), st.randoms(use_true_random=False))
def test_the_order_of_sites_does_not_change_a_score(sites: list[tuple[int, float]], shuffle: object) -> None:
    reports = {f"s{k}": report(cases, dice) for k, (cases, dice) in enumerate(sites)}
    items = list(reports.items())
    shuffle.shuffle(items)  # type: ignore[attr-defined]
    assert score(1, dict(items), 1) == score(1, reports, 1)


def test_lines_are_appended_and_begun_anew(tmp_path: Path) -> None:
    begin_rounds(tmp_path, [{"round": 1}])
    append_round(tmp_path, {"round": 2, "dice": None})
    text = (tmp_path / "rounds.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == [{"round": 1}, {"round": 2, "dice": None}]
    begin_rounds(tmp_path, [])
    assert (tmp_path / "rounds.jsonl").read_bytes() == b""


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        append_round(tmp_path / "gone", {"round": 1})


def test_a_messages_size_is_that_of_its_bytes() -> None:
    payload = bytes(range(256)) * 100
    size = message_bytes(RecordDict({"a": ArrayRecord({"x": Array("uint8", (25_600,), "numpy.ndarray", payload)})}))
    assert 25_600 < size < 25_700


def test_what_krum_left_out_did_not_count() -> None:
    """It has a share of nought: what its update lost on the way is lost with it."""
    shares = ((("a", 0.5), ("b", 0.5)), (("a", 1.0), ("b", 0.0)))
    history = [
        {"round": number, "sites": [{"site": site, "share": share} for site, share in told]}
        for number, told in enumerate(shares, start=1)
    ]
    assert last_counted(history) == {"a": 2, "b": 1}
