"""A record whose lines prove their order: every way to change it is found."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer3d.audit import START, AuditError, append_record, verify
from segformer3d.files import StorageError


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    for number in range(5):
        append_record(path, kind="train", round=number, bytes=10 * number)
    return path


def test_what_was_written_hangs_together(record: Path) -> None:
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(5))
    assert lines[0]["before"] == START
    last = append_record(record, kind="end")
    assert verify(record).digest == last
    assert verify(record).lines == 6


def test_an_empty_record_hangs_together(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").touch()
    assert verify(tmp_path / "audit.jsonl").lines == 0


def test_every_change_is_found(record: Path) -> None:
    lines = record.read_bytes().splitlines(keepends=True)
    changes = {
        "changed": [lines[0], lines[1].replace(b'"bytes": 10', b'"bytes": 11'), *lines[2:]],
        "removed": [*lines[:2], *lines[3:]],
        "the first removed": lines[1:],
        "added": [*lines[:2], lines[1], *lines[2:]],
        "moved": [lines[1], lines[0], *lines[2:]],
        "cut": [*lines[:4], lines[4][:-5]],
        "no object": [*lines[:2], b"[]\n", *lines[2:]],
        "garbage": [*lines[:2], b"\xff\x00\n", *lines[2:]],
    }
    for what, changed in changes.items():
        record.write_bytes(b"".join(changed))
        with pytest.raises(AuditError):
            print(what, verify(record))


@given(data=st.data())
def test_every_changed_byte_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "one.jsonl"
    path.unlink(missing_ok=True)
    for number in range(3):
        append_record(path, round=number)
    content = bytearray(path.read_bytes())
    last = content.rindex(b"\n", 0, -1)  # the last line has nothing after it that would vouch for it
    place = data.draw(st.integers(0, last))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(AuditError):
        verify(path)


def test_nothing_is_added_to_a_damaged_record(record: Path) -> None:
    record.write_bytes(record.read_bytes()[:-7])
    with pytest.raises(AuditError, match="segfed audit verify"):
        append_record(record, kind="train")


def test_processes_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(_append_many, path, name) for name in "abc"]:
            done.result()
    assert verify(path).lines == 60


def _append_many(path: Path, name: str) -> None:
    for number in range(20):
        append_record(path, writer=name, number=number)


def test_a_record_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="cannot read"):
        verify(tmp_path / "none.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        append_record(tmp_path / "file" / "audit.jsonl", kind="x")
