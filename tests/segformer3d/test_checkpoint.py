"""Models at rest: bit-equal round trips, the published formats, and one line for whatever is no such file."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import segformer3d
from segformer3d.checkpoint import from_published, load, load_state, read_weights, save, weights_sha256
from segformer3d.config import ModelConfig
from segformer3d.errors import CheckpointError
from segformer3d.files import StorageError
from segformer3d.model import SegFormer3D, build
from segformer3d.model_description import load_task
from segformer3d.published import translate_name
from segformer3d.tasks import Task
from tests.segformer3d.conftest import Golden

# What the weights of the golden model, narrower than the full size, do not show.
GOLDEN_HEADS = (1, 2, 5, 8)


def scrambled(config: ModelConfig) -> SegFormer3D:
    """A model whose every weight and statistic is random."""
    torch.manual_seed(3)
    model = build(config)
    for value in model.state_dict().values():
        value.copy_(torch.rand(value.shape) * 9)
    return model


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


# --- Round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_what_is_saved_is_loaded_bit_by_bit(tmp_path: Path, tiny_task: Task, norm: Any) -> None:
    model = scrambled(dataclasses.replace(tiny_task.model, norm=norm))
    path = tmp_path / "new folder" / "model.safetensors"
    save(path, model, tiny_task, {"round": 7})
    loaded = load(path)
    assert loaded.config == model.config
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert load_task(path) == tiny_task
    _, described = read_weights(path)
    assert described["notes"] == {"round": 7}
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_the_same_model_gives_the_same_file(tmp_path: Path, tiny_task: Task) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save(tmp_path / name, scrambled(tiny_task.model), tiny_task)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_model_without_a_task_says_so(tmp_path: Path, tiny_config: ModelConfig) -> None:
    path = tmp_path / "model.safetensors"
    save(path, build(tiny_config))
    with pytest.raises(CheckpointError, match="does not say what task it was trained for; name it with --task"):
        load_task(path)


def test_a_full_disk_leaves_the_older_model_and_nothing_else(
    tmp_path: Path, tiny_config: ModelConfig, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "model.safetensors"
    save(path, build(tiny_config))
    before = path.read_bytes()
    with full_disk(len(before) // 2), pytest.raises(StorageError, match=r"cannot write .* free space") as refused:
        save(path, scrambled(tiny_config))
    one_line(refused)
    assert isinstance(refused.value.__cause__, OSError)  # the reason that a site reports to its coordinator
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


# --- Published checkpoints -------------------------------------------------------------------------------------------


def as_published_file(folder: Path, state: dict[str, Tensor], form: str) -> Path:
    if form == "safetensors":
        save_file(state, folder / "model.safetensors")
        return folder / "model.safetensors"
    stored: Any = {f"module.{name}": value for name, value in state.items()} if "module" in form else state
    stored = {"epoch": 3, "state_dict": stored} if "state_dict" in form else stored
    torch.save(stored, folder / f"model{form.split()[0]}")
    return folder / f"model{form.split()[0]}"


@pytest.mark.parametrize(
    "form", ["safetensors", ".bin", ".pt", ".pth", ".bin module", ".pt state_dict", ".pt module state_dict"]
)
def test_published_files_give_the_published_logits(tmp_path: Path, golden: Golden, form: str) -> None:
    path = as_published_file(tmp_path, golden.named("weight"), form)
    model = segformer3d.load(path, num_heads=GOLDEN_HEADS)
    assert not model.training
    with torch.no_grad():
        logits = model(golden.tensors["input"].float())
    torch.testing.assert_close(logits, golden.tensors["eval_logits"], rtol=1e-4, atol=1e-4)


def test_a_published_state_dict_gives_the_published_logits(golden: Golden) -> None:
    model = from_published(golden.named("weight"), num_heads=GOLDEN_HEADS)
    with torch.no_grad():
        logits = model(golden.tensors["input"].float())
    torch.testing.assert_close(logits, golden.tensors["eval_logits"], rtol=1e-4, atol=1e-4)


def test_heads_that_the_published_rule_cannot_guess_may_be_named(golden: Golden) -> None:
    model = SegFormer3D(
        embed_dims=(100, 8, 8, 8),
        num_heads=(5, 1, 1, 1),
        sr_ratios=(1,) * 4,
        mlp_ratios=(1,) * 4,
        decoder_head_embedding_dim=8,
    )
    ours = model.state_dict()
    state = {name: ours[translate_name(name)] for name in golden.named("weight") if translate_name(name) in ours}
    assert from_published(state, num_heads=(5, 1, 1, 1)).config == model.config
    with pytest.raises(CheckpointError, match="must be a multiple of its heads"):
        from_published(state)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_heads": (3, 2, 5, 8)}, "must be a multiple of its heads"),
        ({"colour": "blue"}, "unknown model setting 'colour'"),
        (
            {"sr_ratios": (2, 2, 1, 1)},
            r"of another architecture: stages\.0\.blocks\.0\.attention\.reduce\.weight has shape",
        ),
        ({"sr_ratios": (1, 2, 1, 1)}, "of another architecture: it has an unknown stages"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_refused(
    tmp_path: Path, golden: Golden, arguments: dict[str, Any], text: str
) -> None:
    path = as_published_file(tmp_path, golden.named("weight"), ".pt")
    with pytest.raises(CheckpointError, match=text) as refused:
        load(path, **{"num_heads": GOLDEN_HEADS, **arguments})
    assert one_line(refused).startswith(str(path))


# --- What is no checkpoint -------------------------------------------------------------------------------------------


class Trap:
    """Unpickling one of these writes a file: the proof that code ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    path, sprung = tmp_path / f"model{suffix}", tmp_path / "sprung"
    trap = Trap(sprung)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": trap} if wrapped else trap, path)
    with pytest.raises(CheckpointError, match="holds more than weights") as refused:
        load(path)
    one_line(refused)
    assert not sprung.exists()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".pth", ".ckpt", ""])
