"""The small parts that the encoder and the decoder share.

Legend of the shape suffixes used in the network: B batch, D depth, H height, W width (voxels of the grid at hand),
C channels, N = D·H·W tokens, M tokens after spatial reduction, h heads. Feature maps are (B, D, H, W, C), contiguous:
seen as (B, C, D, H, W) that is PyTorch's `channels_last_3d`, so token layers and convolutions share them uncopied.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segformer3d.config import Triple


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the last axis of any map, also where a channel has one value only.

    A single value per channel has no variance. PyTorch refuses it in training; here such a map is normalised by the
    running statistics and leaves them as they are, so that one small volume is a legal training batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (..., C) per channel."""
        flat_NC = x.reshape(-1, x.shape[-1])
        if self.training and flat_NC.shape[0] == 1:
            y_NC = F.batch_norm(flat_NC, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        else:
            y_NC = super().forward(flat_NC)
        return y_NC.view(x.shape)


class GroupNorm(nn.GroupNorm):
    """Group norm over the last axis of a (B, ..., C) map: each volume is normalised by itself alone.

    Batch norm couples the volumes of a batch, which differential privacy does not allow; this is its replacement.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(8, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (B, ..., C) per volume and group of channels."""
        # torch.group_norm, because nn's refuses a group of one value, which a very small volume may have.
        return torch.group_norm(x.movedim(-1, 1), self.num_groups, self.weight, self.bias, self.eps).movedim(1, -1)


def make_norm(kind: str, channels: int) -> nn.Module:
    """The norm named in `ModelConfig.norm`, for a channels-last map."""
    return BatchNorm(channels) if kind == "batch" else GroupNorm(channels)


def conv_channels_last(x_BDHWC: Tensor, conv: nn.Conv3d) -> Tensor:
    """Apply a convolution to a channels-last map; returns a channels-last map."""
    y_BCDHW: Tensor = conv(x_BDHWC.movedim(-1, 1))
    return y_BCDHW.movedim(1, -1).contiguous()


def pad_to_multiple(x_BDHWC: Tensor, multiple: Triple) -> Tensor:
    """Zero-pad the end of each axis up to a multiple, so that a strided layer sees every voxel."""
    missing = [-size % m for size, m in zip(x_BDHWC.shape[1:4], multiple, strict=True)]
    if not any(missing):
        return x_BDHWC
    return F.pad(x_BDHWC, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))


def upsample(x_BCDHW: Tensor, factor: Triple, size: Sequence[int]) -> Tensor:
    """Trilinear interpolation by whole factors (align_corners=False), cropped to `size` (depth, height, width).

    Scaling by the stride and cropping, rather than scaling to `size`, keeps every voxel of a size that is no multiple
    of the stride where the same voxel of a multiple would lie. Trilinear interpolation is one small matrix per axis; as
    matrix products it is several times as fast on CPUs, backwards above all, as the generic kernel.
    """
    if factor == (1, 1, 1):
        return x_BCDHW[:, :, : size[0], : size[1], : size[2]]
    B, C, D, H, W = x_BCDHW.shape
    to_depth, to_height, to_width = (
        _interpolation(n, f, m).to(x_BCDHW) for n, f, m in zip((D, H, W), factor, size, strict=True)
    )
    x_BCDHW = x_BCDHW @ to_width.T
    x_BCDHW = to_height @ x_BCDHW
    return (to_depth @ x_BCDHW.reshape(B, C, D, -1)).view(B, C, *size)


def upsample_channels_last(x_BDHWC: Tensor, factor: Triple, size: Sequence[int]) -> Tensor:
    """`upsample` for a channels-last map, without a change of layout."""
    if factor == (1, 1, 1):
        return x_BDHWC[:, : size[0], : size[1], : size[2]]
    B, D, H, W, C = x_BDHWC.shape
    to_depth, to_height, to_width = (
        _interpolation(n, f, m).to(x_BDHWC) for n, f, m in zip((D, H, W), factor, size, strict=True)
    )
    x_BDHWC = to_width @ x_BDHWC
    x_BDHWC = to_height @ x_BDHWC.reshape(B, D, H, -1)
    return (to_depth @ x_BDHWC.reshape(B, D, -1)).view(B, *size, C)


@lru_cache(maxsize=256)
def _interpolation(length: int, factor: int, size: int) -> Tensor:
    """The (size, length) matrix of linear interpolation by `factor` with half-voxel centres and clamped ends."""
    with torch.inference_mode(False):  # cached: a tensor born in inference mode could not serve training later
        return _interpolation_matrix(length, factor, size)


def _interpolation_matrix(length: int, factor: int, size: int) -> Tensor:
    position = ((torch.arange(size, dtype=torch.float64) + 0.5) / factor - 0.5).clamp(0, length - 1)
    lower = position.floor().long()
    upper = (lower + 1).clamp(max=length - 1)
    share = (position - lower).to(torch.float32)
    matrix = torch.zeros(size, length)
    rows = torch.arange(size)
    matrix[rows, lower] += 1 - share
    matrix[rows, upper] += share
    return matrix


def init_published(module: nn.Module) -> None:
    """The published initialisation: N(0, 2 / fan_out) for convolutions, truncated normal 0.02 for linear layers."""
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return  # a skeleton has nothing to draw
    if isinstance(module, nn.Conv3d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Conv3d | nn.Linear) and module.bias is not None:
        torch.nn.init.zeros_(module.bias)
