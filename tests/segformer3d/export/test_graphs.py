"""Exported graphs. Oracles: the model itself, on other values and sizes of batch than the check's own; float64."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.export import ExportedProgram

from segformer3d.errors import ExportError
from segformer3d.export.graph import compare, trace
from segformer3d.export.onnx_file import OPSET, TOLERANCE, check_onnx, onnx_bytes, write_onnx
from segformer3d.export.torch_file import check_torch, torch_bytes, write_torch
from segformer3d.layers import apply_norm, interpolation, make_norm
from segformer3d.model import SegFormer3D
from segformer3d.tasks import TASKS, Task

from .conftest import MakeModel

# One norm is enough for what does not depend on it; tracing takes seconds, and ONNX as long again.
ONE_NORM = pytest.mark.parametrize("either_norm", ["batch"], indirect=True)
FACTS = {"task": "what it segments", "weights_sha256": "0" * 64}


@pytest.fixture(scope="module")
def model(either_norm: Task, make_model: MakeModel) -> SegFormer3D:
    return make_model(either_norm)


@pytest.fixture(scope="module")
def logits_before(model: SegFormer3D, either_norm: Task) -> Tensor:
    """What the model made of a patch before it was traced."""
    with torch.inference_mode():
        return model(other_patches(either_norm, 1))


@pytest.fixture(scope="module")
def program(model: SegFormer3D, either_norm: Task, logits_before: Tensor) -> ExportedProgram:
    """The graph, traced as in a process that has used no model yet."""
    interpolation.cache_clear()
    return trace(model, either_norm)


@pytest.fixture(scope="module")
def stored_onnx(program: ExportedProgram) -> bytes:
    return onnx_bytes(program, FACTS)


@pytest.fixture(scope="module")
def stored_torch(program: ExportedProgram) -> bytes:
    return torch_bytes(program, FACTS)


def other_patches(task: Task, batch: int) -> Tensor:
    """Values between 0 and 3, mostly 0, as skull-stripped scans have."""
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, len(task.modalities), *task.patch, generator=generator).clamp(0, 3)


def onnx_logits(content: bytes, patches: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": patches.numpy()})[0]


@ONE_NORM
def test_an_onnx_file_gives_the_logits_of_the_model_for_any_batch(model, either_norm, stored_onnx) -> None:
    for batch in (1, 5):
        patches = other_patches(either_norm, batch)
        with torch.inference_mode():
            expected = model(patches).numpy()
        np.testing.assert_allclose(
            onnx_logits(stored_onnx, patches), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
        )


class GroupNorm(nn.Module):
    """The one layer that another norm exchanges."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = make_norm("group", 16)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x_BCXYZ: Tensor) -> Tensor:
        """Norms of 16 channels, made of one."""
        x_BXYZC = x_BCXYZ.movedim(1, -1)
        return apply_norm(self.norm, x_BXYZC * torch.arange(1.0, 17.0)).movedim(-1, 1)


