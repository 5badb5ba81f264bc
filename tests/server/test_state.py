"""The server's state on disk: whole or absent, read strictly, resumed only by what it belongs to."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from segformer3d.checkpoint import save
from segformer3d.errors import CheckpointError, ConfigurationError
from segformer3d.files import StorageError
from segformer3d.model import build
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import get_task
from server.run_folder import newest_state, state_path
from server.state import (
    FORMAT,
    Best,
    ServerState,
    begin,
    check_resumable,
    read_state,
    write_state,
)

from ..client.tiny_site import RUN, TINY, TINY_MODEL, tiny_weights
from .tiny_federation import tiny_settings

SETTINGS = tiny_settings()


def state_after(round_number: int) -> ServerState:
    history = tuple({"round": n, "agreement": None} for n in range(1, round_number + 1))
    return replace(begin(RUN, SETTINGS, tiny_weights()), round=round_number, best=Best(1, 0.5), history=history)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for state in (begin(RUN, SETTINGS, tiny_weights()), state_after(3)):
        found = read_state(write_state(tmp_path, state))
        for name in ("run", "round", "fingerprint", "best", "history"):
            assert getattr(found, name) == getattr(state, name)
        assert set(found.weights) == set(state.weights)
        for name, value in state.weights.items():
            assert found.weights[name].tobytes() == value.tobytes()
            assert (found.weights[name].dtype, found.weights[name].shape) == (value.dtype, value.shape)


def test_what_is_remembered_beside_the_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    held = {name: value + 1 for name, value in tiny_weights().items()}
    memory = {"held": held, "strategy/first": {"a.b": np.arange(3.0)}}
    state = replace(state_after(3), memory=memory)
    found = read_state(write_state(tmp_path, state))
    check_resumable(found, SETTINGS)
    assert set(found.weights) == set(state.weights)
    assert set(found.memory) == set(memory)
    for who, values in memory.items():
        assert set(found.memory[who]) == set(values)
        for name, value in values.items():
            assert found.memory[who][name].tobytes() == np.ascontiguousarray(value).tobytes()
            assert found.memory[who][name].dtype == value.dtype
    with pytest.raises(CheckpointError, match="not finite"):
        read_state(write_state(tmp_path, replace(state, memory={"held": {"a": np.array([np.nan])}})))


def test_the_newest_two_are_kept_and_found(tmp_path: Path) -> None:
    assert newest_state(tmp_path / "none") is None
    for number in (9_998, 9_999, 10_000):
        write_state(tmp_path, replace(state_after(0), round=number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-10000.safetensors", "state-9999.safetensors"]
    assert newest_state(tmp_path) == state_path(tmp_path, 10_000)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path, share: float) -> None:
    path = write_state(tmp_path, state_after(1))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"state-0001.safetensors is damaged .*remove it") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = state_path(tmp_path, 1)
    with pytest.raises(CheckpointError, match="there is no server state"):
        read_state(path)
    path.write_bytes(b"{}" * 1000)
    with pytest.raises(CheckpointError, match="damaged"):
        read_state(path)
    save(path, build(TINY_MODEL), TINY)
    with pytest.raises(CheckpointError, match="is no server state of this version of segfed"):
        read_state(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"run": 3}, "is damaged"),
        ({"run": None}, "is damaged"),
        ({"round": -1}, "is damaged"),
        ({"round": 1.0}, "is damaged"),
        ({"best": [1]}, "is damaged"),
        ({"best": {"round": 1}}, "is damaged"),
        ({"history": {}}, "is damaged"),
        ({"format": "segfed-state-1"}, "is no server state of this version"),
    ],
)
def test_a_description_that_segfed_did_not_write_is_refused(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    described = {"format": FORMAT, "run": "r", "round": 1, "fingerprint": {}, "history": [], "best": None}
    path = state_path(tmp_path, 1)
    save_file({"w": np.zeros(1, np.float32)}, path, {"segfed": json.dumps(described)})
    assert read_state(path).round == 1
    save_file({"w": np.zeros(1, np.float32)}, path, {"segfed": json.dumps({**described, **change})})
    with pytest.raises(CheckpointError, match=reason):
        read_state(path)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_description_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = state_path(tmp_path, 1)
    save_file({"w": np.zeros(1, np.float32)}, path, {"segfed": text})
    with pytest.raises(CheckpointError):
        read_state(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = state_after(1)
    weights = {**state.weights, "decoder.classify.bias": np.full(2, np.nan, np.float32)}
    with pytest.raises(CheckpointError, match="not finite"):
        read_state(write_state(tmp_path, replace(state, weights=weights)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rounds": 9}, "rounds was 3 and is 9"),
        ({"seed": 8}, "seed was 7 and is 8"),
        ({"training": TrainingSettings(learning_rate=0.5)}, "training.learning_rate was 0.001 and is 0.5"),
        ({"task": replace(TINY, patch=(8, 8, 8))}, r"task.patch was \[16, 16, 16\] and is \[8, 8, 8\]"),
        (
            {"task": replace(TINY, model=replace(TINY_MODEL, embed_dims=(8, 32)))},
            r"task.model.embed_dims was \[8, 16\] and is \[8, 32\]",
        ),
        ({"task": get_task("phantom")}, "task.activation was"),
    ],
)
def test_other_settings_are_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(CheckpointError, match=named) as caught:
        check_resumable(state_after(1), replace(SETTINGS, **change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_who_takes_part_and_how_long_one_waits_may_change() -> None:
    check_resumable(state_after(1), replace(SETTINGS, minimum_sites=1, round_deadline_s=5.0, prepare_deadline_s=5.0))


def test_weights_of_another_architecture_are_named() -> None:
    weights = dict(tiny_weights())
    del weights["decoder.classify.bias"]
    with pytest.raises(
        CheckpointError, match=r"another architecture than task tiny: .*decoder.classify.bias is missing"
    ):
        check_resumable(replace(state_after(1), weights=weights), SETTINGS)
    with pytest.raises(CheckpointError, match="the initial model is of another architecture"):
        begin(RUN, SETTINGS, weights)


def test_a_runs_id_is_a_name() -> None:
    with pytest.raises(ConfigurationError, match="a run's id takes"):
        begin("../run", SETTINGS, tiny_weights())


FullDisk = Callable[[int], AbstractContextManager[None]]


def test_a_full_disk_leaves_the_old_state_and_nothing_else(tmp_path: Path, full_disk: FullDisk) -> None:
    """A real write that the kernel refuses half-way: the process may not write files beyond 5 kB."""
    old = write_state(tmp_path, state_after(1))
    before = old.read_bytes()
    assert len(before) > 20_000
    with full_disk(5_000), pytest.raises(StorageError, match="cannot write") as refused:
        write_state(tmp_path, state_after(2))
    line = str(refused.value)
    assert "state-0002.safetensors" in line
    assert len(line.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        write_state(tmp_path / "file", state_after(1))
