"""The settings of a federation: one frozen, validated, JSON-able value, the coordinator's side of a run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from client.exchange.settings import PLAIN, named_exchange
from client.privacy.settings import PrivacySettings
from segformer3d.errors import ConfigurationError
from segformer3d.model_description import read_notes
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task, task_from_json
from server.strategies.strategy import Strategy, check_exchange, check_private, strategy_from_json

_WHOLE = (
    ("rounds", 1, 100_000),
    ("local_epochs", 1, 10_000),
    ("seed", 0, 2**32 - 1),
    ("minimum_sites", 1, 10_000),
)
_SECONDS = ("round_deadline_s", "prepare_deadline_s")
_AGAIN, _PACE = "again_s", "pace"
_LONGEST_S = 30 * 24 * 3600.0
# What may change when a run is resumed: it decides who takes part and how long one waits, not what is computed.
_NOT_OF_THE_RUN = ("minimum_sites", _AGAIN, _PACE, *_SECONDS)


@dataclass(frozen=True)
class FederationSettings:
    """Settings of a federation.

    Attributes:
        task: what is segmented in what, and the shape of the model.
        rounds: how often the sites train and their updates are averaged, 1 to 100000.
        local_epochs: passes over a site's training cases in one round, 1 to 10000.
        seed: of everything random, 0 to 2**32 - 1.
        minimum_sites: a round with fewer good replies stops the run, 1 to 10000.
        round_deadline_s: seconds that a round waits for its sites, above 0, at most 30 days.
        prepare_deadline_s: seconds that the run waits for the first sites and their data, likewise.
        again_s: seconds that a round waits for a site that failed and is asked again, when all others are done: from 0
            (it is not asked again) to 30 days. A site whose program was killed needs two minutes.
        pace: how many times as long as in its last rounds a site may take for a round (two minutes at least), from 1 to
            1000, or 0: only `round_deadline_s` holds.
        training: how a site trains.
        privacy: what differential privacy the run has, or None. A private run has group norm, `privacy.local_steps`
            instead of `local_epochs`, and nothing is measured at the sites.
        strategy: how sites train and updates become the next model.
        exchange: how updates and models travel, by a name of `client.exchange.settings`.

    Raises:
        ConfigurationError: a value breaks its rule.
    """

    task: Task
    rounds: int = 20
    local_epochs: int = 1
    seed: int = 0
    minimum_sites: int = 2
    round_deadline_s: float = 3600.0
    prepare_deadline_s: float = 3600.0
    again_s: float = 300.0
    pace: float = 4.0
    training: TrainingSettings = field(default_factory=TrainingSettings)
    privacy: PrivacySettings | None = None
    strategy: Strategy = field(default_factory=Strategy)
    exchange: str = PLAIN

    def __post_init__(self) -> None:
        exchange = named_exchange(self.exchange)
        if self.privacy is not None and self.task.model.norm == "batch":
            raise ConfigurationError(
                'batch norm makes patients depend on each other, so a private run cannot have it; say norm = "group"'
            )
        if not isinstance(self.task, Task) or not isinstance(self.training, TrainingSettings):
            raise ConfigurationError("a federation takes a Task as its task and TrainingSettings as its training")
        if not isinstance(self.strategy, Strategy):
            raise ConfigurationError("a federation takes a Strategy as its strategy")
        for name, low, high in _WHOLE:
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigurationError(f"{name} must be a whole number in [{low}, {high}], got {value!r}")
        for name in _SECONDS:
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value <= _LONGEST_S:
                raise ConfigurationError(f"{name} must be in (0, {_LONGEST_S:.0f}] seconds, got {value!r}")

        if type(self.again_s) not in (int, float) or not 0 <= self.again_s <= _LONGEST_S:
            raise ConfigurationError(f"{_AGAIN} must be in [0, {_LONGEST_S:.0f}] seconds, got {self.again_s!r}")

        if type(self.pace) not in (int, float) or not (self.pace == 0 or 1 <= self.pace <= 1000):
            raise ConfigurationError(f"{_PACE} must be 0 or in [1, 1000], got {self.pace!r}")
        if self.privacy is not None:
            check_private(self.strategy)
        check_exchange(self.strategy, exchange)
        if self.minimum_sites < self.strategy.fewest_sites:
            raise ConfigurationError(
                f"the strategy {self.strategy.name} needs {self.strategy.fewest_sites} good replies a round"
                f"{self.strategy.why_fewest}, so "
                f"minimum_sites must be {self.strategy.fewest_sites} or more, got {self.minimum_sites}"
            )

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values; `from_json` is its inverse."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        privacy = None if self.privacy is None else self.privacy.to_json()
        tables = {"task": self.task.to_json(), "training": self.training.to_json()}
        return plain | tables | {"privacy": privacy, "strategy": self.strategy.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "FederationSettings":
        """Rebuild settings that `to_json` wrote.

        Raises:
            ConfigurationError: a name is unknown or missing, or a value breaks its rule.
        """
        known = [item.name for item in fields(cls)]
        for name in sorted(set(values) - set(known)):
            raise ConfigurationError(f"unknown federation setting {name!r}; known are {', '.join(known)}")
        tables = (values.get("task"), values.get("training", {}), values.get("privacy") or {})
        if not all(isinstance(table, Mapping) for table in tables):
            raise ConfigurationError("a federation needs the settings of its task, training and privacy as tables")
        training = TrainingSettings.from_json(values.get("training", {}))
        privacy = None if values.get("privacy") is None else PrivacySettings.from_json(values["privacy"])
        strategy = strategy_from_json(values.get("strategy", "fedavg"))
        read = {"task": task_from_json(values["task"]), "training": training, "privacy": privacy, "strategy": strategy}
        return cls(**{**values, **read})

    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers of a run, as plain JSON values: a resumed run must have the same."""
        kept = {name: value for name, value in self.to_json().items() if name not in _NOT_OF_THE_RUN}
        plain: dict[str, Any] = json.loads(json.dumps(kept))
        return plain


_CENTRES = {
    "mean": "mean of the",
    "median": "median of the",
    "trimmed-mean": "trimmed mean of the",
    "krum": "mean of the chosen",
    "norm-bound": "bounded mean of the",
}


def norms_kept(strategy: Strategy) -> str:
    """Whose norms a model of FedBN's has, in words: the file that everyone gets has those of no single site."""
    averaged = " (in the last model averaged over rounds)" if strategy.average else ""
    statistics = "" if strategy.centre in ("mean", "median") else " (running statistics: the median)"
    kept = "each of which has kept its own and measured its validation cases with them"
    return f"the {_CENTRES[strategy.centre]} sites'{averaged}{statistics}, {kept}"


def model_notes(settings: FederationSettings) -> dict[str, str]:
    """What the notes of every model file of a run must say of how it came to be."""
    return {"norms": norms_kept(settings.strategy)} if settings.strategy.rule.local_norms else {}


def told_of_start(start: Path) -> str | None:
    """What to know of a model file before a run begins with it: whose its norms are, if FedBN has left them.

    Raises:
        CheckpointError: the file is damaged.
    """
    whose = read_notes(start).get("norms")
    return whose and f"{start}, which the run begins with, was trained with FedBN: its norms are {whose}"


def model_settings(asked: Mapping[str, Any], *, private: bool) -> Mapping[str, Any]:
    """Changes to a task's model, with group norm where a private run says nothing about the norm."""
    return {"norm": "group", **asked} if private else asked
