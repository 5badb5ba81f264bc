"""Writes down how far a deployed run is, for `server.run_folder` to read."""

import time
from dataclasses import asdict
from pathlib import Path

from client.contract import PrepareReply
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
from server.run_folder import DONE, MEASURING, OUTCOME_FILE, PROGRESS_FILE, TRAINING, Progress


def _readiness(site: PrepareReply) -> str:
    promise = site.promise
    if promise is None:
        return "ready"
    return f"ready; the run will cost each of its patients epsilon {promise.epsilon:.3f} at delta {promise.delta:g}"


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
                now.sites = {site.site: _readiness(site) for site in sites}
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
                now.bytes_down += record.bytes_down
                now.bytes_up += record.bytes_up
                if record.round == now.rounds:
                    now.phase, now.since = MEASURING, time.time()
            case RunFinished(record):
                now.phase = DONE
                now.bytes_down += record.bytes_down
                now.bytes_up += record.bytes_up
        self._write()

    def close(self, reason: str | None) -> None:
        """The run is over; `reason` says why it stopped early."""
        write_json(self._folder / OUTCOME_FILE, {"reason": reason})

    def _write(self) -> None:
        write_json(self._folder / PROGRESS_FILE, asdict(self._progress))
