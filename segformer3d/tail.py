"""Norm, activation, linear layer: the end of each feed-forward and of the decoder, with little to remember.

PyTorch remembers three wide maps for the backward pass of these three: what goes into the norm, what comes out of it,
and what comes out of the activation. The second and the third follow from the first by a scale, a shift and the
activation, so here they are made again when they are needed, a block at a time. The numbers are PyTorch's up to
rounding. GPUs, 16 bits, norms without a batch and activations other than GELU and ReLU take the plain way.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from segformer3d.layers import Norm, apply_norm

Activation = Callable[[Tensor], Tensor]
BLOCK = 2**20  # values


def norm_activate_linear(x: Tensor, norm: Norm, activation: Activation, linear: nn.Linear) -> Tensor:
    """`linear(activation(norm(x)))` of a channels-last map (B, ..., C); running statistics move as the norm's do."""
    rows = x[..., 0].numel()
    plain = x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled()
    if plain or activation not in _BACKWARD or isinstance(norm, nn.GroupNorm) or not norm.training or rows == 1:
        y: Tensor = linear(activation(apply_norm(norm, x)))
        return y
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    flat_NC = x.reshape(-1, x.shape[-1])
    weights = norm.weight, norm.bias, linear.weight, linear.bias
    y_NO: Tensor = _Tail.apply(flat_NC, norm, activation, *weights)  # type: ignore[no-untyped-call]
    return y_NO.view(*x.shape[:-1], -1)


_BACKWARD: dict[Activation, Callable[[Tensor, Tensor], Tensor]] = {
    F.gelu: torch.ops.aten.gelu_backward,
    F.relu: lambda gradient, x: torch.ops.aten.threshold_backward(gradient, x, 0),
}


class _Tail(torch.autograd.Function):
    """Both passes go through blocks of rows, which stay in the processor's cache from the norm to the linear layer.

    With x̂ the standardised input and d the gradient of the norm's output, the gradient of the input is
    gain · scale · (d - mean(d) - x̂ mean(d x̂)), means being over the rows (Ioffe and Szegedy, ICML 2015).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_NC: Tensor,
        norm: nn.BatchNorm1d,
        activation: Activation,
        gain_C: Tensor,
        offset_C: Tensor,
        weight_OC: Tensor,
        bias_O: Tensor,
    ) -> Tensor:
        running = norm.running_mean, norm.running_var, norm.momentum
        mean_C, variance_C = torch.batch_norm_update_stats(x_NC, *running)  # type: ignore[arg-type]
        scale_C = torch.rsqrt(variance_C + norm.eps)
        ctx.save_for_backward(x_NC, gain_C, offset_C, mean_C, scale_C, weight_OC)
        ctx.activation = activation
        y_NO = x_NC.new_empty(x_NC.shape[0], weight_OC.shape[0])
        for rows in _blocks(x_NC):
            standard = (x_NC[rows] - mean_C).mul_(scale_C)
            torch.addmm(bias_O, activation(torch.addcmul(offset_C, standard, gain_C)), weight_OC.T, out=y_NO[rows])
        return y_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NC, gain_C, offset_C, mean_C, scale_C, weight_OC = ctx.saved_tensors
        of_gain, of_offset, of_weight = (torch.zeros_like(value) for value in (gain_C, offset_C, weight_OC))
        gradient_NC = torch.empty_like(x_NC)
        for rows in _blocks(x_NC):
            standard = (x_NC[rows] - mean_C).mul_(scale_C)
            normed = torch.addcmul(offset_C, standard, gain_C)
            of_weight.addmm_(gradient_NO[rows].T, ctx.activation(normed))
            of_normed = _BACKWARD[ctx.activation](gradient_NO[rows] @ weight_OC, normed)
            of_offset += of_normed.sum(dim=0)
            of_gain += standard.mul_(of_normed).sum(dim=0)
            gradient_NC[rows] = of_normed
        factor_C, count = scale_C * gain_C, x_NC.shape[0]
        slope_C = -of_gain * scale_C / count
        level_C = -of_offset / count - mean_C * slope_C
        for rows in _blocks(x_NC):
            gradient_NC[rows].add_(level_C).addcmul_(x_NC[rows], slope_C).mul_(factor_C)
        return gradient_NC, None, None, of_gain, of_offset, of_weight, gradient_NO.sum(dim=0)


def _blocks(x_NC: Tensor) -> list[slice]:
    step = max(1, BLOCK // x_NC.shape[1])
    return [slice(start, start + step) for start in range(0, x_NC.shape[0], step)]
