"""What the patients of a site have spent in privacy: one append-only file, written before each training starts.

`ledger.jsonl` has one JSON object a line, and each holds the SHA-256 of the line before it:

- "open", the first: a random salt, and the cohort as salted digests;
- "members": patients, or cases of known patients, that came later;
- "spend": the run, the round, the mechanism that is about to run and the digest of the question that asked for it;
- "release": the digest of the reply that left the site (for the reader; it costs nothing).

`ledger.jsonl.head` beside it holds the number and the digest of the last line, so that a ledger that lost its end, or
is gone, is refused.

A spend is charged to every patient of the ledger, whether or not he or she took part: patients who come later inherit
all that was spent before. Runs and folders have no budget of their own, so renaming them resets nothing.

What two files cannot show: that both were removed, or both replaced by older copies that fit each other, or that a
patient is in a second ledger somewhere else. This is why a site notes each spend in its audit trail, too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from client.limits import RefusalError
from client.privacy.accounting import Event, spent
from client.privacy.cohort import Cohort, unknown
from client.privacy.ledger_file import (
    REMEDY,
    Found,
    LedgerError,
    create_ledger,
    find_ledger,
    locked,
    mend,
    plain_time,
    write_at_end,
    write_head,
)
from client.privacy.ledger_lines import MEMBERS, RELEASE, SPEND, Contents, merged, rounded_up, write_line
from client.site import LEDGER

__all__ = ["LEDGER", "BudgetError", "Ledger", "LedgerError", "read_ledger"]

_BACKWARD = timedelta(seconds=120)  # a clock is set right by seconds; more than this is a wrong clock


class BudgetError(RefusalError):
    """A training would pass the site's limit; nothing was charged. The text holds settings and epsilons, no patient."""


def _now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """An open ledger: nobody else can charge it meanwhile. Made by `Ledger.open`."""

    def __init__(self, path: Path, found: Found, clock: Callable[[], datetime]) -> None:
        self._path, self._contents, self._clock = path, found.contents, clock
        self._writable = True

    @classmethod
    @contextmanager
    def open(cls, path: Path, cohort: Cohort, clock: Callable[[], datetime] = _now) -> Iterator["Ledger"]:
        """Open the ledger of a cohort for as long as the block lasts, and make it where there is none.

        Args:
            path: of the ledger; its `.head` and its `.lock` are beside it.
            cohort: all patients that the training draws from.
            clock: the time, with its time zone.

        Raises:
            LedgerError: it is in use, damaged or of another cohort, or the clock runs backwards.
            StorageError: it cannot be written.
        """
        path = path.resolve()  # two names of one file have one lock
        with locked(path):
            found = find_ledger(path) or create_ledger(path, cohort, clock())
            mend(path, found)
            ledger = cls(path, found, clock)
            try:
                ledger._enrol(cohort)
                yield ledger
            finally:
                ledger._writable = False

    @property
    def contents(self) -> Contents:
        """All that it says now."""
        return self._contents

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything that was ever charged, the steps of each mechanism added up."""
        return self._contents.events

    def spent(self, delta: float) -> float:
        """The epsilon that every patient has spent at this delta, over all runs."""
        return self._contents.spent(delta)

    def charge(
        self,
        run: str,
        round: int,  # noqa: A002
        event: Event,
        question: str,
        limit: float | None,
        delta: float,
    ) -> float:
        """Charge a training that is about to start; when this returns, the spend is on disk.

        Args:
            run: its name.
            round: of the run, from 1.
            event: what the training will run.
            question: digest of the message that asks for it, 64 hexadecimal digits.
            limit: the epsilon that the patients may come to over all runs; None for no limit.
            delta: of the limit.

        Returns:
            The epsilon that the patients have come to with this training.

        Raises:
            BudgetError: it would pass the limit; nothing was charged.
            LedgerError: the ledger cannot be believed, or the clock runs backwards; nothing may be trained.
            StorageError: it cannot be written; nothing may be trained.
        """
        after = spent(merged([*self.events, event]), delta)
        if limit is not None and not after <= limit:  # not "after > limit": an epsilon that is NaN is refused, too
            before, told = rounded_up(self.spent(delta)), rounded_up(after)
            raise BudgetError(
                f"round {round} of run {run} would bring its patients' epsilon over all runs from {before} to {told} "
                f"at delta {delta:g}, and the site's limit is {limit:g}"
            )
        self._append(SPEND, run=run, round=round, event=event.to_json(), question=question)
        return after

    def note_release(self, run: str, round: int, reply: str) -> None:  # noqa: A002
        """Write down that a finished reply with this digest leaves the site. It costs nothing.

        Raises:
            LedgerError, StorageError: as `charge`.
        """
        self._append(RELEASE, run=run, round=round, reply=reply)

    def _enrol(self, cohort: Cohort) -> None:
        """See to it that the ledger knows every patient of the cohort, and every case."""
        members = cohort.seal(self._contents.salt)
        if all(member.digests.isdisjoint(self._contents.known) for member in members):
            raise LedgerError(
                f"the ledger {self._path} belongs to another cohort; give new patients a ledger of their own: "
                "set ledger = ... in site.toml"
            )
        newcomers = unknown(members, self._contents.known)
        if newcomers:
            self._append(MEMBERS, members=[member.to_json() for member in newcomers])

    def _append(self, kind: str, **fields: Any) -> None:
        """Add a line and move the head to it; both are on disk when this returns."""
        self._check_untouched()
        line = write_line(self._contents, kind, self._time(), fields)
        after = self._contents.after(line)  # what could not be read again is not written
        self._writable = False  # if this fails, only opening the ledger again finds out what is on the disk
        write_at_end(self._path, line)
        write_head(self._path, after)
        self._contents, self._writable = after, True

    def _time(self) -> datetime:
        now, last = self._clock(), self._contents.time
        if now < last - _BACKWARD:
            raise LedgerError(
                f"the clock runs backwards: it says {plain_time(now)}, and the last line of {self._path} was written "
                f"at {plain_time(last)}; set this computer's clock (the ledger takes no line before that time)"
            )
        return now

    def _check_untouched(self) -> None:
        """That the disk still holds what was read: nothing was removed, replaced or written by something else."""
        if not self._writable:
            raise LedgerError(f"{self._path} was closed, or writing it failed; open it again")
        now = find_ledger(self._path)
        if now is None or now.unfinished or now.behind or now.contents.digest != self._contents.digest:
            raise LedgerError(f"{self._path} was changed by something else while it was in use; {REMEDY}")


def read_ledger(path: Path) -> Found:
    """Read and check a ledger, also while a training holds it open.

    Raises:
        LedgerError: there is none, it cannot be read, or it is damaged.
    """
    found = find_ledger(path.resolve())
    if found is None:
        raise LedgerError(f"there is no ledger {path}; a site makes it when it first trains with privacy")
    return found
