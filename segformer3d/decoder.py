"""The all-MLP decoder of SegFormer3D.

As published, each stage's map is projected to one width, brought to the grid of stage 1, concatenated, fused by a
pointwise layer, normalised, and classified. The numbers are the same here at a fraction of the arithmetic and memory:

- A pointwise linear map commutes with trilinear interpolation (whose weights sum to 1), so each stage is fused at its
  own resolution and the sums are interpolated: no concatenated map.
- The layer norm between two linear maps is a division by one number a voxel, which commutes with the second of them, so
  that the two become one beforehand (`Projection`): no map of the decoder's width before the fusion.
- In evaluation batch norm is a scale and a shift, and nothing joins one row of the fused map to another.

Shape suffixes: see `segformer3d.layers`; O is the decoder's width, K the classes, E the planes of all coarser stages,
P = W · O.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segformer3d.config import ModelConfig, Triple
from segformer3d.layers import as_affine, interpolation, make_norm, upsample_planes
from segformer3d.tail import norm_activate_linear

# Voxels of a volume that go through the end of the decoder together in evaluation: few enough for a processor's cache.
VOXELS_AT_ONCE = 4096


class Projection(nn.Module):
    """One stage's way into the fusion: a linear layer up to the decoder's width, and a layer norm.

    Let x' = (x, 1), and M the linear layer's weight and bias less their mean over the width. The centred features are
    M x' and their variance is x'ᵀ (MᵀM / width) x', a quadratic form of the narrow x'. So fuse(norm(linear(x))) is
    (fuse · gain · M) applied to x' / √(variance + ε), plus fuse · offset.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BDHWC: Tensor, fuse_OO: Tensor) -> Tensor:
        """fuse(norm(linear(x))), a map (B, D, H, W, O)."""
        # For few voxels, joining the matrices costs more than it saves. One volume's voxels decide, so that an exported
        # graph takes batches of any size.
        if x_BDHWC[0, ..., 0].numel() < fuse_OO.shape[0]:
            return F.linear(self.norm(self.linear(x_BDHWC)), fuse_OO)
        return F.linear(self.narrow(x_BDHWC), *self.fused(fuse_OO))

    def narrow(self, x_BDHWC: Tensor) -> Tensor:
        """The vector x' over the standard deviation of its features: (B, D, H, W, C + 1)."""
        with torch.autocast(x_BDHWC.device.type, enabled=False):  # a difference of squares: 16 bits are too few
            centred_OC = self._centred()
            gram_CC = centred_OC.T @ centred_OC / centred_OC.shape[0]
            x_BDHWC = F.pad(x_BDHWC.to(gram_CC.dtype), (0, 1), value=1.0)
            variance_BDHW1 = ((x_BDHWC @ gram_CC) * x_BDHWC).sum(dim=-1, keepdim=True)
            return x_BDHWC * torch.rsqrt(variance_BDHW1 + self.norm.eps)

    def fused(self, fuse_OO: Tensor) -> tuple[Tensor, Tensor]:
        """Matrix (O, C + 1) and bias (O) that a fusion comes to when it is applied to what `narrow` returns."""
        return (fuse_OO * self.norm.weight) @ self._centred(), fuse_OO @ self.norm.bias

    def _centred(self) -> Tensor:
        affine_OC = torch.cat([self.linear.weight, self.linear.bias[:, None]], dim=1)
        return affine_OC - affine_OC.mean(dim=0)


class _Parts(NamedTuple):
    """What the fused map is the sum of.

    Attributes:
        fine: the finest stage's narrow map (B, D, H, W, C + 1).
        matrix, bias: what turns it into its part of the sum (O, C + 1) and (O).
        coarse: the other stages' parts one after another, interpolated but for depth (B, E, H, P).
        depth: their interpolation along depth (D, E).
    """

    fine: Tensor
    matrix: Tensor
    bias: Tensor
    coarse: Tensor
    depth: Tensor


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
        """Maps (B, D_i, H_i, W_i, C_i), finest first, to logits (B, K, D_1, H_1, W_1)."""
        affine = as_affine(self.fuse_norm)
        if affine is None:
            fused_BDHWO = _rows(self._parts(maps, self.fuse.weight), slice(None))
            # What is dropped out must not be made again, so dropout goes the plain way.
            activation = F.relu if self.dropout.p == 0 or not self.training else self._activated
            logits_BDHWK = norm_activate_linear(fused_BDHWO, self.fuse_norm, activation, self.classify)
        else:
            scale_O, shift_O = affine
            parts = self._parts(maps, self.fuse.weight * scale_O[:, None])
            parts = parts._replace(bias=parts.bias + shift_O)
            _, D, H, W, _ = maps[0].shape
            step = max(1, VOXELS_AT_ONCE // (D * W))
            rows = (slice(start, start + step) for start in range(0, H, step))
            logits_BDHWK = torch.cat([self.classify(self._activated(_rows(parts, few))) for few in rows], dim=2)
        return logits_BDHWK.movedim(-1, 1)

    def _parts(self, maps: Sequence[Tensor], fuse_weight: Tensor) -> _Parts:
        """The fusion's weight holds the coarsest stage first, as published."""
        projections: list[Projection] = list(self.projections)  # type: ignore[arg-type]
        weights = torch.split(fuse_weight, self.width, dim=1)[::-1]
        fine_BDHWC = projections[0].narrow(maps[0])
        B, D, H, W, _ = fine_BDHWC.shape
        coarse, depth = [fine_BDHWC.new_empty(B, 0, H, W * self.width)], [fine_BDHWC.new_empty(D, 0)]
        factor: Triple = (1, 1, 1)
        for index in range(1, len(maps)):
            factor = _times(factor, self.strides[index])
            part_BDHWO = projections[index](maps[index], weights[index])
            coarse.append(upsample_planes(part_BDHWO, factor[1:], (H, W)).flatten(3))
            depth.append(interpolation(part_BDHWO.shape[1], factor[0], D).to(part_BDHWO))
        return _Parts(fine_BDHWC, *projections[0].fused(weights[0]), torch.cat(coarse, dim=1), torch.cat(depth, dim=1))

    def _activated(self, features_BDHWO: Tensor) -> Tensor:
        activated_BDHWO: Tensor = self.dropout(F.relu(features_BDHWO))
        return activated_BDHWO


def _rows(parts: _Parts, rows: slice) -> Tensor:
    """These rows (B, D, rows, W, O) of the fused map."""
    fine_BDHWO = F.linear(parts.fine[:, :, rows], parts.matrix, parts.bias)
    coarse_BEP = parts.coarse[:, :, rows].flatten(2)
    depth_BDE = parts.depth.expand(fine_BDHWO.shape[0], -1, -1)
    return torch.baddbmm(fine_BDHWO.flatten(2), depth_BDE, coarse_BEP).view(fine_BDHWO.shape)


def _times(a: Triple, b: Triple) -> Triple:
    return (a[0] * b[0], a[1] * b[1], a[2] * b[2])
