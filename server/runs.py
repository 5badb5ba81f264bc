"""Runs of a coordinator: begun, submitted to Flower, submitted again when they were cut off, stopped."""

import json
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from client.weights import weights_of
from segformer3d.errors import ConfigurationError, FederationError
from segformer3d.files import write_json
from segformer3d.fit import initial_model
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import adjust, get_task
from server.control import Control
from server.coordinator import Coordinator
from server.deployed import SETTINGS_FILE, read_settings
from server.federation import FederationSettings
from server.progress import OUTCOME_FILE, PROGRESS_FILE, read_outcome, read_progress
from server.state import begin, newest_state, write_state

SUBMITTED_FILE = "submitted.json"
MOST_SUBMISSIONS = 100
_PLAIN = (
    "rounds",
    "local_epochs",
    "seed",
    "minimum_sites",
    "round_deadline_s",
    "prepare_deadline_s",
    "again_s",
    "pace",
)
_TABLES = ("training", "model", "grid")


def read_federation_file(path: Path) -> FederationSettings:
    """A federation file: `task`, the settings of a federation, and the tables [training], [model] and [grid].

    Raises:
        ConfigurationError: it is missing, no TOML, or a value breaks its rule.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    try:
        return _federation(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _federation(values: Mapping[str, Any]) -> FederationSettings:
    known = ("task", *_PLAIN, *_TABLES)
    for name in sorted(set(values) - set(known)):
        raise ConfigurationError(f"unknown setting {name!r}; known are {', '.join(known)}")
    for name in _TABLES:
        if not isinstance(values.get(name, {}), Mapping):
            raise ConfigurationError(f"{name} must be a table: [{name}]")
    if not isinstance(values.get("task"), str):
        raise ConfigurationError('it needs a task, for example task = "hippocampus"')
    task = adjust(get_task(values["task"]), values.get("model", {}), values.get("grid", {}))
    training = TrainingSettings.from_json(values.get("training", {}))
    return FederationSettings(task, training=training, **{n: values[n] for n in _PLAIN if n in values})


def new_run(coordinator: Coordinator, settings: FederationSettings) -> str:
    """Make a run folder with its settings and its first state; returns the run's name.

    Raises:
        StorageError: it cannot be written.
    """
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{settings.task.name}"
    folder = coordinator.run_folder(name)
    write_json(folder / SETTINGS_FILE, settings.to_json())
    write_state(folder, begin(name, settings, weights_of(initial_model(settings.task, settings.seed))))
    return name


def submit(control: Control, coordinator: Coordinator, run: str) -> None:
    """Have Flower play a run from its newest state. What Flower still holds of it is stopped first.

    Raises:
        ConfigurationError: there is no such run.
        FederationError: it is complete or going on, or SuperLink refuses.
    """
    folder = coordinator.run_folder(run)
    read_settings(folder)
    submitted = _submissions(folder)
    if submitted and control.is_going_on(submitted[-1]) and _is_alive(folder):
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
    submitted = _submissions(folder)
    if not submitted or read_outcome(folder)[0]:
        raise FederationError(f"run {run} is not going on")
    write_json(folder / OUTCOME_FILE, {"reason": "stopped by the coordinator"})
    control.stop(submitted[-1])


def resume_cut_off(control: Control, coordinator: Coordinator) -> list[str]:
    """Submit again every run that was submitted, is not over, and whose process is gone; returns their names."""
    again = []
    for folder in sorted(coordinator.runs.glob(f"*/{SUBMITTED_FILE}")):
        run = folder.parent
        if not read_outcome(run)[0] and _was_cut_off(control, run):
            submit(control, coordinator, run.name)
            again.append(run.name)
    return again


def _was_cut_off(control: Control, folder: Path) -> bool:
    """Flower notices after a minute that a process is gone; the process itself can be looked for at once."""
    submitted = _submissions(folder)
    if len(submitted) >= MOST_SUBMISSIONS:
        return False
    return not control.is_going_on(submitted[-1]) or (read_progress(folder) is not None and not _is_alive(folder))


def _is_alive(folder: Path) -> bool:
    progress = read_progress(folder)
    if progress is None:
        return True  # it was submitted and has not begun yet
    command = Path(f"/proc/{progress.process}/cmdline")
    try:
        return b"flwr-serverapp" in command.read_bytes()
    except OSError:
        return False


def _submissions(folder: Path) -> list[int]:
    try:
        found: list[int] = json.loads((folder / SUBMITTED_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return found