def test_group_norm_is_the_same_in_an_onnx_file(tiny_task: Task) -> None:
    torch.manual_seed(0)
    layer = GroupNorm()
    stored = onnx_bytes(trace(layer, tiny_task), FACTS)  # type: ignore[arg-type]
    for batch in (1, 5):
        patches = other_patches(tiny_task, batch)
        with torch.inference_mode():
            expected = layer(patches).numpy()
        np.testing.assert_allclose(onnx_logits(stored, patches), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@ONE_NORM
def test_both_runtimes_are_equally_near_to_float64(model, either_norm, stored_onnx) -> None:
    """What the tolerance rests on: the difference between them is rounding."""
    patches = other_patches(either_norm, 2)
    with torch.inference_mode():
        ours = model(patches).numpy()
        exact = make_double(model)(patches.double()).numpy()
    theirs = onnx_logits(stored_onnx, patches)
    for logits in (ours, theirs):
        assert np.abs(logits - exact).max() < TOLERANCE / 20 * np.abs(exact).max()


def make_double(model: SegFormer3D) -> SegFormer3D:
    twin = SegFormer3D(**model.config.to_json())
    twin.load_state_dict(model.state_dict())
    return twin.double().eval()


@ONE_NORM
def test_an_onnx_file_says_what_it_is(either_norm, stored_onnx) -> None:
    read = onnx.load_from_string(stored_onnx)
    onnx.checker.check_model(read)
    assert {prop.key: prop.value for prop in read.metadata_props} == FACTS
    assert [(entry.domain, entry.version) for entry in read.opset_import] == [("", OPSET)]
    shapes = {value.name: dimensions(value) for value in (*read.graph.input, *read.graph.output)}
    assert shapes == {"image": ["batch", 1, 12, 12, 12], "logits": ["batch", 3, 12, 12, 12]}


def dimensions(value: Any) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


@ONE_NORM
@pytest.mark.parametrize("harm", [lambda weight: weight * 1.01, lambda weight: weight * np.float32(np.nan)])
def test_an_onnx_file_that_computes_something_else_is_refused(
    model: SegFormer3D, either_norm: Task, stored_onnx: bytes, harm: Callable[[np.ndarray], np.ndarray]
) -> None:
    read = onnx.load_from_string(stored_onnx)
    largest = max(read.graph.initializer, key=lambda weight: len(weight.raw_data))
    largest.CopyFrom(numpy_helper.from_array(harm(numpy_helper.to_array(largest)), largest.name))
    with pytest.raises(ExportError, match=r"ONNX Runtime gives logits that differ .* was not written"):
        check_onnx(read.SerializeToString(), model, either_norm)


def test_a_torch_file_gives_the_very_logits_for_any_batch(model, either_norm, stored_torch) -> None:
    network = torch.export.load(io.BytesIO(stored_torch)).module()
    for batch in (1, 5):
        patches = other_patches(either_norm, batch)
        with torch.no_grad():
            assert torch.equal(network(patches), model(patches))


@ONE_NORM
def test_nothing_in_a_torch_file_is_pickled(stored_torch: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(io.BytesIO(stored_torch)) as archive:
        stored = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    assert json.loads(stored["extra/segfed.json"]) == FACTS
    assert stored["data/sample_inputs/model.pt"] == b""
    pickles = [name for name, part in stored.items() if part[:2] in (b"\x80\x02", b"PK")]
    assert pickles == []
    for kind in ("weights/model_weights", "constants/model_constants"):
        described = json.loads(stored[f"data/{kind}_config.json"])["config"]
        assert not any(entry["use_pickle"] for entry in described.values())

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something is unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    assert torch.export.load(io.BytesIO(stored_torch))


@ONE_NORM
def test_a_torch_file_that_computes_something_else_is_refused(model, either_norm, stored_torch) -> None:
    changed = make_double(model).float()
    with torch.no_grad():
        changed.decoder.classify.bias += 1e-6
    with pytest.raises(ExportError, match=r"torch.export graph gives logits that differ .* was not written"):
        check_torch(stored_torch, changed, either_norm)


@ONE_NORM
@pytest.mark.parametrize("write", [write_onnx, write_torch])
def test_what_fails_its_check_is_not_written(write, model, either_norm, tmp_path: Path) -> None:
    """The graph of something else, whose logits are NaN."""
    broken = nn.Conv3d(1, either_norm.channels, 1)
    nn.init.constant_(broken.weight, torch.nan)
    with pytest.raises(ExportError):
        write(tmp_path / "model.file", trace(broken, either_norm), model, either_norm, FACTS)
    assert list(tmp_path.iterdir()) == []


@ONE_NORM
@pytest.mark.usefixtures("program")
def test_a_model_can_be_used_after_it_was_traced(model, either_norm, logits_before) -> None:
    """Matrices of interpolation that were first made while tracing would hold no values, in every model."""
    with torch.inference_mode():
        assert torch.equal(model(other_patches(either_norm, 1)), logits_before)


@ONE_NORM
def test_the_comparison_reports_the_largest_difference(either_norm, model) -> None:
    def off(patches: Tensor) -> np.ndarray:
        with torch.inference_mode():
            logits = model(patches).numpy()
        logits[-1, 0, 1, 2, 3] += 0.5
        return logits

    agreement = compare(model, either_norm, off, "by hand")
    assert agreement.difference == pytest.approx(0.5, abs=1e-6)
    assert (agreement.runtime, agreement.patches) == ("by hand", 6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", ["hippocampus", "phantom", "brats2017"])
def test_the_built_in_tasks_in_their_full_size(name: str, norm: str, make_model: MakeModel) -> None:
    """Also the strides of 3, the 128³ patches whose decoder goes row by row, and the file sizes."""
    task = TASKS[name]
    task = replace(task, model=replace(task.model, norm=norm))
    model = make_model(task)
    program = trace(model, task)
    for content, check in ((torch_bytes(program, FACTS), check_torch), (onnx_bytes(program, FACTS), check_onnx)):
        assert 18e6 < len(content) < 19.5e6
        agreement = check(content, model, task)
        assert agreement.difference < TOLERANCE / 4 * agreement.largest
