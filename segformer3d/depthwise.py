"""A depthwise 3×3×3 convolution whose gradients are fast on CPUs.

PyTorch's CPU kernels run the forward pass of a depthwise convolution at memory speed and its backward pass 10 to 40
times slower: a third of a training step. Both gradients have quick forms. That of the input is again a depthwise
convolution, with the kernel mirrored. That of the weight is, for each of the 27 offsets, a sum of products of the
shifted input and the gradient. The numbers are those of `F.conv3d` up to the order of summation; GPUs keep their own
kernels.
"""

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class DepthwiseConv(nn.Conv3d):
    """A 3×3×3 convolution with stride 1 and zero padding, for each channel alone, on channels-last maps."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, kernel_size=3, padding=1, groups=channels)

    def forward(self, x_BDHWC: Tensor) -> Tensor:
        """Convolve a map (B, D, H, W, C); it keeps its shape."""
        if x_BDHWC.device.type == "cpu":
            y_BDHWC: Tensor = _Depthwise.apply(x_BDHWC, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return y_BDHWC
        return _convolve(x_BDHWC, self.weight, self.bias)


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
    def backward(ctx: Any, gradient_BDHWC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_BDHWC, weight = ctx.saved_tensors
        gradient_BDHWC = gradient_BDHWC.contiguous()
        of_x = _convolve(gradient_BDHWC, weight.flip(2, 3, 4), None)
        of_weight = _weight_gradient(x_BDHWC, gradient_BDHWC).view(weight.shape)
        return of_x, of_weight, gradient_BDHWC.sum(dim=(0, 1, 2, 3))


def _weight_gradient(x_BDHWC: Tensor, gradient_BDHWC: Tensor) -> Tensor:
    """(C, 27), offsets in the order of the weight's last three axes."""
    _, D, H, W, C = x_BDHWC.shape
    padded = F.pad(x_BDHWC, (0, 0, 1, 1, 1, 1, 1, 1))
    products = torch.empty_like(gradient_BDHWC)
    sums = []
    for d, h, w in product(range(3), repeat=3):
        torch.mul(padded[:, d : d + D, h : h + H, w : w + W], gradient_BDHWC, out=products)
        sums.append(products.view(-1, C).sum(dim=0))
    return torch.stack(sums, dim=1)
