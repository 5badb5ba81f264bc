"""A depthwise 3×3×3 convolution whose gradients are fast on CPUs.

PyTorch's CPU kernels run the forward pass of a depthwise convolution at memory speed and its backward pass 10 to 40
times slower: a third of a training step. Both gradients have quick forms. That of the input is again a depthwise
convolution, with the kernel mirrored. That of the weight is, for each of the three offsets in depth, the weight
gradient of a 2D depthwise convolution, for which there is a fast kernel. The numbers are those of `F.conv3d` up to the
order of summation; GPUs keep their own kernels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class DepthwiseConv(nn.Conv3d):
    """A 3×3×3 convolution with stride 1 and zero padding, for each channel alone, on channels-last maps."""

    bias: nn.Parameter

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, kernel_size=3, padding=1, groups=channels)

    def forward(self, x_BDHWC: Tensor) -> Tensor:
        """Convolve a map (B, D, H, W, C); it keeps its shape."""
        return depthwise(x_BDHWC, self.weight, self.bias)


def depthwise(x_BDHWC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve a map (B, D, H, W, C) with a weight (C, 1, 3, 3, 3) and add a bias (C)."""
    if x_BDHWC.device.type == "cpu" and torch.is_grad_enabled():
        if torch.is_autocast_enabled("cpu"):  # autocast knows PyTorch's own functions only
            dtype = torch.get_autocast_dtype("cpu")
            x_BDHWC, weight, bias = x_BDHWC.to(dtype), weight.to(dtype), bias.to(dtype)
        y_BDHWC: Tensor = _Depthwise.apply(x_BDHWC, weight, bias)  # type: ignore[no-untyped-call]
        return y_BDHWC
    return _convolve(x_BDHWC, weight, bias)


def _convolve(x_BDHWC: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y_BCDHW = F.conv3d(x_BDHWC.movedim(-1, 1), weight, bias, padding=1, groups=weight.shape[0])
    return y_BCDHW.movedim(1, -1).contiguous()


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BDHWC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x_BDHWC, weight)
        return _convolve(x_BDHWC, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BDHWC: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x_BDHWC, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad  # a layer may be frozen
        gradient_BDHWC = gradient_BDHWC.contiguous()
        of_x = _convolve(gradient_BDHWC, weight.flip(2, 3, 4), None) if for_x else None
        of_weight = _weight_gradient(x_BDHWC, gradient_BDHWC).view(weight.shape) if for_weight else None
        return of_x, of_weight, gradient_BDHWC.sum(dim=(0, 1, 2, 3)) if for_bias else None


def _weight_gradient(x_BDHWC: Tensor, gradient_BDHWC: Tensor) -> Tensor:
    """(C, 3, 3, 3): for each of the three offsets in depth, the weight gradient of a 2D convolution over all slices."""
    B, D, H, W, C = x_BDHWC.shape
    if min(H, W) < 3:  # where the kernel looks beyond both edges at once, that of 2D convolutions is very slow
        windows = F.pad(x_BDHWC, (0, 0, 1, 1, 1, 1, 1, 1)).unfold(1, D, 1).unfold(2, H, 1).unfold(3, W, 1)
        return torch.einsum("bijkcdhw,bdhwc->cijk", windows, gradient_BDHWC)
    padded = F.pad(x_BDHWC, (0, 0, 0, 0, 0, 0, 1, 1))
    slices = (padded[:, d : d + D].reshape(B * D, H, W, C).movedim(-1, 1) for d in range(3))
    gradient = gradient_BDHWC.view(B * D, H, W, C).movedim(-1, 1)
    return torch.cat([_slice_gradient(x, gradient) for x in slices], dim=1)


def _slice_gradient(x_NCHW: Tensor, gradient_NCHW: Tensor) -> Tensor:
    """(C, 1, 3, 3)."""
    C = x_NCHW.shape[1]
    weight = x_NCHW.new_empty(C, 1, 3, 3)
    geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], C)  # stride, padding, dilation, transposed, more padding, groups
    gradient = torch.ops.aten.convolution_backward(gradient_NCHW, x_NCHW, weight, None, *geometry, [False, True, False])
    of_weight: Tensor = gradient[1]
    return of_weight