@pytest.mark.parametrize("content", [b"", b"\x00", b"\x80\x02", bytes(range(256)) * 20, b'{"json": 1}\n' * 100])
def test_bytes_that_are_no_checkpoint_are_refused_in_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    for read in (load, load_task):
        with pytest.raises(CheckpointError) as refused:
            read(path)
        assert str(path) in one_line(refused)


@pytest.mark.parametrize("path", ["missing.safetensors", "missing.pt", "."])
def test_a_missing_file_is_said_to_be_missing(tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load(tmp_path / path)


def test_a_truncated_file_is_refused(tmp_path: Path, tiny_config: ModelConfig, golden: Golden) -> None:
    ours = tmp_path / "model.safetensors"
    save(ours, build(tiny_config))
    theirs = as_published_file(tmp_path, golden.named("weight"), ".pt")
    for path in (ours, theirs):
        truncated(path)
        with pytest.raises(CheckpointError, match="truncated") as refused:
            load(path)
        one_line(refused)


@pytest.mark.parametrize("stored", [[1, 2], {}, {"a": 1}, {"state_dict": {"a": "b"}}, torch.zeros(3), 7], ids=str)
def test_a_torch_file_without_a_state_dict_is_refused(tmp_path: Path, stored: Any) -> None:
    torch.save(stored, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="holds no state dict of tensors"):
        load(tmp_path / "model.pt")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    for name in ("other.safetensors", "other.pt"):
        with pytest.raises(CheckpointError, match="holds weights, but not those of a SegFormer3D"):
            load(tmp_path / name)


def rewrite(path: Path, drop: str | None = None, described: Any = None, **more: Tensor) -> None:
    """Exchange some of the content of a file of ours."""
    weights, before = read_weights(path)
    weights = {name: value for name, value in {**weights, **more}.items() if name != drop}
    after = {**before, **described} if isinstance(described, dict) else described or before
    save_file(weights, path, {"segfed": after if isinstance(after, str) else json.dumps(after)})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"drop": "decoder.classify.bias"}, "of another architecture: it lacks decoder.classify.bias"),
        ({"spare": torch.zeros(1)}, "of another architecture: it has an unknown spare"),
        ({"decoder.classify.bias": torch.zeros(4)}, r"decoder.classify.bias has shape \(4,\), not \(3,\)"),
        ({"described": {"format": "segfed-model-9"}}, "not those of a SegFormer3D that segfed can read"),
        ({"described": "{"}, "not those of a SegFormer3D that segfed can read"),
        ({"described": [1]}, "not those of a SegFormer3D that segfed can read"),
        ({"described": {"config": None}}, "does not describe its model properly"),
        ({"described": {"config": [1]}}, "does not describe its model properly"),
        ({"described": {"config": {"embed_dims": 8}}}, "embed_dims takes one entry per encoder stage, got 8"),
        ({"described": {"config": {"colour": 8}}}, "unknown model setting 'colour'"),
        ({"described": {"config": {"embed_dims": [8], "num_heads": [3]}}}, "needs 1 entries, one per stage"),
    ],
)
def test_a_file_of_another_architecture_is_refused(
    tmp_path: Path, tiny_config: ModelConfig, change: dict[str, Any], text: str
) -> None:
    path = tmp_path / "model.safetensors"
    save(path, build(tiny_config))
    rewrite(path, **change)
    with pytest.raises(CheckpointError, match=text) as refused:
        load(path)
    assert str(path) in one_line(refused)


@pytest.mark.parametrize("task", [None, [], 3, "x", {"name": "x"}, {"structures": [3]}, {"patch": "abc"}], ids=str)
def test_a_damaged_task_is_refused(tmp_path: Path, tiny_task: Task, task: Any) -> None:
    path = tmp_path / "model.safetensors"
    save(path, build(tiny_task.model), tiny_task)
    rewrite(path, described={"task": task})
    with pytest.raises(CheckpointError, match="describes its task in a way that this version cannot read") as refused:
        load_task(path)
    one_line(refused)


def test_a_refused_state_changes_nothing(tiny_config: ModelConfig) -> None:
    model, state = build(tiny_config), scrambled(tiny_config).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state["stages.1.norm.bias"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="this file is of another architecture"):
        load_state(model, state, "this file")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_files_hold_tensors_and_text_only(tmp_path: Path, tiny_config: ModelConfig) -> None:
    path = tmp_path / "model.safetensors"
    save(path, build(tiny_config))
    assert load_file(path).keys() == build(tiny_config).state_dict().keys()


def test_the_hash_is_that_of_names_types_shapes_and_bytes() -> None:
    a, b = torch.arange(6, dtype=torch.float32).reshape(2, 3), torch.tensor(7)
    packed = [b"a float32 (2, 3)\n", a.numpy().tobytes(), b"b int64 ()\n", b.numpy().tobytes()]
    assert weights_sha256({"b": b, "a": a}) == hashlib.sha256(b"".join(packed)).hexdigest()
