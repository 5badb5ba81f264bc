"""SegFormer3D written down as it was published, in its own names: the baseline that every ratio is measured against.

Perera, Navard, Yilmaz, CVPR workshops 2024. Nothing here is fast on purpose or slow on purpose: attention is the three
lines of its formula, tokens and volumes are transposed into each other where the published code does so, the decoder
brings every stage to the finest grid, concatenates, and fuses there. Cubes only, as published. The tests hold it to the
golden data, so that it may serve as an oracle as well.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchEmbedding(nn.Module):
    """A strided convolution, then a layer norm over the channels of each token."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.patch_embeddings = nn.Conv3d(channels_in, channels, kernel, stride, padding)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """(B, C, D, H, W) to (B, N, C)."""
        tokens_BNC: Tensor = self.norm(self.patch_embeddings(x_BCDHW).flatten(2).transpose(1, 2))
        return tokens_BNC


class SelfAttention(nn.Module):
    """softmax(q kᵀ / √d) v, with keys and values from a grid that a strided convolution made coarser."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv3d(channels, channels, reduction, reduction)
            self.sr_norm = nn.LayerNorm(channels)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Attend over the tokens of a cube."""
        B, N, C = x_BNC.shape
        q_BhNd = self.query(x_BNC).reshape(B, N, self.heads, -1).permute(0, 2, 1, 3)
        kv = self.key_value(self._coarser(x_BNC)).reshape(B, -1, 2, self.heads, C // self.heads)
        k_BhMd, v_BhMd = kv.permute(2, 0, 3, 1, 4)
        weight_BhNM = (q_BhNd @ k_BhMd.transpose(-2, -1) / math.sqrt(C // self.heads)).softmax(dim=-1)
        mixed_BNC = (weight_BhNM @ v_BhMd).transpose(1, 2).reshape(B, N, C)
        y_BNC: Tensor = self.proj(mixed_BNC)
        return y_BNC

    def _coarser(self, x_BNC: Tensor) -> Tensor:
        if self.reduction == 1:
            return x_BNC
        y_BNC: Tensor = self.sr_norm(self.sr(as_cube(x_BNC)).flatten(2).transpose(1, 2))
        return y_BNC


class DepthwiseStep(nn.Module):
    """The feed-forward's depthwise convolution and batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv3d(channels, channels, 3, 1, 1, groups=channels)
        self.bn = nn.BatchNorm3d(channels)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Tokens of a cube in, tokens out."""
        y_BNC: Tensor = self.bn(self.dwconv(as_cube(x_BNC))).flatten(2).transpose(1, 2)
        return y_BNC


class FeedForward(nn.Module):
    """Linear, depthwise step, GELU, linear."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.dwconv = DepthwiseStep(ratio * channels)
        self.fc2 = nn.Linear(ratio * channels, channels)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Tokens of a cube in, tokens out."""
        y_BNC: Tensor = self.fc2(F.gelu(self.dwconv(self.fc1(x_BNC))))
        return y_BNC


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, channels: int, heads: int, reduction: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = SelfAttention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, ratio)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Tokens of a cube in, tokens out."""
        x_BNC = x_BNC + self.attention(self.norm1(x_BNC))
        y_BNC: Tensor = x_BNC + self.mlp(self.norm2(x_BNC))
        return y_BNC


class Encoder(nn.Module):
    """Four stages, each of patches, blocks and a norm."""

    def __init__(
        self,
        in_channels: int,
        embed_dims: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratios: Sequence[int],
        depths: Sequence[int],
        sr_ratios: Sequence[int],
    ) -> None:
        super().__init__()
        geometry = ((7, 4, 3), (3, 2, 1), (3, 2, 1), (3, 2, 1))
        widths = (in_channels, *embed_dims)
        for i, (kernel, stride, padding) in enumerate(geometry):
            channels = embed_dims[i]
            block = (channels, num_heads[i], sr_ratios[i], mlp_ratios[i])
            self.add_module(f"embed_{i + 1}", PatchEmbedding(widths[i], channels, kernel, stride, padding))
            self.add_module(f"tf_block{i + 1}", nn.ModuleList(TransformerBlock(*block) for _ in range(depths[i])))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(channels))

    def forward(self, x_BCDHW: Tensor) -> list[Tensor]:
        """The four feature maps (B, C, D, H, W), finest first."""
        maps = []
        for i in range(1, 5):
            tokens_BNC = self.get_submodule(f"embed_{i}")(x_BCDHW)
            for block in self.get_submodule(f"tf_block{i}").children():
                tokens_BNC = block(tokens_BNC)
            x_BCDHW = as_cube(self.get_submodule(f"norm{i}")(tokens_BNC)).contiguous()
            maps.append(x_BCDHW)
        return maps


class Projection(nn.Module):
    """Linear and a layer norm, which the published code calls `bn`."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, width)
        self.bn = nn.LayerNorm(width)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """A map in, a map out."""
        y_BCDHW: Tensor = as_cube(self.bn(self.proj(x_BCDHW.flatten(2).transpose(1, 2)))).contiguous()
        return y_BCDHW


class Decoder(nn.Module):
    """All stages on the grid of the first, concatenated, fused, classified, enlarged four times."""

    def __init__(self, embed_dims: Sequence[int], width: int, num_classes: int) -> None:
        super().__init__()
        for i, channels in enumerate(embed_dims, start=1):
            self.add_module(f"linear_c{i}", Projection(channels, width))
        self.linear_fuse = nn.Sequential(nn.Conv3d(4 * width, width, 1, bias=False), nn.BatchNorm3d(width), nn.ReLU())
        self.linear_pred = nn.Conv3d(width, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Feature maps to logits on the grid of the image."""
        size = maps[0].shape[2:]
        projected = [self.get_submodule(f"linear_c{i}")(x) for i, x in enumerate(maps, start=1)]
        enlarged = [F.interpolate(x, size, mode="trilinear", align_corners=False) for x in reversed(projected)]
        logits_BKDHW = self.linear_pred(self.linear_fuse(torch.cat(enlarged, dim=1)))
        return F.interpolate(logits_BKDHW, scale_factor=4.0, mode="trilinear", align_corners=False)


class PlainSegFormer3D(nn.Module):
    """The published network: (B, in_channels, D, D, D) images, D a multiple of 32, to logits of the same size."""

    def __init__(
        self,
        in_channels: int = 4,
        num_classes: int = 3,
        embed_dims: Sequence[int] = (32, 64, 160, 256),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[int] = (4, 4, 4, 4),
        depths: Sequence[int] = (2, 2, 2, 2),
        sr_ratios: Sequence[int] = (4, 2, 1, 1),
        decoder_head_embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        self.segformer_encoder = Encoder(in_channels, embed_dims, num_heads, mlp_ratios, depths, sr_ratios)
        self.segformer_decoder = Decoder(embed_dims, decoder_head_embedding_dim, num_classes)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """Logits (B, num_classes, D, D, D)."""
        logits_BKDHW: Tensor = self.segformer_decoder(self.segformer_encoder(x_BCDHW))
        return logits_BKDHW


def as_cube(x_BNC: Tensor) -> Tensor:
    """Tokens (B, N, C) to the cube (B, C, D, D, D) that they came from."""
    B, N, C = x_BNC.shape
    side = round(N ** (1 / 3))
    return x_BNC.transpose(1, 2).reshape(B, C, side, side, side)
