"""PyTorch's optimizers without its compiler, which segfed never calls.

PyTorch's own load `torch._dynamo` at their first use, only to mark what shall not be compiled. That takes as long as
loading all the rest of PyTorch: seconds at every start of a site or a worker process. What they compute is the same.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


def _unmarked(method: Callable[..., Any]) -> Callable[..., Any]:
    """What PyTorch has wrapped into a mark for its compiler; in a PyTorch that marks otherwise, the method as it is."""
    plain: Callable[..., Any] = getattr(method, "__wrapped__", method)
    return plain


class Unmarked:
    """What an optimizer does without the mark, for a class that names it before PyTorch's."""

    add_param_group = _unmarked(Optimizer.add_param_group)
    zero_grad = _unmarked(Optimizer.zero_grad)


class AdamW(Unmarked, torch.optim.AdamW):
    """As `torch.optim.AdamW`."""

    step = torch.no_grad()(_unmarked(torch.optim.AdamW.step))


class SGD(Unmarked, torch.optim.SGD):
    """As `torch.optim.SGD`."""

    step = torch.no_grad()(_unmarked(torch.optim.SGD.step))
