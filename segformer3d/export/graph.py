"""The network as a graph of PyTorch's own operators, which the `.pt2` and ONNX files hold, and its check.

`torch.export` runs the network once with values that have a shape only, and writes down what it computes. The patch is
that of the task; the number of patches is free.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import Dim, ExportedProgram

from segformer3d.model import SegFormer3D
from segformer3d.tasks import Task

INPUT, OUTPUT, BATCH = "image", "logits", "batch"
# What an exported file is checked with: so many patches at a time, of standard normal values, from this seed.
CHECKED_BATCHES = (1, 2, 3)
CHECK_SEED = 0

Run = Callable[[Tensor], NDArray[np.float32]]


@dataclass(frozen=True)
class Agreement:
    """How near the logits of an exported file are to ours.

    Attributes:
        runtime: what computed them.
        difference: the largest absolute difference.
        largest: the largest absolute logit of ours.
        patches: how many random patches were compared.
    """

    runtime: str
    difference: float
    largest: float
    patches: int


def trace(model: SegFormer3D, task: Task) -> ExportedProgram:
    """The graph of a model: patches (batch, contrasts, x, y, z) to logits (batch, channels, x, y, z)."""
    model.cpu().eval()
    patches = torch.zeros(2, len(task.modalities), *task.patch)
    with torch.no_grad():
        # The model keeps its matrices of interpolation. Made while tracing, they would be without values, for ever.
        model(patches[:1])
        program = torch.export.export(model, (patches,), dynamic_shapes=({0: Dim(BATCH, min=1)},))
    program.example_inputs = None
    return program


def compare(model: SegFormer3D, task: Task, run: Run, runtime: str) -> Agreement:
    """Compare what `run` makes of random patches (B, C, x, y, z) with the model's logits."""
    generator = torch.Generator().manual_seed(CHECK_SEED)
    model.cpu().eval()
    difference = largest = 0.0
    for batch in CHECKED_BATCHES:
        patches = torch.randn(batch, len(task.modalities), *task.patch, generator=generator)
        with torch.inference_mode():
            ours = model(patches).numpy()
        difference = _larger(difference, run(patches) - ours)
        largest = _larger(largest, ours)
    return Agreement(runtime, difference, largest, sum(CHECKED_BATCHES))


def _larger(so_far: float, values: NDArray[np.float32]) -> float:
    """The larger of a number and the largest absolute value; NaN, once there is one."""
    return float(np.maximum(so_far, np.abs(values).max()))
