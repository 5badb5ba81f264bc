"""The reference model that the published implementation computed, see the README of the shared reference data."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor

from segformer3d.tasks import Task


@dataclass(frozen=True)
class Golden:
    """The tensors of the golden file, and the published constructor arguments of its model."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]

    def named(self, kind: str) -> dict[str, Tensor]:
        """The tensors called `kind:NAME`, by their published names."""
        prefix = kind + ":"
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}


def read_golden(shared: Path) -> Golden:
    """`segformer3d_golden.safetensors`."""
    with safe_open(shared / "reference" / "segformer3d_golden.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return Golden(tensors, json.loads(file.metadata()["config"]))


@pytest.fixture(scope="session")
def golden(shared: Path) -> Golden:
    """The published implementation's numbers."""
    return read_golden(shared)


@pytest.fixture
def two_contrasts(tiny_task: Task) -> Task:
    """The tiny task with two contrasts."""
    return replace(tiny_task, modalities=("t1", "t2"), model=replace(tiny_task.model, in_channels=2))
