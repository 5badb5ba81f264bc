"""A model as an ONNX file, checked with ONNX Runtime.

The file holds one graph: `image` (batch, contrasts, x, y, z) of the task's patch, scaled, in RAS+ order, to `logits`
(batch, channels, x, y, z). Opset 20 (ONNX Runtime 1.17 and later) is the first with a GELU of its own.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from segformer3d.errors import ExportError
from segformer3d.export.graph import BATCH, INPUT, OUTPUT, Agreement, compare
from segformer3d.files import write_bytes
from segformer3d.model import SegFormer3D
from segformer3d.tasks import Task

OPSET = 20
# Of the largest logit. Both runtimes compute in float32 and sum in another order: either is within 1e-6 of what float64
# gives, or 1e-5 where group norm sums over a patch of 128³ voxels (docs/export.md); a wrong operator is off by 1e-2.
TOLERANCE = 1e-4
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """See that the packages are installed.

    Raises:
        ExportError: one is not.
    """
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError as error:
            raise ExportError(
                f"--format onnx needs the Python package {name}, which is not installed; "
                "install what it takes with: pip install 'segfed[export]'"
            ) from error


def write_onnx(
    path: Path, program: ExportedProgram, model: SegFormer3D, task: Task, facts: Mapping[str, str]
) -> Agreement:
    """Write a graph as ONNX, after a check that ONNX Runtime gives the logits of the model.

    Args:
        path: the file, which ends in `.onnx`.
        program: the graph of the model.
        model, task: what it is the graph of.
        facts: texts by name, which become the metadata of the file.

    Raises:
        ExportError: the logits differ by more than `TOLERANCE`; nothing is written.
        StorageError: the file cannot be written.
    """
    content = onnx_bytes(program, facts)
    agreement = check_onnx(content, model, task)
    write_bytes(path, content)
    return agreement


def onnx_bytes(program: ExportedProgram, facts: Mapping[str, str]) -> bytes:
    """The content of an ONNX file, weights included."""
    with _quiet():
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: BATCH},),
            verbose=False,
        )
    made.model.metadata_props.update(facts)
    stored = io.BytesIO()
    made.save(stored)
    return stored.getvalue()


def check_onnx(content: bytes, model: SegFormer3D, task: Task) -> Agreement:
    """Compare what ONNX Runtime makes of a file with the logits of the model, on the CPU.

    Raises:
        ExportError: they differ by more than `TOLERANCE` of the largest logit, or are not finite.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(patches: Tensor) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run([OUTPUT], {INPUT: patches.numpy()})[0]
        return logits

    agreement = compare(model, task, run, f"onnxruntime {onnxruntime.__version__}, opset {OPSET}")
    allowed = TOLERANCE * max(1.0, agreement.largest)
    if not agreement.difference <= allowed:
        raise ExportError(
            f"ONNX Runtime gives logits that differ from the model's by up to {agreement.difference:.3g}, and "
            f"{allowed:.3g} is allowed; the ONNX file was not written. Report this, with your versions of torch, "
            "onnxscript and onnxruntime"
        )
    return agreement


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch's exporter has to say about packages of others and its own deprecated names."""
    speaker = logging.getLogger("torch.onnx")
    level = speaker.level
    speaker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        speaker.setLevel(level)
