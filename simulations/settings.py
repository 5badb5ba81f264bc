"""The settings of a simulated federation: one frozen, validated value; its defaults are the recommended run."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from client.exchange.settings import PLAIN, named_exchange
from client.privacy.settings import PrivacySettings
from segformer3d.errors import ConfigurationError
from segformer3d.patients import check_pattern
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task, adjust, choose_task
from server.federation import model_settings
from server.strategies.strategy import Strategy, check_exchange, check_private, strategy_from_json
from simulations.partitions import PARTITIONS
from simulations.scenarios import Scenario, get_scenario

ENGINES = ("local", "ray")
LONGEST_DEADLINE = 30 * 86400.0  # seconds


@dataclass(frozen=True)
class SimulationSettings:
    """What `segfed simulate` is asked to do. Every field is an option of the command and a key of its TOML file.

    Attributes:
        data: a dataset folder to be split into sites; None writes synthetic hospitals.
        task: the task's name, or a TOML file; None takes it from the dataset.
        sites: hospitals, 1 to 1000.
        rounds: rounds of federated averaging.
        local_epochs: passes over a site's training cases in a round.
        partition: how cases are dealt to sites: "iid", "quantity" (unequal sizes) or "intensity" (by raw scale).
        scenario: how the hospitals differ, a name of `simulations.scenarios.SCENARIOS`, which then says how cases are
            dealt; None leaves them alike but for the partition.
        engine: "local" (worker processes of this machine) or "ray" (Flower's simulation engine).
        seed: of everything random.
        held_out: share of the cases that no site gets, in (0, 1); the final model is measured on them.
        leave_out_published: whether cases that a published protocol holds out are used nowhere; else they are what is
            held out, if all are there.
        minimum_sites: a round needs this many good replies; None asks for more than half of the sites, and for as many
            as the strategy needs.
        round_deadline: seconds after which a round closes with the replies that are there.
        parallel: sites that compute at the same time; None takes the cores of this machine.
        device: "auto", "cpu", "cuda" or "cuda:N".
        epsilon: differential privacy: what the run may cost each patient of each site; None trains without.
        delta: the chance that this promise fails; None lets the number of patients say.
        patient_pattern: what of a case's name is the patient, a regular expression, where patients have several cases
            and the dataset does not say whose they are; all cases of a patient go to one site.
        start: a model file whose weights the run begins with; None begins with random ones.
        exchange: how updates and models travel: "fp32" (as they are) or one of `client.exchange.settings.EXCHANGES`.
        compare: also train every site alone and all data pooled, with the same budget of samples.
        training: settings of local training.
        model: changes to the task's model, by the names of `ModelConfig`.
        grid: changes to the task itself (`patch`, `spacing`, `intensity`, `flip_axes`).
        privacy: more settings of privacy, by the names of `PrivacySettings`.
        strategy: how sites train and updates become the next model.

    Raises:
        ConfigurationError: a value breaks its rule.
    """

    data: Path | None = None
    task: str | None = None
    sites: int = 4
    rounds: int = 30
    local_epochs: int = 1
    partition: str = "iid"
    scenario: str | None = None
    engine: str = "local"
    seed: int = 0
    held_out: float = 0.2
    leave_out_published: bool = False
    minimum_sites: int | None = None
    round_deadline: float = 3600.0
    parallel: int | None = None
    device: str = "auto"
    epsilon: float | None = None
    delta: float | None = None
    patient_pattern: str | None = None
    start: Path | None = None
    exchange: str = PLAIN
    compare: bool = False
    training: TrainingSettings = field(default_factory=TrainingSettings)
    model: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Any] = field(default_factory=dict)
    privacy: Mapping[str, Any] = field(default_factory=dict)
    strategy: Strategy = field(default_factory=Strategy)

    def __post_init__(self) -> None:
        for name, low, high in _WHOLE:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not low <= value <= high):
                raise ConfigurationError(f"{option(name)} must be a whole number in [{low}, {high}], got {value!r}")
        for name, known in (("partition", tuple(PARTITIONS)), ("engine", ENGINES)):
            if getattr(self, name) not in known:
                raise ConfigurationError(
                    f"{option(name)} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if self.scenario is not None:
            self._check_scenario(get_scenario(self.scenario))
        if type(self.held_out) not in (int, float) or not 0 < self.held_out < 1:
            raise ConfigurationError(f"--held-out must be in (0, 1), got {self.held_out!r}")
        if type(self.leave_out_published) is not bool:
            raise ConfigurationError(f"leave_out_published must be true or false, got {self.leave_out_published!r}")
        if type(self.round_deadline) not in (int, float) or not 1 <= self.round_deadline <= LONGEST_DEADLINE:
            raise ConfigurationError(f"--round-deadline must be 1 second to 30 days, got {self.round_deadline!r}")
        if self.minimum_sites is not None and self.minimum_sites > self.sites:
            raise ConfigurationError(
                f"--minimum-sites ({self.minimum_sites}) cannot be more than --sites ({self.sites})"
            )
        if self.epsilon is None and (self.delta is not None or self.privacy):
            raise ConfigurationError("settings of privacy need an --epsilon: what the run may cost each patient")
        self._check_strategy(private=self.privacy_of(None) is not None)
        if self.patient_pattern is not None:
            check_pattern(self.patient_pattern)

    def _check_strategy(self, *, private: bool) -> None:
        if self.sites < self.strategy.fewest_sites:
            raise ConfigurationError(
                f"the strategy {self.strategy.name} needs {self.strategy.fewest_sites} sites or more"
                f"{self.strategy.why_fewest}, got --sites {self.sites}"
            )
        if self.needed_sites < self.strategy.fewest_sites:
            raise ConfigurationError(
                f"the strategy {self.strategy.name} needs {self.strategy.fewest_sites} good replies a round"
                f"{self.strategy.why_fewest}, got --minimum-sites {self.minimum_sites}"
            )
        check_exchange(self.strategy, named_exchange(self.exchange))
        if private:
            check_private(self.strategy)

    def _check_scenario(self, scenario: Scenario) -> None:
        if self.partition != "iid":
            raise ConfigurationError(f"--scenario {self.scenario} says how cases are dealt; leave --partition out")
        if self.sites < scenario.fewest_sites:
            raise ConfigurationError(
                f"--scenario {self.scenario} needs --sites {scenario.fewest_sites} or more, got {self.sites}"
            )

    @property
    def dealt(self) -> str:
        """How cases are dealt: the partition, which a scenario decides."""
        return self.partition if self.scenario is None else get_scenario(self.scenario).partition

    @property
    def hostile_sites(self) -> tuple[str, ...]:
        """The names of the sites that the scenario makes hostile."""
        hostile = self.scenario is not None and get_scenario(self.scenario).hostile
        return (f"site-{self.sites}",) if hostile else ()

    @property
    def needed_sites(self) -> int:
        """How many good replies a round needs."""
        usual = max(self.sites // 2 + 1, self.strategy.fewest_sites)
        return self.minimum_sites if self.minimum_sites is not None else usual

    @property
    def at_once(self) -> int:
        """How many sites compute at the same time."""
        return min(self.sites, self.parallel if self.parallel is not None else cores())

    def resolve_task(self) -> Task:
        """The task, with the changes of `model` and `grid`.

        Raises:
            ConfigurationError: an unknown task or a change that breaks a rule.
            DataError: the task cannot be told from the dataset.
        """
        name = "phantom" if self.task is None and self.data is None else self.task
        model = model_settings(self.model, private=self.epsilon is not None)
        return adjust(choose_task(name, self.data), model, self.grid)

    def privacy_of(self, patients: int | None) -> PrivacySettings | None:
        """The privacy that is asked for, of sites with this many patients at the least; None in a run without.

        Raises:
            ConfigurationError: a value breaks its rule.
        """
        return PrivacySettings.of_run(vars(self), patients)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values; `from_json` is its inverse."""
        paths = {name: getattr(self, name) for name in ("data", "start")}
        return {**asdict(self), **{name: path and str(path.resolve()) for name, path in paths.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SimulationSettings":
        """Rebuild settings from `to_json` or from a TOML file.

        Raises:
            ConfigurationError: an unknown name, or a value that breaks its rule.
        """
        known = [item.name for item in fields(cls)]
        plain = {name.replace("-", "_"): value for name, value in values.items()}
        unknown = sorted(set(plain) - set(known))
        if unknown:
            raise ConfigurationError(f"unknown setting {unknown[0]!r}; known are {', '.join(known)}")
        for name in ("training", "model", "grid", "privacy"):
            if not isinstance(plain.get(name, {}), Mapping):
                raise ConfigurationError(f"{name} must be a table of settings, got {plain[name]!r}")
        if "strategy" in plain:
            plain["strategy"] = strategy_from_json(plain["strategy"])
        if "training" in plain:
            plain["training"] = TrainingSettings.from_json(plain["training"])
        for name in ("data", "start"):
            if plain.get(name) is not None:
                plain[name] = Path(plain[name])
        return cls(**plain)


def option(name: str) -> str:
    """A setting as the command line spells it."""
    return "--" + name.replace("_", "-")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_WHOLE = (
    ("sites", 1, 1000),
    ("rounds", 1, 100_000),
    ("local_epochs", 1, 1000),
    ("seed", 0, 2**31 - 1),
    ("minimum_sites", 1, 1000),
    ("parallel", 1, 1024),
)
