"""Runs of a coordinator as they begin: the federation file, and the folder that is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from client.privacy.settings import PrivacySettings
from client.weights import weights_of
from segformer3d.checkpoint import load
from segformer3d.errors import ConfigurationError
from segformer3d.files import write_json
from segformer3d.fit import initial_model
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import adjust, named_task
from segformer3d.toml_file import read_toml
from server.coordinator import Coordinator
from server.federation import FederationSettings, model_settings
from server.run_folder import SETTINGS_FILE
from server.state import begin, write_state
from server.strategies.strategy import strategy_from_json

_PLAIN = (
    "rounds",
    "local_epochs",
    "seed",
    "minimum_sites",
    "round_deadline_s",
    "prepare_deadline_s",
    "again_s",
    "pace",
    "exchange",
)
_TABLES = ("training", "model", "grid", "privacy")
_STRATEGY = "strategy"  # a name, or a table


@dataclass(frozen=True)
class FederationFile:
    """What a federation file says: the settings, and the model that the run begins with (None: random weights)."""

    settings: FederationSettings
    start: Path | None = None


def read_federation_file(path: Path) -> FederationFile:
    """A federation file.

    It holds `task` (a name, or a TOML file beside it), a federation's settings, `strategy` (a name, or a table with a
    name and changes), and the tables [training], [model], [grid] and [privacy].

    Raises:
        ConfigurationError: it is missing, no TOML, or a value breaks its rule.
    """
    values = read_toml(path, "name a federation file (TOML)")
    start = values.pop("start", None)
    if start is not None and not isinstance(start, str):
        raise ConfigurationError(f"{path}: start must be the name of a model file, got {start!r}")
    try:
        return FederationFile(_federation(values, path.parent), None if start is None else path.parent / start)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _federation(values: Mapping[str, Any], folder: Path) -> FederationSettings:
    known = ("task", *_PLAIN, *_TABLES, _STRATEGY)
    for name in sorted(set(values) - set(known)):
        raise ConfigurationError(f"unknown setting {name!r}; known are {', '.join(known)}")
    for name in _TABLES:
        if not isinstance(values.get(name, {}), Mapping):
            raise ConfigurationError(f"{name} must be a table: [{name}]")
    if not isinstance(values.get("task"), str):
        raise ConfigurationError('it needs a task, for example task = "hippocampus"')
    privacy = PrivacySettings.from_json(values["privacy"]) if "privacy" in values else None
    model = model_settings(values.get("model", {}), private=privacy is not None)
    task = adjust(named_task(values["task"], folder), model, values.get("grid", {}))
    training = TrainingSettings.from_json(values.get("training", {}))
    plain = {name: values[name] for name in _PLAIN if name in values}
    strategy = strategy_from_json(values.get(_STRATEGY, "fedavg"))
    return FederationSettings(task, training=training, privacy=privacy, strategy=strategy, **plain)


def new_run(coordinator: Coordinator, asked: FederationFile) -> str:
    """Make a run folder with its settings and its first state; returns the run's name.

    Raises:
        CheckpointError: the model to begin with cannot be read, or is of another architecture.
        StorageError: it cannot be written.
    """
    settings = asked.settings
    model = initial_model(settings.task, settings.seed) if asked.start is None else load(asked.start)
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{settings.task.name}"
    folder = coordinator.run_folder(name)
    state = begin(name, settings, weights_of(model))
    write_json(folder / SETTINGS_FILE, settings.to_json())
    write_state(folder, state)
    return name
