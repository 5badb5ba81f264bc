"""How many multiply-accumulates a forward pass takes.

Counted is what PyTorch really runs, with its `FlopCounterMode` (two operations are one multiply-accumulate): matrix
products, convolutions, and both products of attention. Interpolation counts where it is done as a matrix product, as
in segfed, and not where it is a kernel of its own, as elsewhere; norms and activations do not count.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def multiply_accumulates(model: nn.Module, image_BCDHW: Tensor) -> int:
    """The multiply-accumulates of one forward pass in evaluation mode."""
    model.eval()
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=attention) as counter:
        model(image_BCDHW)
    return int(counter.get_total_flops()) // 2


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """PyTorch counts the attention kernels of GPUs by itself, and leaves out that of CPUs. Arguments are shapes."""
    batch, heads, queries, width = query
    return int(2 * batch * heads * queries * key[2] * (width + value[3]))
