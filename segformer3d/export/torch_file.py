"""A model as a `.pt2` file: PyTorch's own format for graphs, which runs without segfed.

`torch.export` rather than TorchScript, which PyTorch has deprecated. The file holds weights as plain bytes and the
graph as JSON. `torch.export.load` can unpickle parts of a file that ask for it; this one has no such part (example
inputs are what would be pickled, and are left out).
"""

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.export import ExportedProgram

from segformer3d.errors import ExportError
from segformer3d.export.graph import Agreement, compare
from segformer3d.files import write_bytes
from segformer3d.model import SegFormer3D
from segformer3d.tasks import Task

# The file inside that says what the model is.
DESCRIPTION = "segfed.json"


def write_torch(
    path: Path, program: ExportedProgram, model: SegFormer3D, task: Task, facts: Mapping[str, str]
) -> Agreement:
    """Write a graph, after a check that what is read back gives the very logits of the model.

    Args:
        path: the file, which ends in `.pt2`.
        program: the graph of the model.
        model, task: what it is the graph of.
        facts: texts by name, to be found in the file as `extra/segfed.json`.

    Raises:
        ExportError: the logits differ; nothing is written.
        StorageError: the file cannot be written.
    """
    content = torch_bytes(program, facts)
    agreement = check_torch(content, model, task)
    write_bytes(path, content)
    return agreement


def torch_bytes(program: ExportedProgram, facts: Mapping[str, str]) -> bytes:
    """The content of a `.pt2` file."""
    stored = io.BytesIO()
    torch.export.save(program, stored, extra_files={DESCRIPTION: json.dumps(dict(facts), indent=2)})
    return stored.getvalue()


def check_torch(content: bytes, model: SegFormer3D, task: Task) -> Agreement:
    """Compare the logits of a `.pt2` file with those of the model: the same operators give the same bits.

    Raises:
        ExportError: they differ.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that PyTorch deprecates and uses
        network = torch.export.load(io.BytesIO(content)).module()
    with torch.no_grad():
        agreement = compare(model, task, lambda patches: network(patches).numpy(), f"torch {torch.__version__}")
    if agreement.difference != 0:
        raise ExportError(
            f"the torch.export graph gives logits that differ from the model's by up to {agreement.difference:.3g}; "
            "it was not written. Report this, with your version of PyTorch"
        )
    return agreement
