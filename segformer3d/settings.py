"""How a model is trained: one frozen, validated, JSON-able value with the recommended choices as defaults."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from segformer3d.errors import ConfigurationError


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of local training.

    Attributes:
        batch_size: patches in one step.
        learning_rate: AdamW's highest, reached after the warm-up.
        weight_decay: AdamW's decoupled decay.
        warmup: share of the whole schedule in which the rate rises linearly; a half cosine to 0 follows.
        gradient_clip: largest norm of one step's gradient.
        loss: "dice_ce" (Dice plus cross-entropy) or "dice".
        augment: whether patches are rotated, scaled, mirrored and changed in contrast at random.
        foreground: share of patches centred on a voxel of a structure, where volumes are larger than the patch.

    Raises:
        ConfigurationError: a value breaks its rule.
    """

    batch_size: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    gradient_clip: float = 1.0
    loss: Literal["dice_ce", "dice"] = "dice_ce"
    augment: bool = True
    foreground: float = 0.5

    def __post_init__(self) -> None:
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise ConfigurationError(f"batch_size must be a whole number of 1 or more, got {self.batch_size!r}")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if type(value) not in (int, float) or not low <= value <= high:
                raise ConfigurationError(f"{name} must be in [{low:g}, {high:g}], got {value!r}")
        if self.loss not in ("dice_ce", "dice"):
            raise ConfigurationError(f"loss must be 'dice_ce' or 'dice', got {self.loss!r}")
        if type(self.augment) is not bool:
            raise ConfigurationError(f"augment must be true or false, got {self.augment!r}")

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainingSettings":
        """Rebuild settings that `to_json` wrote, or that a user wrote in TOML.

        Raises:
            ConfigurationError: an unknown name, or a value that breaks its rule.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigurationError(f"unknown training setting {unknown[0]!r}; known are {', '.join(known)}")
        return cls(**values)


_RANGES = (
    ("learning_rate", 1e-8, 1.0),
    ("weight_decay", 0.0, 1.0),
    ("warmup", 0.0, 0.5),
    ("gradient_clip", 1e-6, 1e6),
    ("foreground", 0.0, 1.0),
)
