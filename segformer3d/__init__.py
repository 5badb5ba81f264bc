"""SegFormer3D and everything one site needs to train, run and measure it: model, data, training, inference, metrics.

Names are loaded when they are first used: importing an exception, or asking the command line for help, does not wait
for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segformer3d.checkpoint import from_published, load, save
    from segformer3d.config import ModelConfig
    from segformer3d.errors import SegfedError
    from segformer3d.model import SegFormer3D
    from segformer3d.settings import TrainingSettings
    from segformer3d.task import Structure, Task
    from segformer3d.tasks import get_task

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

_HOMES = {
    "ModelConfig": "config",
    "SegFormer3D": "model",
    "SegfedError": "errors",
    "Structure": "task",
    "Task": "task",
    "TrainingSettings": "settings",
    "from_published": "checkpoint",
    "get_task": "tasks",
    "load": "checkpoint",
    "save": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
