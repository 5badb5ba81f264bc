"""The shape of a SegFormer3D: one frozen, validated, JSON-able value.

Names and defaults are those of the published model (Perera et al., "SegFormer3D: an Efficient Transformer for 3D
Medical Image Segmentation", CVPR workshops 2024). Where the paper has one number for the three axes, one number or a
(depth, height, width) triple may be given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast

from segformer3d.errors import ConfigurationError

Triple = tuple[int, int, int]
PerStage = tuple[int, ...]
Axes = int | Sequence[int]


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the names and shapes of a model's weights, and what it computes.

    Raises:
        ConfigurationError: a value breaks its rule; the text names the argument, the rule and the value.
    """

    in_channels: int = 4
    num_classes: int = 3
    embed_dims: PerStage = (32, 64, 160, 256)
    num_heads: PerStage = (1, 2, 5, 8)
    mlp_ratios: PerStage = (4, 4, 4, 4)
    depths: PerStage = (2, 2, 2, 2)
    sr_ratios: tuple[Triple, ...] = ((4, 4, 4), (2, 2, 2), (1, 1, 1), (1, 1, 1))
    patch_kernel_size: tuple[Triple, ...] = ((7, 7, 7), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    patch_stride: tuple[Triple, ...] = ((4, 4, 4), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    patch_padding: tuple[Triple, ...] = ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1))
    decoder_head_embedding_dim: int = 256
    decoder_dropout: float = 0.0
    norm: Literal["batch", "group"] = "batch"

    def __post_init__(self) -> None:
        for name in _PER_STAGE:
            object.__setattr__(self, name, tuple(_positive(name, value) for value in _stages(self, name)))
        for name in _PER_AXIS:
            object.__setattr__(self, name, tuple(triple(name, value) for value in _stages(self, name)))
        for name in ("in_channels", "num_classes", "decoder_head_embedding_dim"):
            _positive(name, getattr(self, name))
        _check_choices(self)
        _check_stages(self)

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """Rebuild a configuration that `to_json` wrote.

        Raises:
            ConfigurationError: an unknown name, or a value that breaks its rule.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigurationError(f"unknown model setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
        return cls(**values)


_PER_AXIS = ("sr_ratios", "patch_kernel_size", "patch_stride", "patch_padding")
_PER_STAGE = ("embed_dims", "num_heads", "mlp_ratios", "depths")


def triple(name: str, value: object) -> Triple:
    """One number or three as (depth, height, width), whole and not negative."""
    values = (value,) * 3 if isinstance(value, int) else value
    if not isinstance(values, Sequence) or len(values) != 3 or any(type(v) is not int or v < 0 for v in values):
        raise ConfigurationError(f"{name} takes a whole number or three of them (depth, height, width), got {value!r}")
    return cast(Triple, tuple(values))


def _stages(config: ModelConfig, name: str) -> Sequence[object]:
    value = getattr(config, name)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ConfigurationError(f"{name} takes one entry per encoder stage, got {value!r}")
    if len(value) != len(config.embed_dims):
        raise ConfigurationError(f"{name} needs {len(config.embed_dims)} entries, one per stage, got {len(value)}")
    return value


def _positive(name: str, value: object) -> int:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{name} must be whole numbers of 1 or more, got {value!r}")
    return value


def _check_choices(config: ModelConfig) -> None:
    if config.norm not in ("batch", "group"):
        raise ConfigurationError(f"norm must be 'batch' or 'group', got {config.norm!r}")
    if type(config.decoder_dropout) not in (int, float) or not 0 <= config.decoder_dropout < 1:
        raise ConfigurationError(f"decoder_dropout must be in [0, 1), got {config.decoder_dropout!r}")


def _check_stages(config: ModelConfig) -> None:
    if not config.embed_dims:
        raise ConfigurationError("embed_dims needs at least one stage")
    for stage, (width, heads) in enumerate(zip(config.embed_dims, config.num_heads, strict=True), start=1):
        if width % heads:
            raise ConfigurationError(f"embed_dims of stage {stage} ({width}) must be a multiple of its heads ({heads})")
    geometry = zip(config.patch_kernel_size, config.patch_stride, config.patch_padding, config.sr_ratios, strict=True)
    for stage, (kernel, stride, padding, reduction) in enumerate(geometry, start=1):
        if min(*kernel, *stride, *reduction) < 1:
            raise ConfigurationError(f"kernel, stride and sr_ratio of stage {stage} must be 1 or more on every axis")
        # With less padding a patch grid would not reach the end of the volume, and its last voxels would get no logits.
        if any(2 * p < k - 1 for k, p in zip(kernel, padding, strict=True)):
            raise ConfigurationError(
                f"patch_padding of stage {stage} must be at least (patch_kernel_size - 1) / 2, "
                f"got padding {padding} with kernel {kernel}"
            )
