"""The lines of a privacy ledger: what each kind holds, and what they say together. Nothing here touches a disk."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from client.privacy import accounting
from client.privacy.accounting import Event
from client.privacy.cohort import DIGEST, Sealed, read_sealed
from segformer3d.audit import START
from segformer3d.errors import SegfedError

OPEN, MEMBERS, SPEND, RELEASE = "open", "members", "spend", "release"
SALT_BYTES = 32
NEVER = datetime.min.replace(tzinfo=UTC)  # the time of the last line where there is none

_SALT = re.compile(rf"[0-9a-f]{{{2 * SALT_BYTES}}}")
_EVERY = {"line", "time", "kind", "before"}
_LONGEST_RUN = 200


class LineError(ValueError):
    """A line is not what a ledger holds at this place; the text says why, in half a sentence."""


@dataclass(frozen=True)
class Spend:
    """What one training was charged with, before it started.

    Attributes:
        line: number of the line, from 1.
        time: when it was written, UTC.
        run, round: of the federation.
        event: the mechanism that the training ran.
        question: digest of the message that asked for the training.
    """

    line: int
    time: datetime
    run: str
    round: int
    event: Event
    question: str


@dataclass(frozen=True)
class Release:
    """A reply that left the site.

    Attributes:
        line: number of the line, from 1.
        time: when it was written, UTC.
        run, round: of the federation.
        reply: digest of the reply.
    """

    line: int
    time: datetime
    run: str
    round: int
    reply: str


@dataclass(frozen=True)
class Contents:
    """What the lines of a ledger say, from its first on.

    Attributes:
        lines: how many there are.
        digest, before: of the last line, and of the one before it.
        opened, time: when the first and the last line were written, UTC.
        salt: of the digests of patients.
        known: all digests of patients and of their cases.
        spends, releases: in order.
    """

    lines: int = 0
    digest: str = START
    before: str = START
    opened: datetime = NEVER
    time: datetime = NEVER
    salt: bytes = b""
    known: frozenset[str] = frozenset()
    spends: tuple[Spend, ...] = ()
    releases: tuple[Release, ...] = ()

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything that was ever charged, those of one mechanism added up."""
        return merged([spend.event for spend in self.spends])

    def spent(self, delta: float) -> float:
        """The epsilon that every patient of the ledger has spent at this delta: an upper bound, over all runs."""
        return accounting.spent(self.events, delta)

    def after(self, text: bytes) -> "Contents":
        """With one more line, given without its newline.

        Raises:
            LineError: it does not follow the lines before it, or is no line of a ledger.
        """
        values = _read_values(text)
        if values.get("line") != self.lines + 1 or values.get("before") != self.digest:
            raise LineError("does not follow the one before it: a line was changed, removed, added or moved")
        kind = values.get("kind")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise LineError("is of no kind that a ledger has")
        fields, read = _KINDS[kind]
        if set(values) != _EVERY | fields:
            raise LineError(f"has other fields than a line of the kind {kind!r}")
        if (kind == OPEN) != (self.lines == 0):
            raise LineError('is out of place: the first line is of the kind "open", and no other')
        time = _read_time(values["time"])
        told = replace(self, lines=self.lines + 1, before=self.digest, digest=digest_of_line(text), time=time)
        return read(told, values)


EMPTY = Contents()


def merged(events: Sequence[Event]) -> tuple[Event, ...]:
    """The same events with the steps of each mechanism added up: what they cost together depends on no order."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        mechanism = (event.sampling_rate, event.noise_multiplier)
        steps[mechanism] = steps.get(mechanism, 0) + event.steps
    return tuple(Event(*mechanism, count) for mechanism, count in steps.items())


def write_line(contents: Contents, kind: str, time: datetime, fields: Mapping[str, Any]) -> bytes:
    """The line, without its newline, that may follow these contents."""
    told = time.astimezone(UTC).isoformat(timespec="milliseconds")
    values = {"line": contents.lines + 1, "time": told, "kind": kind, **fields, "before": contents.digest}
    return json.dumps(values, allow_nan=False).encode()


def rounded_up(value: float) -> str:
    """An upper bound for people, in thousandths: no cost looks smaller than it is."""
    return f"{math.ceil(value * 1000) / 1000:.3f}".rstrip("0").rstrip(".") if math.isfinite(value) else str(value)


def digest_of_line(text: bytes) -> str:
    """SHA-256 of a line without its newline: what the line behind it holds."""
    return hashlib.sha256(text).hexdigest()


def read_whole_number(value: object, least: int = 1) -> int:
    """A whole number of at least `least`.

    Raises:
        LineError: it is something else.
    """
    if type(value) is not int or value < least:
        raise LineError(f"must have a whole number of at least {least} here, got {value!r:.40}")
    return value


def read_digest(value: object) -> str:
    """A SHA-256 in hexadecimal digits.

    Raises:
        LineError: it is something else.
    """
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise LineError("has a digest that is not 64 hexadecimal digits")
    return value


def _read_values(text: bytes) -> dict[str, Any]:
    try:
        values = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise LineError("is damaged")
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _read_time(value: object) -> datetime:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        time = None
    if time is None or time.utcoffset() != timedelta(0):
        raise LineError("has no time in UTC")
    return time


def _read_members(values: object) -> tuple[Sealed, ...]:
    if not isinstance(values, list) or not values:
        raise LineError("names no members")
    try:
        return tuple(read_sealed(value) for value in values)
    except ValueError as error:
        raise LineError(f"has a damaged member: {error}") from error


def _read_run(values: Mapping[str, Any]) -> tuple[str, int]:
    run = values["run"]
    if not isinstance(run, str) or not run.isprintable() or not 0 < len(run) <= _LONGEST_RUN:
        raise LineError(f"must name its run in 1 to {_LONGEST_RUN} printable characters")
    return run, read_whole_number(values["round"])


def _read_event(values: object) -> Event:
    if not isinstance(values, dict):
        raise LineError("has no event")
    try:
        return Event.from_json(values)
    except SegfedError as error:
        raise LineError(f"has an event outside its rules: {error}") from error


def _add_open(contents: Contents, values: Mapping[str, Any]) -> Contents:
    if not isinstance(values["salt"], str) or not _SALT.fullmatch(values["salt"]):
        raise LineError(f"has a salt that is not {2 * SALT_BYTES} hexadecimal digits")
    return _add_members(replace(contents, opened=contents.time, salt=bytes.fromhex(values["salt"])), values)


def _add_members(contents: Contents, values: Mapping[str, Any]) -> Contents:
    members = _read_members(values["members"])
    return replace(contents, known=contents.known.union(*(member.digests for member in members)))


def _add_spend(contents: Contents, values: Mapping[str, Any]) -> Contents:
    event, question = _read_event(values["event"]), read_digest(values["question"])
    spend = Spend(contents.lines, contents.time, *_read_run(values), event, question)
    return replace(contents, spends=(*contents.spends, spend))


def _add_release(contents: Contents, values: Mapping[str, Any]) -> Contents:
    reply = read_digest(values["reply"])
    release = Release(contents.lines, contents.time, *_read_run(values), reply)
    return replace(contents, releases=(*contents.releases, release))


_Reader = Callable[[Contents, Mapping[str, Any]], Contents]
_KINDS: Mapping[str, tuple[set[str], _Reader]] = {
    OPEN: ({"salt", "members"}, _add_open),
    MEMBERS: ({"members"}, _add_members),
    SPEND: ({"run", "round", "event", "question"}, _add_spend),
    RELEASE: ({"run", "round", "reply"}, _add_release),
}
