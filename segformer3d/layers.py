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

Norm = nn.BatchNorm1d | nn.GroupNorm


def make_norm(kind: str, channels: int) -> Norm:
    """The norm named in `ModelConfig.norm`.

    Batch norm couples the volumes of a batch, which differential privacy does not allow; group norm replaces it there.
    Both are PyTorch's own classes, not classes derived from them: privacy validators know layers by their exact type.
    """
    return nn.BatchNorm1d(channels) if kind == "batch" else nn.GroupNorm(math.gcd(8, channels), channels)


def apply_norm(norm: Norm, x: Tensor) -> Tensor:
    """Normalise a channels-last map (B, ..., C), down to a single value per channel or group.

    One value has no variance, and PyTorch refuses it in training. Batch norm then uses the running statistics and
    leaves them as they are; a group of one value becomes 0. So one small volume is a legal training batch.
    """
    if isinstance(norm, nn.GroupNorm):
        return _group_norm(norm, x)
    flat_NC = x.reshape(-1, x.shape[-1])
    if norm.training and flat_NC.shape[0] == 1:
        y_NC = F.batch_norm(flat_NC, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    else:
        y_NC = norm(flat_NC)
    return y_NC.view(x.shape)


def _group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """The CPU's backward kernel for channels-last maps crashes where the norm is trained and nothing below it is."""
    if x.device.type == "cpu" and torch.is_grad_enabled() and norm.weight.requires_grad and not x.requires_grad:
        plain = torch.group_norm(x.movedim(-1, 1), norm.num_groups, None, None, norm.eps).movedim(1, -1)
        return torch.addcmul(norm.bias, plain, norm.weight)
    return torch.group_norm(x.movedim(-1, 1), norm.num_groups, norm.weight, norm.bias, norm.eps).movedim(1, -1)


def as_affine(norm: Norm) -> tuple[Tensor, Tensor] | None:
    """The scale and shift (C) that a batch norm is in evaluation; None for a norm that looks at its input."""
    if isinstance(norm, nn.GroupNorm) or norm.training or norm.running_mean is None or norm.running_var is None:
        return None
    scale_C = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale_C, norm.bias - norm.running_mean * scale_C


def conv_channels_last(x_BDHWC: Tensor, conv: nn.Conv3d) -> Tensor:
    """Apply a convolution to a channels-last map; returns a channels-last map."""
    x_BCDHW = x_BDHWC.movedim(-1, 1)
    few_channels = 3 < conv.in_channels < 16
    if few_channels and x_BCDHW.device.type == "cpu" and torch.is_grad_enabled():
        y_BCDHW = _conv_by_pairs(x_BCDHW, conv)
    else:
        y_BCDHW = conv(x_BCDHW)
    return y_BCDHW.movedim(1, -1).contiguous()


def _conv_by_pairs(x_BCDHW: Tensor, conv: nn.Conv3d) -> Tensor:
    """A convolution as the sum over pairs of input channels.

    The CPU's gradient kernel for the weight is quick up to three input channels, and from there up to where channels
    fill a vector register it is six times slower: at 128³ voxels of four contrasts it would take 92 ms instead of 15.
    """
    y_BCDHW: Tensor | None = None
    for x_pair, weight in zip(torch.split(x_BCDHW, 2, dim=1), torch.split(conv.weight, 2, dim=1), strict=True):
        bias = conv.bias if y_BCDHW is None else None
        part = F.conv3d(x_pair, weight, bias, conv.stride, conv.padding)
        y_BCDHW = part if y_BCDHW is None else y_BCDHW + part
    assert y_BCDHW is not None, "a convolution has input channels"
    return y_BCDHW


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
        interpolation(n, f, m).to(x_BCDHW) for n, f, m in zip((D, H, W), factor, size, strict=True)
    )
    x_BCDHW = x_BCDHW @ to_width.T
    x_BCDHW = to_height @ x_BCDHW
    return (to_depth @ x_BCDHW.reshape(B, C, D, -1)).view(B, C, *size)


def upsample_planes(x_BDHWC: Tensor, factor: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """`upsample` of a channels-last map along height and width only; contiguous."""
    _, _, H, W, C = x_BDHWC.shape
    B, D = x_BDHWC.shape[:2]
    to_height, to_width = (interpolation(n, f, m).to(x_BDHWC) for n, f, m in zip((H, W), factor, size, strict=True))
    x_BDHWC = to_width @ x_BDHWC
    return (to_height @ x_BDHWC.reshape(B, D, H, -1)).view(B, D, *size, C)


@lru_cache(maxsize=256)
def interpolation(length: int, factor: int, size: int) -> Tensor:
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
