"""What lies in the folder of a deployed run, for whoever wants to know how far it is.

federation.json                 its settings
submitted.json                  Flower's id of every submission
state-0007.safetensors          its state after round 7, the newest two; see `server.state`
progress.json                   what it does now, written anew at every event
outcome.json                    once, when it is over: with a reason when it stopped, without when it is complete

A run without an outcome whose process is gone was cut off, and is submitted again.
"""

import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segformer3d.errors import ConfigurationError
from server.federation import FederationSettings

SETTINGS_FILE, SUBMITTED_FILE = "federation.json", "submitted.json"
PROGRESS_FILE, OUTCOME_FILE = "progress.json", "outcome.json"
PREPARING, TRAINING, MEASURING, DONE = "preparing", "training", "measuring", "done"
_STATE = re.compile(r"state-(\d{4,})\.safetensors")


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

    def is_alive(self) -> bool:
        """Whether the process that plays the rounds is there."""
        try:
            return b"flwr-serverapp" in Path(f"/proc/{self.process}/cmdline").read_bytes()
        except OSError:
            return False


def read_progress(folder: Path) -> Progress | None:
    """How far a run is; None before it began."""
    values = _read(folder / PROGRESS_FILE)
    return None if values is None else Progress(**values)


def read_outcome(folder: Path) -> tuple[bool, str | None]:
    """Whether a run is over, and why it stopped if it did."""
    values = _read(folder / OUTCOME_FILE)
    return (False, None) if values is None else (True, values["reason"])


def read_submissions(folder: Path) -> list[int]:
    """Flower's ids of a run, one a submission."""
    found: list[int] | None = _read(folder / SUBMITTED_FILE)
    return found or []


def read_settings(folder: Path) -> FederationSettings:
    """The settings that a run was submitted with.

    Raises:
        ConfigurationError: they are missing or damaged.
    """
    try:
        return FederationSettings.from_json(json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{folder} holds no settings of a run that can be read ({error})") from error


def state_path(folder: Path, round_number: int) -> Path:
    """Where the state after this round belongs."""
    return folder / f"state-{round_number:04d}.safetensors"


def states(folder: Path) -> list[Path]:
    """The files of all states in a run folder, the oldest first."""
    return sorted((path for path in folder.glob("state-*") if _STATE.fullmatch(path.name)), key=round_of)


def newest_state(folder: Path) -> Path | None:
    """The file of the newest state in a run folder, or None when there is none."""
    return max(states(folder), key=round_of, default=None)


def round_of(state: Path) -> int:
    """The round after which a state was written, by its file's name."""
    match = _STATE.fullmatch(state.name)
    return int(match.group(1)) if match else -1


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
