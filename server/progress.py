"""How far a deployed run is, in two small files of its run folder that other programs read.

`progress.json` is written anew at every event; `outcome.json` appears once, when the run is over: with a reason when it
stopped, without when it is complete. A run without an outcome whose process is gone was cut off and may be resumed.
"""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segformer3d.files import write_json
from server.records import (
    Event,
    RoundFinished,
    RoundStarted,
    RunFinished,
    SiteAskedAgain,
    SiteReplied,
    SiteSetAside,
    SitesReady,
)

PROGRESS_FILE, OUTCOME_FILE = "progress.json", "outcome.json"
PREPARING, TRAINING, MEASURING, DONE = "preparing", "training", "measuring", "done"


@dataclass
class Progress:
    """What a run is doing.

    Attributes:
        process: id of the process that plays the rounds.
        phase: "preparing" (sites read their data), "training", "measuring" (the final model) or "done".
        round, rounds: the round under way, or the last one; and how many there will be.
        since: when it began (seconds since 1970); `round_seconds` holds how long finished rounds took.
        sites: by name, what each does in this round: "at work", "answered", or why it was set aside.
        bytes_down, bytes_up: sent to and received from all sites since this process began.
    """

    process: int = field(default_factory=os.getpid)
    phase: str = PREPARING
    round: int = 0
    rounds: int = 0
    since: float = field(default_factory=time.time)
    round_seconds: list[float] = field(default_factory=list)
    sites: dict[str, str] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0


class Journal:
    """Writes the files of one run.

    Args:
        folder: the run's.
        rounds: how many it has.
    """

    def __init__(self, folder: Path, rounds: int) -> None:
        self._folder = folder
        self._progress = Progress(rounds=rounds)
        (folder / OUTCOME_FILE).unlink(missing_ok=True)
        self._write()

    def note(self, event: Event) -> None:
        """Take an event down."""
        now = self._progress
        match event:
            case SitesReady(sites):
                now.sites = {site.site: "ready" for site in sites}
            case RoundStarted(number, _, sites):
                now.phase, now.round, now.since = TRAINING, number, time.time()
                now.sites = dict.fromkeys(sites, "at work")
            case SiteReplied(_, _, site, _):
                now.sites[site] = "answered"
            case SiteAskedAgain(_, what):
                now.sites[what.site] = f"asked again: {what.reason}"
            case SiteSetAside(_, what):
                now.sites[what.site] = f"set aside: {what.reason}"
            case RoundFinished(record):
                now.round_seconds.append(record.seconds)
                now.bytes_down += sum(site.bytes_down for site in record.sites)
                now.bytes_up += sum(site.bytes_up for site in record.sites)
                if record.round == now.rounds:
                    now.phase, now.since = MEASURING, time.time()
            case RunFinished():
                now.phase = DONE
        self._write()

    def close(self, reason: str | None) -> None:
        """The run is over; `reason` says why it stopped early."""
        write_json(self._folder / OUTCOME_FILE, {"reason": reason})

    def _write(self) -> None:
        write_json(self._folder / PROGRESS_FILE, asdict(self._progress))


def read_progress(folder: Path) -> Progress | None:
    """How far a run is; None before it began."""
    values = _read(folder / PROGRESS_FILE)
    return None if values is None else Progress(**values)


def read_outcome(folder: Path) -> tuple[bool, str | None]:
    """Whether a run is over, and why it stopped if it did."""
    values = _read(folder / OUTCOME_FILE)
    return (False, None) if values is None else (True, values["reason"])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return values
