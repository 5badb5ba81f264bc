"""SegFormer3D: a 4.5 M-parameter transformer for 3D medical image segmentation.

Perera, Navard, Yilmaz: "SegFormer3D: an Efficient Transformer for 3D Medical Image Segmentation", CVPR workshops 2024.
On cubes whose side is a multiple of 32 this computes what the published implementation computes, from the same weights
(`segformer3d.published` translates the names). Unlike it, it takes volumes of any size.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segformer3d.config import Axes, ModelConfig
from segformer3d.decoder import Decoder
from segformer3d.encoder import Stage
from segformer3d.errors import ConfigurationError
from segformer3d.layers import init_published, upsample

# Small enough that the first logits are the prior's, large enough that gradients reach the layers below at once.
PRIOR_WEIGHT_STD = 0.01


class SegFormer3D(nn.Module):
    """The segmentation network: (B, in_channels, D, H, W) images to (B, num_classes, D, H, W) logits.

    Args:
        in_channels: image contrasts.
        num_classes: output channels.
        embed_dims, num_heads, mlp_ratios, depths: one whole number per encoder stage.
        sr_ratios, patch_kernel_size, patch_stride, patch_padding: one entry per stage; a number, or (depth, height,
            width).
        decoder_head_embedding_dim: width of the decoder.
        decoder_dropout: share of decoder features dropped in training, in [0, 1).
        norm: "batch" as published, or "group", which keeps the volumes of a batch apart (needed for privacy).
        final_init: "prior" starts the logits near `output_bias`; "published" draws the last layer as the published code
            does, which starts logits near ±50.
        output_bias: with "prior", the logits to start from, one per class (a task derives them from its label prior);
            zeros when None.

    Raises:
        ConfigurationError: an argument breaks its rule.
    """

    def __init__(
        self,
        in_channels: int = 4,
        num_classes: int = 3,
        embed_dims: Sequence[int] = ModelConfig.embed_dims,
        num_heads: Sequence[int] = ModelConfig.num_heads,
        mlp_ratios: Sequence[int] = ModelConfig.mlp_ratios,
        depths: Sequence[int] = ModelConfig.depths,
        sr_ratios: Sequence[Axes] = ModelConfig.sr_ratios,
        patch_kernel_size: Sequence[Axes] = ModelConfig.patch_kernel_size,
        patch_stride: Sequence[Axes] = ModelConfig.patch_stride,
        patch_padding: Sequence[Axes] = ModelConfig.patch_padding,
        decoder_head_embedding_dim: int = 256,
        decoder_dropout: float = 0.0,
        norm: Literal["batch", "group"] = "batch",
        *,
        final_init: Literal["prior", "published"] = "prior",
        output_bias: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        sizes: dict[str, Any] = {name: value for name, value in locals().items() if name in ModelConfig.__annotations__}
        self.config = ModelConfig(**sizes)
        self.stages = nn.ModuleList(Stage(self.config, index) for index in range(len(self.config.embed_dims)))
        self.decoder = Decoder(self.config)
        if not self.decoder.fuse.weight.is_meta:  # a skeleton has no values to draw
            self.apply(init_published)
            _init_pointwise_convolutions(self.decoder, self.stages)
        if final_init == "prior":
            _init_prior(self.decoder.classify, output_bias)
        elif final_init != "published" or output_bias is not None:
            raise ConfigurationError(
                f"final_init must be 'prior', or 'published' without an output_bias, got {final_init!r}"
            )

    def forward(self, image_BCDHW: Tensor) -> Tensor:
        """Logits (B, num_classes, D, H, W) on exactly the grid of the input, whatever its size.

        Raises:
            ConfigurationError: the image is not (B, in_channels, D, H, W), or has no voxel.
        """
        shape = tuple(image_BCDHW.shape)
        if len(shape) != 5 or shape[1] != self.config.in_channels or 0 in shape:
            raise ConfigurationError(
                f"the model takes (batch, {self.config.in_channels}, depth, height, width), got {shape}"
            )
        maps = []
        x_BDHWC = image_BCDHW.movedim(1, -1)
        for stage in self.stages:
            x_BDHWC = stage(x_BDHWC)
            maps.append(x_BDHWC)
        logits_BKDHW: Tensor = self.decoder(maps)
        return upsample(logits_BKDHW, self.config.patch_stride[0], image_BCDHW.shape[2:]).contiguous()


def build(config: ModelConfig, output_bias: Sequence[float] | None = None) -> SegFormer3D:
    """A fresh model of this configuration, its weights drawn from PyTorch's global generator."""
    return SegFormer3D(**config.to_json(), output_bias=output_bias)


def skeleton(config: ModelConfig) -> SegFormer3D:
    """A model of this configuration without weights, on PyTorch's meta device.

    For weights that are at hand already: `load_state_dict(..., assign=True)` puts them in place, and no time is spent
    on drawing random ones that nobody will see.
    """
    with torch.device("meta"):
        return SegFormer3D(**config.to_json(), final_init="published")


def _init_pointwise_convolutions(decoder: Decoder, stages: nn.ModuleList) -> None:
    """Layers that the published code writes as convolutions, and we as linear layers, keep their published spread."""
    nn.init.normal_(decoder.fuse.weight, 0.0, (2.0 / decoder.fuse.out_features) ** 0.5)
    nn.init.normal_(decoder.classify.weight, 0.0, (2.0 / decoder.classify.out_features) ** 0.5)
    for module in stages.modules():
        reduce = getattr(module, "reduce", None)
        if isinstance(reduce, nn.Linear):
            nn.init.normal_(reduce.weight, 0.0, (2.0 / reduce.in_features) ** 0.5)


def _init_prior(classify: nn.Linear, output_bias: Sequence[float] | None) -> None:
    bias = torch.zeros(classify.out_features) if output_bias is None else torch.tensor(list(output_bias))
    if bias.shape != (classify.out_features,) or not torch.isfinite(bias).all():
        raise ConfigurationError(
            f"output_bias needs {classify.out_features} finite values, one per class, got {output_bias}"
        )
    with torch.no_grad():
        nn.init.normal_(classify.weight, 0.0, PRIOR_WEIGHT_STD)
        classify.bias.copy_(bias)
