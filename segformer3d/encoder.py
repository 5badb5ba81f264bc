"""The hierarchical transformer encoder of SegFormer3D: four stages of overlapping patches and efficient attention.

A stage embeds its input as overlapping patches (a strided convolution and a layer norm), then runs blocks of
x + attention(norm(x)) and x + mix_ffn(norm(x)), then a last layer norm (Perera et al. 2024; Xie et al., "SegFormer",
NeurIPS 2021). Shape suffixes: see `segformer3d.layers`.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from segformer3d.config import ModelConfig, Triple
from segformer3d.depthwise import DepthwiseConv, depthwise
from segformer3d.layers import as_affine, conv_channels_last, make_norm, pad_to_multiple
from segformer3d.tail import norm_activate_linear


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values live on a grid coarser by `reduction` (Wang et al., PVT, 2021)."""

    def __init__(self, channels: int, heads: int, reduction: Triple) -> None:
        super().__init__()
        self.heads = heads
        self.reduction = reduction
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(channels, channels)
        self.reduce: nn.Linear | None = None
        self.reduce_norm: nn.LayerNorm | None = None
        if math.prod(reduction) > 1:
            # A convolution whose stride is its kernel sees each block of voxels once: a linear layer on the block.
            self.reduce = nn.Linear(channels * math.prod(reduction), channels)
            self.reduce_norm = nn.LayerNorm(channels)

    def forward(self, x_BDHWC: Tensor) -> Tensor:
        """Attend; the map keeps its shape."""
        B, *_, C = x_BDHWC.shape
        x_BNC = x_BDHWC.view(B, -1, C)
        q_BhNd = self.query(x_BNC).view(B, -1, self.heads, C // self.heads).transpose(1, 2)
        kv_BM2hd = self.key_value(self._reduced(x_BDHWC)).view(B, -1, 2, self.heads, C // self.heads)
        k_BhMd, v_BhMd = kv_BM2hd.permute(2, 0, 3, 1, 4)
        y_BhNd = F.scaled_dot_product_attention(q_BhNd, k_BhMd, v_BhMd)
        y_BNC: Tensor = self.project(y_BhNd.transpose(1, 2).reshape(B, -1, C))
        return y_BNC.view(x_BDHWC.shape)

    def _reduced(self, x_BDHWC: Tensor) -> Tensor:
        B, *_, C = x_BDHWC.shape
        if self.reduce is None or self.reduce_norm is None:
            return x_BDHWC.view(B, -1, C)
        blocks = block_tokens(pad_to_multiple(x_BDHWC, self.reduction), self.reduction)
        reduced: Tensor = self.reduce_norm(self.reduce(blocks))
        return reduced


def block_tokens(x_BDHWC: Tensor, block: Triple) -> Tensor:
    """Regroup a map, its axes multiples of `block`, into (B, M, C · block voxels), channel-major like a conv weight."""
    B, D, H, W, C = x_BDHWC.shape
    d, h, w = block
    grouped = x_BDHWC.view(B, D // d, d, H // h, h, W // w, w, C)
    return grouped.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(B, -1, C * d * h * w)


class MixFeedForward(nn.Module):
    """The feed-forward of SegFormer: a depthwise 3×3×3 convolution, a norm and GELU between two linear layers.

    The convolution's zero padding is what tells a token where it is; there is no position embedding.
    """

    def __init__(self, channels: int, ratio: int, norm: str) -> None:
        super().__init__()
        hidden = channels * ratio
        self.expand = nn.Linear(channels, hidden)
        self.depthwise = DepthwiseConv(hidden)
        self.norm = make_norm(norm, hidden)
        self.contract = nn.Linear(hidden, channels)

    def forward(self, x_BDHWC: Tensor) -> Tensor:
        """Mix each voxel with its neighbours; the map keeps its shape."""
        x_BDHWC = self.expand(x_BDHWC)
        affine = as_affine(self.norm)
        if affine is None:
            return norm_activate_linear(self.depthwise(x_BDHWC), self.norm, F.gelu, self.contract)
        scale_C, shift_C = affine  # they become part of the convolution
        weight = self.depthwise.weight * scale_C.view(-1, 1, 1, 1, 1)
        mixed_BDHWC = depthwise(x_BDHWC, weight, self.depthwise.bias * scale_C + shift_C)
        y_BDHWC: Tensor = self.contract(F.gelu(mixed_BDHWC))
        return y_BDHWC


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, channels: int, heads: int, reduction: Triple, ratio: int, norm: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = EfficientAttention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels)
        self.feed_forward = MixFeedForward(channels, ratio, norm)

    def forward(self, x_BDHWC: Tensor) -> Tensor:
        """Attention, then the feed-forward, each added to its input."""
        x_BDHWC = x_BDHWC + self.attention(self.norm1(x_BDHWC))
        y_BDHWC: Tensor = x_BDHWC + self.feed_forward(self.norm2(x_BDHWC))
        return y_BDHWC


class Stage(nn.Module):
    """Patches, blocks and the norm that ends a stage: (B, D, H, W, C_in) to a grid coarser by the patch stride."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        channels_in = config.in_channels if index == 0 else config.embed_dims[index - 1]
        channels = config.embed_dims[index]
        self.embed = nn.Conv3d(
            channels_in,
            channels,
            kernel_size=config.patch_kernel_size[index],
            stride=config.patch_stride[index],
            padding=config.patch_padding[index],
        )
        self.embed_norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(
            Block(channels, config.num_heads[index], config.sr_ratios[index], config.mlp_ratios[index], config.norm)
            for _ in range(config.depths[index])
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x_BDHWC: Tensor) -> Tensor:
        """The stage's feature map (B, D', H', W', C)."""
        x_BDHWC = self.embed_norm(conv_channels_last(x_BDHWC, self.embed))
        for block in self.blocks:
            x_BDHWC = block(x_BDHWC)
        y_BDHWC: Tensor = self.norm(x_BDHWC)
        return y_BDHWC
