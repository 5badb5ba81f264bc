"""Append-only records whose lines prove their order: each holds the SHA-256 of the line before it.

A line that was changed, removed, added or moved breaks the chain from there on. The chain cannot show that lines are
missing at the end; whoever wants to prove that keeps the last digest elsewhere.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from segformer3d.errors import SegfedError
from segformer3d.files import storage_errors

START = "0" * 64  # the digest before the first line
_LAST = 64 * 1024  # bytes at the end of a file that surely hold its last line


class AuditError(SegfedError):
    """A record does not hang together; the text names the first line that is wrong."""


@dataclass(frozen=True)
class Verified:
    """A record that hangs together: how many lines it has, and the digest of the last."""

    lines: int
    digest: str


def append_record(path: Path, **fields: Any) -> str:
    """Append a line with the time (UTC), these plain values and the digest of the line before; returns its own digest.

    The line is synced to disk before this returns. Processes that append to one file take turns.

    Raises:
        StorageError: it cannot be written.
        AuditError: the file does not end with a whole line: it was damaged.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file, _locked(file):
            number, digest = _end(path, file)
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            text = json.dumps({"line": number + 1, "time": now, **fields, "before": digest}, allow_nan=False).encode()
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())
            return hashlib.sha256(text).hexdigest()


def verify(path: Path) -> Verified:
    """Check a record from its first line to its last.

    Raises:
        AuditError: it does not hang together, or there is none.
    """
    number, digest = 0, START
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                digest = _next(path, number, digest, line)
    except OSError as error:
        raise AuditError(f"cannot read {path}: {error.strerror}") from error
    return Verified(number, digest)


def verify_and_print(file: str) -> None:
    """Say that a file hangs together.

    Raises:
        AuditError: it does not, or there is none.
    """
    found = verify(Path(file))
    print(f"{found.lines} lines hang together; the digest of the last is {found.digest}")


def _next(path: Path, number: int, before: str, line: bytes) -> str:
    """The digest of a line that follows as it should."""
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not line.endswith(b"\n") or not isinstance(values, dict):
        raise AuditError(f"line {number} of {path} is damaged; everything before it is as it was written")
    if values.get("line") != number or values.get("before") != before:
        raise AuditError(
            f"line {number} of {path} does not follow the one before it: a line was changed, removed, added or moved"
        )
    return hashlib.sha256(line[:-1]).hexdigest()


def _end(path: Path, file: BinaryIO) -> tuple[int, str]:
    """Number and digest of the last line."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0, START
    file.seek(max(0, size - _LAST))
    *_, last = file.read().splitlines(keepends=True)
    try:
        number = json.loads(last)["line"] if last.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        number = None
    if type(number) is not int:
        raise AuditError(f"{path} does not end with a whole line; check it with: segfed audit verify {path}")
    return number, hashlib.sha256(last[:-1]).hexdigest()


@contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
