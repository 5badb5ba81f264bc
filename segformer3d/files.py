"""Files that are either whole or absent.

Whatever a run leaves behind is first written under a temporary name in the same folder, synced, and then renamed, so
that a crash, a full disk or Ctrl-C never leaves half a file under a name that somebody will read.
"""

import csv
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from segformer3d.errors import SegfedError

T = TypeVar("T")
Buffer = bytes | memoryview
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.")
BUFFER = 2**20  # bytes; a model has hundreds of small tensors


class StorageError(SegfedError):
    """A file could not be written: a full disk, a missing permission, a folder in its place."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into one line that says what to do.

    Raises:
        StorageError: the body raised OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StorageError(
            f"cannot write {path}: {reason}; free space or choose another folder, then run again "
            "(nothing half-written was kept)"
        ) from error


def free_bytes(path: Path) -> int:
    """Room on the disk that a file or folder is on, or will be on."""
    place = next(place for place in (path, *path.absolute().parents) if place.exists())
    return shutil.disk_usage(place).free


def write_atomic(path: Path, write: Callable[[Path], object], over: Path | None = None) -> None:
    """Have `write` fill a temporary file beside `path`, then put it in place in one step.

    `over` is a file in the same folder that nobody needs any more. It becomes the temporary file, still holding what it
    held: writing over a large file takes a fraction of the time that finding new room for it takes.

    Raises:
        StorageError: the disk is full or the folder cannot be written; `path` is as it was before.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The whole name stays at the end: some writers, NIfTI's for one, tell the format by it.
        temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
        if over is None:
            temporary.touch(exist_ok=False)
        else:
            over.replace(temporary)
        try:
            write(temporary)
            _sync(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def in_use(place: Path) -> bool:
    """Whether there is something that must not be written into: more than an empty folder.

    What a kill has left half written of a first file counts for nothing.
    """
    if place.is_dir():
        return any(not _TEMPORARY.match(path.name) for path in place.iterdir())
    return place.exists()


def remove_half_written(folder: Path) -> None:
    """Remove what a kill has left half written in a folder and those within it, if it is there."""
    for path in folder.rglob(".*"):
        if _TEMPORARY.match(path.name):
            path.unlink(missing_ok=True)


def write_whole(place: Path, write: Callable[[Path], T]) -> T:
    """Have `write` fill a folder of another name, then give it its own: a folder that has its name is whole.

    Returns:
        What `write` returns.

    Raises:
        StorageError: it cannot be written; nothing of it is left.
    """
    unfinished = place.with_name(f"{place.name}.unfinished")
    with storage_errors(unfinished):
        if unfinished.exists():
            shutil.rmtree(unfinished)
    try:
        written = write(unfinished)
        with storage_errors(place):
            unfinished.rename(place)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return written


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def write_secret(path: Path, content: bytes) -> None:
    """A new file that only its owner can read, from its first byte on; an existing one is never written over.

    Raises:
        StorageError: it cannot be written, or is there already.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())


def write_parts(path: Path, parts: Iterable[Buffer], over: Path | None = None) -> None:
    """Write a file of several parts, one behind the other, whole or not at all; for `over` see `write_atomic`."""

    def write(temporary: Path) -> None:
        with temporary.open("r+b", buffering=BUFFER) as file:
            for part in parts:
                file.write(part)
            file.truncate()

    write_atomic(path, write, over)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, content.getvalue())


def write_json(path: Path, value: Any) -> None:
    """Write plain JSON with two-space indents, whole or not at all. NaN is not JSON and is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
