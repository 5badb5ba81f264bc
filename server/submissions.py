"""Runs in Flower's hands: submitted, submitted again when they were cut off, stopped."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segformer3d.errors import ConfigurationError, FederationError
from segformer3d.files import write_json
from server.control import Control
from server.coordinator import Coordinator
from server.run_folder import (
    OUTCOME_FILE,
    PROGRESS_FILE,
    SUBMITTED_FILE,
    newest_state,
    read_outcome,
    read_progress,
    read_settings,
    read_submissions,
    round_of,
)

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
MOST_IN_VAIN = 12  # some twenty minutes


def submit(control: Control, coordinator: Coordinator, run: str) -> None:
    """Have Flower play a run from its newest state. What Flower still holds of it is stopped first.

    Raises:
        ConfigurationError: there is no such run.
        FederationError: it is complete or going on, or SuperLink refuses.
        StorageError: the disk is full.
    """
    folder = coordinator.run_folder(run)
    read_settings(folder)
    submitted = read_submissions(folder)
    if submitted and control.is_going_on(submitted[-1]) and not _has_died(folder):
        raise FederationError(f"run {run} is going on; see: segfed server status {coordinator.folder}")
    if read_outcome(folder) == (True, None):
        raise FederationError(f"run {run} is complete; its models are in {folder}")
    if newest_state(folder) is None:
        raise ConfigurationError(f"{folder} holds no state of a run")
    for earlier in submitted[-1:]:
        control.stop(earlier)
    for of_earlier in (OUTCOME_FILE, PROGRESS_FILE):
        (folder / of_earlier).unlink(missing_ok=True)
    write_json(folder / SUBMITTED_FILE, [*submitted, control.start(run)])


def stop(control: Control, coordinator: Coordinator, run: str) -> None:
    """Stop a run; it can be resumed.

    Raises:
        FederationError: it is over or was never submitted, or SuperLink cannot be reached.
    """
    folder = coordinator.run_folder(run)
    submitted = read_submissions(folder)
    if not submitted or read_outcome(folder)[0]:
        raise FederationError(f"run {run} is not going on")
    write_json(folder / OUTCOME_FILE, {"reason": "stopped by the coordinator"})
    control.stop(submitted[-1])


@dataclass(frozen=True)
class _Attempts:
    """How often a run was submitted again since this round, and when it may be once more."""

    round: int
    count: int = 0
    next: float = 0.0

    @property
    def pause(self) -> float:
        return min(SHORTEST_PAUSE_S * 2.0**self.count, LONGEST_PAUSE_S)


class CutOffRuns:
    """Submits runs again that were submitted, are not over, and whose process is gone.

    A run that dies again and again without completing a round is submitted after pauses that grow, and at last stopped.

    Args:
        coordinator: whose runs.
        say: told in one line what happens to them.
    """

    def __init__(self, coordinator: Coordinator, say: Callable[[str], None]) -> None:
        self._coordinator = coordinator
        self._say = say
        self._attempts: dict[str, _Attempts] = {}

    def resume(self, control: Control) -> None:
        """Look after all runs once.

        Raises:
            FederationError: SuperLink does not answer.
            StorageError: the disk is full.
        """
        for submitted in sorted(self._coordinator.runs.glob(f"*/{SUBMITTED_FILE}")):
            folder = submitted.parent
            if not read_outcome(folder)[0] and _was_cut_off(control, folder):
                self._resume(control, folder)

    def _resume(self, control: Control, folder: Path) -> None:
        state = newest_state(folder)
        round_number = round_of(state) if state else -1
        made = self._attempts.get(folder.name)
        if made is None or made.round != round_number:
            made = _Attempts(round_number)
        if time.monotonic() < made.next:
            return
        if made.count >= MOST_IN_VAIN:
            self._give_up(folder, made)
            return
        self._attempts[folder.name] = _Attempts(round_number, made.count + 1, time.monotonic() + made.pause)
        submit(control, self._coordinator, folder.name)
        self._say(f"run {folder.name} was cut off and goes on from its last complete round")

    def _give_up(self, folder: Path, made: _Attempts) -> None:
        reason = (
            f"its program died {made.count} times without completing round {made.round + 1}; "
            f"see logs/executor.log, then go on with: segfed server run --resume {folder.name}"
        )
        write_json(folder / OUTCOME_FILE, {"reason": reason})
        del self._attempts[folder.name]
        self._say(f"run {folder.name} is stopped: {reason}")


def _was_cut_off(control: Control, folder: Path) -> bool:
    """Flower notices after a minute that a process is gone; the process itself can be looked for at once."""
    return _has_died(folder) or not control.is_going_on(read_submissions(folder)[-1])


def _has_died(folder: Path) -> bool:
    """Whether the process began and is gone; one that has not begun yet lives."""
    progress = read_progress(folder)
    return progress is not None and not progress.is_alive()
