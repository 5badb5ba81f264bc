"""The site's part of a strategy: one frozen, validated value that travels with every request to train."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from segformer3d.errors import ConfigurationError

MOST_PULL = 1000.0
_PULLS = ("proximal", "dynamic", "personal")


@dataclass(frozen=True)
class LocalRule:
    """How a site's training differs from plain training; the defaults change nothing.

    Attributes:
        proximal: FedProx: pull towards the weights that a round began with, in [0, 1000], see
            `client.strategies.proximal`.
        control: SCAFFOLD: gradients are corrected by control variates, see `client.strategies.scaffold`.
        dynamic: FedDyn's alpha, in [0, 1000]; 0 for none, see `client.strategies.feddyn`.
        local_norms: FedBN: normalisation layers stay the site's own, see `client.strategies.fedbn`.
        personal: Ditto's lambda, in [0, 1000]: the pull of a personal model towards the global one; 0 trains none, see
            `client.strategies.ditto`.

    Raises:
        ConfigurationError: a value breaks its rule, or two parts do not go together.
    """

    proximal: float = 0.0
    control: bool = False
    dynamic: float = 0.0
    local_norms: bool = False
    personal: float = 0.0

    def __post_init__(self) -> None:
        for name in _PULLS:
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= MOST_PULL:
                raise ConfigurationError(f"{name} of a strategy must be in [0, {MOST_PULL:g}], got {value!r}")
        for name in ("control", "local_norms"):
            if type(getattr(self, name)) is not bool:
                raise ConfigurationError(f"{name} of a strategy must be true or false, got {getattr(self, name)!r}")
        if self.control and self.dynamic:
            raise ConfigurationError("control (SCAFFOLD) and dynamic (FedDyn) both correct a site's drift; choose one")

    @property
    def remembers(self) -> bool:
        """Whether a site keeps something of its own between rounds, its optimizer's moments aside."""
        return self.follows or self.local_norms or self.personal > 0

    @property
    def follows(self) -> bool:
        """Whether what a site remembers must be of the replies that the server has used: both keep a part of a sum."""
        return self.control or self.dynamic > 0

    def to_json(self) -> dict[str, Any]:
        """The rule as plain JSON values; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "LocalRule":
        """Rebuild a rule that `to_json` wrote.

        Raises:
            ConfigurationError: a name is unknown, or a value breaks its rule.
        """
        known = [field.name for field in fields(cls)]
        for name in sorted(set(values) - set(known)):
            raise ConfigurationError(f"a strategy's rule for sites has no {name!r}; known are {', '.join(known)}")
        return cls(**values)
