"""Weights of the published SegFormer3D under our names, and back.

The published code writes four pasted stages, calls a layer norm `bn`, and writes linear maps as convolutions. The
numbers are the same; this file is the one place that knows both spellings.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segformer3d.config import ModelConfig
from segformer3d.errors import CheckpointError

_RULES: tuple[tuple[str, str], ...] = (
    (r"segformer_encoder\.embed_(\d+)\.patch_embeddings\.", r"stages.{0}.embed."),
    (r"segformer_encoder\.embed_(\d+)\.norm\.", r"stages.{0}.embed_norm."),
    (r"segformer_encoder\.norm(\d+)\.", r"stages.{0}.norm."),
    (r"segformer_encoder\.tf_block(\d+)\.", r"stages.{0}.blocks."),
    (r"segformer_decoder\.linear_c(\d+)\.proj\.", r"decoder.projections.{0}.linear."),
    (r"segformer_decoder\.linear_c(\d+)\.bn\.", r"decoder.projections.{0}.norm."),
    (r"segformer_decoder\.linear_fuse\.0\.", r"decoder.fuse."),
    (r"segformer_decoder\.linear_fuse\.1\.", r"decoder.fuse_norm."),
    (r"segformer_decoder\.linear_pred\.", r"decoder.classify."),
)
_INNER: tuple[tuple[str, str], ...] = (
    (".attention.proj.", ".attention.project."),
    (".attention.sr.", ".attention.reduce."),
    (".attention.sr_norm.", ".attention.reduce_norm."),
    (".mlp.fc1.", ".feed_forward.expand."),
    (".mlp.fc2.", ".feed_forward.contract."),
    (".mlp.dwconv.dwconv.", ".feed_forward.depthwise."),
    (".mlp.dwconv.bn.", ".feed_forward.norm."),
)
_FLATTENED = (".attention.reduce.weight", "decoder.fuse.weight", "decoder.classify.weight")


def is_published(names: Mapping[str, Tensor]) -> bool:
    """Whether these names are spelled the published way, with or without a wrapper's `module.` in front."""
    return any(_strip(name).startswith("segformer_encoder.") for name in names)


def translate_name(published: str) -> str:
    """Our name of a published parameter or buffer.

    Raises:
        CheckpointError: the published model has no such name.
    """
    name = _strip(published)
    for pattern, ours in _RULES:
        match = re.match(pattern, name)
        if match:
            stage = int(match.group(1)) - 1 if match.groups() else 0
            name = ours.format(stage) + name[match.end() :]
            break
    else:
        raise CheckpointError(f"the published SegFormer3D has no weight called {published!r}")
    for theirs, mine in _INNER:
        name = name.replace(theirs, mine)
    return name


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under our names and shapes; the values are not changed."""
    ours = {}
    for published, value in state.items():
        name = translate_name(published)
        ours[name] = value.flatten(1) if name.endswith(_FLATTENED) and value.ndim > 1 else value
    return ours


def infer_config(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a published state dict implies, for the published strides.

    Strides and paddings leave no trace in weights: they are taken as published unless `known` says otherwise. Heads are
    taken as embedding width / 32, at least 1, which is the published rule of the full size.

    Raises:
        CheckpointError: a weight that every SegFormer3D has is missing, or has too few axes.
        ConfigurationError: the weights' shapes contradict each other, or `known` holds what is no model setting.
    """
    named = {translate_name(name): value for name, value in state.items()}
    try:
        implied = _implied(named)
    except KeyError as missing:
        raise CheckpointError(f"it has no {missing.args[0]}") from None
    except (IndexError, ZeroDivisionError):
        raise CheckpointError("its weights do not have a SegFormer3D's shapes") from None
    return ModelConfig.from_json({**implied, **known})


def _implied(named: Mapping[str, Tensor]) -> dict[str, Any]:
    stages = max(1, sum(1 for name in named if re.fullmatch(r"stages\.\d+\.embed\.weight", name)))
    embeds = [named[f"stages.{i}.embed.weight"] for i in range(stages)]
    expands = [named[f"stages.{i}.blocks.0.feed_forward.expand.weight"] for i in range(stages)]
    head = named["decoder.classify.weight"]
    return {
        "in_channels": embeds[0].shape[1],
        "num_classes": head.shape[0],
        "embed_dims": [embed.shape[0] for embed in embeds],
        "num_heads": [max(1, embed.shape[0] // 32) for embed in embeds],
        "mlp_ratios": [expand.shape[0] // expand.shape[1] for expand in expands],
        "depths": [len({n.split(".")[3] for n in named if n.startswith(f"stages.{i}.blocks.")}) for i in range(stages)],
        "sr_ratios": [_reduction(named.get(f"stages.{i}.blocks.0.attention.reduce.weight")) for i in range(stages)],
        "patch_kernel_size": [_axes(embed) for embed in embeds],
        "patch_padding": [tuple(k // 2 for k in _axes(embed)) for embed in embeds],
        "decoder_head_embedding_dim": head.shape[1],
    }


def _strip(name: str) -> str:
    return name.removeprefix("module.")


def _axes(weight: Tensor) -> tuple[int, int, int]:
    return (weight.shape[2], weight.shape[3], weight.shape[4])


def _reduction(weight: Tensor | None) -> tuple[int, int, int]:
    return (1, 1, 1) if weight is None else _axes(weight)
