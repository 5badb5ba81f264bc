"""Files are whole or absent, whatever happens while they are written."""

import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from segformer3d.files import StorageError, write_atomic, write_bytes, write_json, write_parts, write_text


def test_text_and_json_arrive(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "note.txt", "Grüße\n")
    assert (tmp_path / "a" / "b" / "note.txt").read_bytes() == "Grüße\n".encode()
    write_json(tmp_path / "value.json", {"dice": [0.5, None], "site": "a"})
    assert json.loads((tmp_path / "value.json").read_text()) == {"dice": [0.5, None], "site": "a"}


def test_nan_is_not_json_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", {"dice": math.nan})
    assert not list(tmp_path.iterdir())


def test_an_older_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    reader = path.open()
    write_text(path, "new")
    with reader:
        assert reader.read() == "old", "a reader who was there first still sees the whole old file"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("a bug")])
def test_whatever_stops_the_writer_nothing_half_written_stays(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "model.bin"
    write_bytes(path, b"old")

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(StorageError if isinstance(error, OSError) else type(error)):
        write_atomic(path, write)
    assert [file.name for file in tmp_path.iterdir()] == ["model.bin"]
    assert path.read_bytes() == b"old"


def test_a_full_disk_is_one_clear_line(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "model.bin"
    write_bytes(path, b"old")
    with full_disk(1000), pytest.raises(StorageError, match="File too large; free space") as refused:
        write_bytes(path, bytes(2000))
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [file.name for file in tmp_path.iterdir()] == ["model.bin"]
    assert path.read_bytes() == b"old"


def test_a_folder_in_the_way_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"cannot write .*taken"):
        write_text(tmp_path / "taken", "text")
    write_text(tmp_path / "file", "text")
    with pytest.raises(StorageError, match="cannot write"):
        write_text(tmp_path / "file" / "below", "text")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "taken"]


@pytest.mark.parametrize("name", ["label.nii.gz", "model.safetensors", "plain"])
def test_the_temporary_file_has_the_endings_of_the_real_one_and_is_hidden(tmp_path: Path, name: str) -> None:
    seen = []

    def write(temporary: Path) -> None:
        seen.append(temporary)
        temporary.write_bytes(b"x")

    write_atomic(tmp_path / name, write)
    assert seen[0].name.endswith(f".{name}")
    assert seen[0].name.startswith(".")
    assert seen[0].parent == tmp_path


def test_files_have_the_rights_that_the_user_asked_for(tmp_path: Path) -> None:
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        try:
            write_text(tmp_path / "note.txt", "text")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "note.txt").stat().st_mode) == 0o666 & ~mask


def test_many_threads_may_write_at_once(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: write_text(tmp_path / f"{i % 5}.txt", str(i % 5) * 1000), range(200)))
        assert os.umask(0o027) == 0o027, "the process keeps its mask"
    finally:
        os.umask(before)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {f"{i}.txt": str(i) * 1000 for i in range(5)}
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("old", [b"", b"short", b"something longer than what comes"])
def test_a_file_may_take_the_room_of_one_that_is_not_needed(tmp_path: Path, old: bytes) -> None:
    write_bytes(tmp_path / "old", old)
    room = (tmp_path / "old").stat().st_ino
    write_parts(tmp_path / "new", [b"what ", memoryview(b"is "), b"written"], over=tmp_path / "old")
    assert [file.name for file in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new").read_bytes() == b"what is written"
    assert (tmp_path / "new").stat().st_ino == room


def test_a_file_that_was_to_be_written_over_is_never_taken_for_the_new_one(tmp_path: Path) -> None:
    write_bytes(tmp_path / "old", b"old")

    def parts() -> Iterator[bytes]:
        yield b"ne"
        raise OSError(5, "Input/output error")

    with pytest.raises(StorageError, match="Input/output error"):
        write_parts(tmp_path / "new", parts(), over=tmp_path / "old")
    assert not list(tmp_path.iterdir())
