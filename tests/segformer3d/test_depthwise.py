"""The depthwise convolution against PyTorch's own, in float64: values and all three gradients."""

import pytest
import torch
from torch.nn import functional as F

from segformer3d.depthwise import DepthwiseConv


def both(size: tuple[int, ...], channels: int) -> list[list[torch.Tensor]]:
    """Output and gradients of ours and of `F.conv3d`, for the same input, weights and upstream gradient."""
    torch.manual_seed(0)
    layer = DepthwiseConv(channels).double()
    x_BDHWC, upstream = torch.randn(2, *size, channels).double(), torch.randn(2, *size, channels).double()
    results = []
    for ours in (True, False):
        x = x_BDHWC.clone().requires_grad_()
        weight, bias = layer.weight, layer.bias
        y = layer(x) if ours else F.conv3d(x.movedim(-1, 1), weight, bias, padding=1, groups=channels).movedim(1, -1)
        results.append([y.detach(), *torch.autograd.grad(y, [x, weight, bias], upstream)])
    return results


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 2, 2), (1, 5, 3), (6, 4, 7)])
@pytest.mark.parametrize("channels", [1, 3, 16])
def test_values_and_gradients_equal_those_of_pytorch(size, channels):
    ours, theirs = both(size, channels)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.shape == reference.shape
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


def test_gradients_equal_finite_differences():
    layer = DepthwiseConv(2).double()
    x = torch.randn(1, 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


def test_the_weights_are_named_and_shaped_as_those_of_a_convolution():
    assert {name: tuple(p.shape) for name, p in DepthwiseConv(5).named_parameters()} == {
        "weight": (5, 1, 3, 3, 3),
        "bias": (5,),
    }


@pytest.mark.parametrize("size", [(2, 2, 2), (6, 4, 7)])
def test_autocast_reaches_the_convolution_and_its_gradients(size):
    torch.manual_seed(0)
    layer, x = DepthwiseConv(16), torch.randn(1, *size, 16, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().mean(), [x, *layer.parameters()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype is torch.bfloat16
    for mine, reference in zip(
        torch.autograd.grad(y.float().square().mean(), [x, *layer.parameters()]), expected, strict=True
    ):
        assert mine.dtype is torch.float32
        assert (mine - reference).norm() < 0.03 * reference.norm()
