"""The all-MLP decoder of SegFormer3D.

As published, each stage's map is projected to one width, brought to the grid of stage 1, concatenated, fused by a
pointwise layer, and classified. A pointwise linear map commutes with trilinear interpolation (whose weights sum to 1),
so here each stage is fused at its own resolution and the sums are interpolated: the same numbers at a fraction of the
arithmetic, and no concatenated map in memory. Shape suffixes: see `segformer3d.layers`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segformer3d.config import ModelConfig, Triple
from segformer3d.layers import apply_norm, make_norm, upsample_channels_last


class Projection(nn.Module):
    """One stage's way into the fusion: linear, layer norm."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BDHWC: Tensor) -> Tensor:
        """(B, D, H, W, channels) to (B, D, H, W, width)."""
        y_BDHWC: Tensor = self.norm(self.linear(x_BDHWC))
        return y_BDHWC


class Decoder(nn.Module):
    """Stage maps in, logits on the grid of stage 1 out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.decoder_head_embedding_dim
        self.width = width
        self.strides = config.patch_stride
        self.projections = nn.ModuleList(Projection(channels, width) for channels in config.embed_dims)
        self.fuse = nn.Linear(width * len(config.embed_dims), width, bias=False)
        self.fuse_norm = make_norm(config.norm, width)
        self.dropout = nn.Dropout(config.decoder_dropout)
        self.classify = nn.Linear(width, config.num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, D_i, H_i, W_i, C_i), finest first, to logits (B, classes, D_1, H_1, W_1)."""
        fused_BDHWC = self._fused(maps)
        features_BDHWC = self.dropout(F.relu(apply_norm(self.fuse_norm, fused_BDHWC)))
        logits_BDHWK: Tensor = self.classify(features_BDHWC)
        return logits_BDHWK.movedim(-1, 1)

    def _fused(self, maps: Sequence[Tensor]) -> Tensor:
        """The sum over stages, coarse to fine; the fusion weight holds the coarsest stage first, as published."""
        size = maps[0].shape[1:4]
        weights = reversed(torch.split(self.fuse.weight, self.width, dim=1))
        total: Tensor | None = None
        factor: Triple = (1, 1, 1)
        for index, (map_BDHWC, weight) in enumerate(zip(maps, weights, strict=True)):
            if index > 0:
                factor = _times(factor, self.strides[index])
            part_BDHWC = F.linear(self.projections[index](map_BDHWC), weight)
            part_BDHWC = upsample_channels_last(part_BDHWC, factor, size)
            total = part_BDHWC if total is None else total + part_BDHWC
        assert total is not None, "a configuration has at least one stage"
        return total


def _times(a: Triple, b: Triple) -> Triple:
    return (a[0] * b[0], a[1] * b[1], a[2] * b[2])
