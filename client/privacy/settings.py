"""The privacy that a run is asked to have: one frozen, validated, JSON-able value, `[privacy]` of a federation file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, Literal

from segformer3d.errors import ConfigurationError

MOST_DELTA = 1e-5
# What is trained in a private run unless more is asked for: noise grows with the number of parameters. The last layer,
# and of the first stage what adapts to other images: some 2,700 of 4.5 million, see docs/privacy.md.
FEW = ("stages.0.*norm*", "stages.0.*bias", "decoder.classify.*")


@dataclass(frozen=True)
class PrivacySettings:
    """Patient-level differential privacy of a run (Abadi et al., CCS 2016, with a patient as the unit).

    None of these values may depend on patients: they are known to everyone who takes part.

    Attributes:
        epsilon: what the whole run may cost each patient, above 0. A site may insist on less.
        delta: the chance that the promise fails, in (0, 1); None stands for min(1e-5, 1 / (10 patients)).
        patients: how many patients a site has at the least, 1 to 10 million: a public number, by which sums of
            gradients are divided and updates weighted. A site may publish a larger one of its own.
        sampling_rate: the chance that a patient takes part in a step, in (0, 1].
        local_steps: steps of a site in a round, 1 to 10000.
        crops: patches that are cut from a patient for a step, 1 to 1000; together they make one gradient.
        augment: whether patches are varied at random, instead of what the training settings say: it makes a patient's
            gradients differ from step to step, which costs more under noise than it gives.
        learning_rate: the highest, in (0, 1], instead of that of the training settings: few parameters take long steps.
        clip: the largest norm of a patient's gradient, above 0; with `quantile`, the one to begin with.
        quantile: None keeps `clip`; else it follows this quantile of the norms, in (0, 1), through a noisy count that
            the same epsilon pays for (Andrew et al., NeurIPS 2021).
        trainable: patterns of the names of the parameters that are trained; none trains all.
        optimizer: "sgd" (with momentum 0.9) or "adamw".
        proximal: pull towards the weights that a round began with, in [0, 1000] (Li et al., MLSys 2020); 0 for none.
        noise: "secure", from the operating system's random numbers, or "seeded", for experiments that nobody claims
            privacy for: whoever knows the seed can take the noise away.

    Raises:
        ConfigurationError: a value breaks its rule.
    """

    epsilon: float
    delta: float | None = None
    patients: int = 20
    sampling_rate: float = 1.0
    local_steps: int = 2
    crops: int = 1
    augment: bool = False
    learning_rate: float = 0.04
    clip: float = 0.2
    quantile: float | None = None
    trainable: tuple[str, ...] = FEW
    optimizer: Literal["sgd", "adamw"] = "adamw"
    proximal: float = 0.0
    noise: Literal["secure", "seeded"] = "secure"

    def __post_init__(self) -> None:
        object.__setattr__(self, "trainable", _patterns(self.trainable))
        for name, least, most in _WHOLE:
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ConfigurationError(f"privacy.{name} must be a whole number in [{least}, {most}], got {value!r}")
        for name, low, high, rule in _REAL:
            value = getattr(self, name)
            if type(value) not in (int, float) or not low < value <= high:
                raise ConfigurationError(f"privacy.{name} must be {rule}, got {value!r}")
        for name in ("delta", "quantile"):
            value = getattr(self, name)
            if value is not None and (type(value) is not float or not 0 < value < 1):
                raise ConfigurationError(f"privacy.{name} must be in (0, 1), got {value!r}")
        if type(self.proximal) not in (int, float) or not 0 <= self.proximal <= 1000:
            raise ConfigurationError(f"privacy.proximal must be in [0, 1000], got {self.proximal!r}")
        for name, known in (("noise", ("secure", "seeded")), ("optimizer", ("sgd", "adamw"))):
            if getattr(self, name) not in known:
                raise ConfigurationError(f"privacy.{name} must be one of {', '.join(known)}")
        if type(self.augment) is not bool:
            raise ConfigurationError(f"privacy.augment must be true or false, got {self.augment!r}")
        if self.delta is not None and self.delta >= 1 / self.patients:
            raise ConfigurationError(
                f"privacy.delta must be below 1 / patients = {1 / self.patients:g}, got {self.delta:g}: with more, "
                "publishing one patient whole would be within the promise"
            )

    def trains(self, parameter: str) -> bool:
        """Whether the parameter of this name is trained."""
        return not self.trainable or any(fnmatchcase(parameter, pattern) for pattern in self.trainable)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values; `from_json` is its inverse."""
        return {**asdict(self), "trainable": list(self.trainable)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "PrivacySettings":
        """Rebuild settings that `to_json` wrote, or that a user wrote in TOML.

        Raises:
            ConfigurationError: an unknown name, no epsilon, or a value that breaks its rule.
        """
        known = [field.name for field in fields(cls)]
        for name in sorted(set(values) - set(known)):
            raise ConfigurationError(f"unknown privacy setting {name!r}; known are {', '.join(known)}")
        if "epsilon" not in values:
            raise ConfigurationError("privacy needs an epsilon: what a run may cost each patient, for example 8")
        return cls(**values)

    @classmethod
    def of_run(cls, asked: Mapping[str, Any], patients: int | None = None) -> "PrivacySettings | None":
        """What a run asks for in its table `privacy` and in an `epsilon` and a `delta` beside it, which come first.

        Args:
            asked: settings of the run; of these only the three are looked at, and None is as if it were not there.
            patients: of its smallest site, where that is known; a number in the table comes first.

        Returns:
            None if it asks for nothing.

        Raises:
            ConfigurationError: `privacy` is no table, or as `from_json`.
        """
        table = asked.get("privacy")
        if not isinstance(table, Mapping | None):
            raise ConfigurationError(f"privacy must be a table of settings, got {table!r}")
        beside = {name: asked[name] for name in ("epsilon", "delta") if asked.get(name) is not None}
        if not table and not beside:
            return None
        known = {} if patients is None else {"patients": patients}
        return cls.from_json({**known, **(table or {}), **beside})


def default_delta(patients: int) -> float:
    """min(1e-5, 1 / (10 patients)): a tenth of the chance at which publishing one patient whole would be allowed."""
    return min(MOST_DELTA, 1 / (10 * patients))


def _patterns(value: object) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(v, str) and v for v in value):
        raise ConfigurationError(f"privacy.trainable must be a list of patterns of parameters' names, got {value!r}")
    return tuple(value)


_WHOLE = (("patients", 1, 10_000_000), ("local_steps", 1, 10_000), ("crops", 1, 1000))
_REAL = (
    ("epsilon", 0.0, 1e6, "above 0 (8 is weak, 1 is strong)"),
    ("sampling_rate", 0.0, 1.0, "in (0, 1]"),
    ("clip", 0.0, 1e6, "above 0"),
    ("learning_rate", 0.0, 1.0, "in (0, 1]"),
)
