"""A privacy ledger on disk: two files, a lock, and what a crash may leave of them.

A line is synced before its head is written, the head is synced before the append returns, and training starts after
that. Hence, after a crash at any moment, the ledger is at most one line ahead of its head; that line is kept when it is
whole (a crash spends) and cut off when it was never finished (its training never started). Anything else is damage.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.privacy.cohort import Cohort
from client.privacy.ledger_lines import (
    EMPTY,
    OPEN,
    SALT_BYTES,
    Contents,
    LineError,
    read_digest,
    read_whole_number,
    write_line,
)
from segformer3d.errors import SegfedError
from segformer3d.files import storage_errors, write_atomic, write_json

REMEDY = (
    "a ledger is never edited: restore it and its .head together from a backup made after the site's last private run"
)


class LedgerError(SegfedError):
    """A ledger is damaged, in use, of another cohort, or cannot be believed; the text says which, and what to do."""


@dataclass(frozen=True)
class Found:
    """A ledger as it lies on disk.

    Attributes:
        contents: what its whole lines say.
        size: bytes of its whole lines.
        unfinished: bytes behind them, of a line whose training never started.
        behind: whether the head still speaks of the line before the last, or is not there yet.
    """

    contents: Contents
    size: int
    unfinished: int
    behind: bool


def find_ledger(path: Path) -> Found | None:
    """Read and check ledger and head, also while a training writes them; None where neither is.

    Raises:
        LedgerError: either cannot be read, or they do not fit together.
    """
    head, content = _read_both(path)
    if content is None:
        if head is None:
            return None
        raise _damaged(path, f"it is gone, and only its head {head_of(path).name} is left")
    size = content.rfind(b"\n") + 1
    contents = _read_lines(path, content[:size])
    if head is None:
        return _without_head(path, Found(contents, size, len(content) - size, behind=True))
    number, digest = _parse_head(path, head)
    if number > contents.lines:
        raise _damaged(path, f"lines are missing at its end: its head speaks of line {number}")
    if number < contents.lines - 1:
        raise _damaged(path, f"its head speaks of line {number}, and more than one line stands behind that")
    found = Found(contents, size, len(content) - size, behind=number < contents.lines)
    if digest != (contents.before if found.behind else contents.digest):
        raise _damaged(path, f"line {number} is not the one that its head speaks of")
    if found.behind and found.unfinished:
        raise _damaged(path, f"behind line {contents.lines} stands what no crash leaves there")
    return found


def create_ledger(path: Path, cohort: Cohort, time: datetime) -> Found:
    """A ledger with its first line, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    members = [member.to_json() for member in cohort.seal(salt)]
    line = write_line(EMPTY, OPEN, time, {"salt": salt.hex(), "members": members})

    def write(temporary: Path) -> None:
        temporary.chmod(0o600)  # whoever can read it can try ids of patients
        temporary.write_bytes(line + b"\n")

    write_atomic(path, write)
    _sync_folder(path)
    return Found(EMPTY.after(line), len(line) + 1, 0, behind=True)  # as one whose writer was stopped before the head


def mend(path: Path, found: Found) -> None:
    """Finish what a crash left unfinished, so that ledger and head agree.

    Raises:
        StorageError: they cannot be written.
    """
    if found.unfinished:
        with storage_errors(path), path.open("rb+") as file:
            file.truncate(found.size)
            os.fsync(file.fileno())
    if found.behind:
        with storage_errors(path), path.open("rb+") as file:
            os.fsync(file.fileno())  # a line that only the memory has must not get a head
        write_head(path, found.contents)


def write_at_end(path: Path, line: bytes) -> None:
    """Append a line, given without its newline, and sync it.

    Raises:
        StorageError: the disk is full or the file cannot be written; a part of the line may be in it.
    """
    text = line + b"\n"
    # Unbuffered: after an error, closing the file must not write the rest.
    with storage_errors(path), path.open("ab", buffering=0) as file:
        while text:
            text = text[file.write(text) :]
        os.fsync(file.fileno())


def write_head(path: Path, contents: Contents) -> None:
    """Have the head speak of the last line of these contents; it is on disk when this returns.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(head_of(path), {"line": contents.lines, "digest": contents.digest})
    _sync_folder(path)


def head_of(path: Path) -> Path:
    """The head of a ledger."""
    return path.with_name(path.name + ".head")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep a ledger for this process (and this thread of it) as long as the block lasts.

    Raises:
        LedgerError: somebody else has it.
        StorageError: there is no place for the lock.
    """
    place = path.with_name(path.name + ".lock")
    with storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.open("ab")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LedgerError(f"another run is using the privacy ledger {path}; wait for it to end") from error
        except OSError as error:
            raise LedgerError(f"cannot lock {place}: {error.strerror}; keep the ledger on a local disk") from error
        try:
            yield
        finally:  # closing the file is not enough: a process that was forked meanwhile has it open, too
            fcntl.flock(lock, fcntl.LOCK_UN)


def _read_both(path: Path) -> tuple[bytes | None, bytes | None]:
    """Head and ledger of one moment, although a training may write meanwhile."""
    while True:
        head, content = _read(head_of(path)), _read(path)
        if head == _read(head_of(path)):
            return head, content


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror}; it must be a file that you may read") from error


def _read_lines(path: Path, content: bytes) -> Contents:
    contents = EMPTY
    for line in content.split(b"\n")[:-1]:
        try:
            contents = contents.after(line)
        except LineError as error:
            raise _damaged(path, f"line {contents.lines + 1} {error}") from error
    if contents.lines == 0:
        raise _damaged(path, "it has no whole line")
    return contents


def _without_head(path: Path, found: Found) -> Found:
    """A ledger whose writer was stopped before the first head. No other may lack one: its end could be missing."""
    if found.contents.lines != 1 or found.unfinished:
        raise _damaged(path, f"its head {head_of(path).name} is missing, so that lines may be missing at its end")
    return found


def _parse_head(path: Path, text: bytes) -> tuple[int, str]:
    """Number and digest of the line that a head speaks of."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or set(values) != {"line", "digest"}:
            raise LineError
        return read_whole_number(values["line"]), read_digest(values["digest"])
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its head {head_of(path).name} is damaged") from error


def _damaged(path: Path, what: str) -> LedgerError:
    return LedgerError(f"the privacy ledger {path} is damaged: {what}; {REMEDY}")


def _sync_folder(path: Path) -> None:
    with storage_errors(path):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def plain_time(time: datetime) -> str:
    """A time for people."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
