"""SegFormer3D and everything one site needs to train, run and measure it: model, data, training, inference, metrics."""

from segformer3d.checkpoint import from_published, load, save
from segformer3d.config import ModelConfig
from segformer3d.errors import SegfedError
from segformer3d.model import SegFormer3D
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Structure, Task, get_task

__all__ = [
    "ModelConfig",
    "SegFormer3D",
    "SegfedError",
    "Structure",
    "Task",
    "TrainingSettings",
    "from_published",
    "get_task",
    "load",
    "save",
]
