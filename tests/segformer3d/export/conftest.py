"""Models whose every weight and running statistic is of use, so that nothing that an export forgets goes unnoticed."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from segformer3d.model import SegFormer3D, build
from segformer3d.tasks import Task

MakeModel = Callable[[Task], SegFormer3D]


def _make_model(task: Task) -> SegFormer3D:
    torch.manual_seed(0)
    model = build(task.model, task.output_bias)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.dim() == 1 and value.is_floating_point():
                value.add_(0.2 * torch.randn_like(value))
        nn.init.normal_(model.decoder.classify.weight, 0.0, 0.5)
        # No channel wins everywhere: in a map of one label, a mistake would not show.
        logits = model.eval()(torch.randn(1, len(task.modalities), *task.patch))
        model.decoder.classify.bias -= logits.mean(dim=(0, 2, 3, 4))
    return model


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """`make_model(task)` is a model with weights far from those of a fresh one."""
    return _make_model


@pytest.fixture(scope="session", params=["batch", "group"])
def either_norm(request: pytest.FixtureRequest, tiny_task: Task) -> Task:
    """The tiny task, with batch norm and with group norm."""
    return replace(tiny_task, model=replace(tiny_task.model, norm=request.param))
