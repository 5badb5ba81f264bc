"""The server's state: one value, all that resuming a run needs, in one safetensors file a round.

`state-0007.safetensors` holds the global weights after round 7 and, as JSON in its metadata, everything else. It is put
in place in one step, and the newest two are kept, so a crash, a full disk or Ctrl-C at any moment costs at most the
round that was under way.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from client.names import RUN_NAME
from client.weights import Weights, check_layout, layout_of
from segformer3d.errors import CheckpointError, ConfigurationError, ReplyError
from segformer3d.files import storage_errors
from segformer3d.model import skeleton
from segformer3d.tensor_file import write_tensors
from server.federation import FederationSettings
from server.run_folder import round_of, state_path, states

FORMAT = "segfed-state-3"
KEPT = 2
_DESCRIPTION = "segfed"
_FIELDS: Mapping[str, type] = {"run": str, "round": int, "fingerprint": dict, "history": list}


@dataclass(frozen=True)
class Best:
    """The round whose model scored best so far, and its mean Dice."""

    round: int
    dice: float


@dataclass(frozen=True, eq=False)
class ServerState:
    """A run between two rounds.

    Attributes:
        run: the run's id; sites keep their optimizer states under it.
        round: rounds that are complete, from 0.
        weights: the global model.
        fingerprint: `FederationSettings.fingerprint()` of the run.
        best: the best model so far, once one was measured.
        history: the rounds' records as JSON values.
        memory: what else is to be known in the next round, by who knows it: models or what is shaped like them.
    """

    run: str
    round: int
    weights: Weights
    fingerprint: Mapping[str, Any]
    best: Best | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    memory: Mapping[str, Weights] = field(default_factory=dict)


def begin(run: str, settings: FederationSettings, weights: Weights) -> ServerState:
    """The state of a run before its first round.

    Raises:
        ConfigurationError: the run's id is not 1 to 64 letters, digits, - and _.
        CheckpointError: the weights are not those of the task's model.
    """
    if not RUN_NAME.fullmatch(run):
        raise ConfigurationError(f"a run's id takes 1 to 64 letters, digits, - and _, got {run!r}")
    _check_architecture(weights, settings, "the initial model")
    return ServerState(run, 0, weights, settings.fingerprint())


def write_state(folder: Path, state: ServerState) -> Path:
    """Write a state, whole or not at all, and keep the newest two.

    Raises:
        StorageError: it cannot be written; the older states are untouched.
    """
    path = state_path(folder, state.round)
    best = [state.best.round, state.best.dice] if state.best else None
    described = {"format": FORMAT, **{name: getattr(state, name) for name in _FIELDS}, "best": best}
    earlier = [old for old in states(folder) if round_of(old) < state.round]
    superseded = earlier[0] if len(earlier) >= KEPT else None
    tensors = {**state.weights, **{f"{who}/{n}": v for who, values in state.memory.items() for n, v in values.items()}}
    write_tensors(path, tensors, {_DESCRIPTION: json.dumps(described, allow_nan=False)}, superseded)
    for old in states(folder)[:-KEPT]:
        with storage_errors(old):
            old.unlink(missing_ok=True)
    return path


def read_state(path: Path) -> ServerState:
    """Read a state strictly.

    Raises:
        CheckpointError: the file is missing, truncated, foreign, or says what cannot be.
    """
    tensors, values = _read(path)
    best = values.get("best")
    if any(type(values.get(name)) is not kind for name, kind in _FIELDS.items()) or values["round"] < 0:
        raise _unreadable(path, "its description is not what segfed writes")
    if best is not None and not (isinstance(best, list) and [type(value) for value in best] == [int, float]):
        raise _unreadable(path, "its description is not what segfed writes")
    if not all(np.isfinite(value).all() for value in tensors.values()):
        raise _unreadable(path, "its weights are not finite")
    fields = {**{name: values[name] for name in _FIELDS}, "history": tuple(values["history"])}
    weights, memory = _parted(tensors)
    return ServerState(**fields, weights=weights, best=None if best is None else Best(*best), memory=memory)


def _parted(tensors: Weights) -> tuple[Weights, Mapping[str, Weights]]:
    """The model, whose names have no slash, and what is remembered beside it."""
    parts: dict[str, dict[str, Any]] = {"": {}}
    for name, value in tensors.items():
        who, _, own = name.rpartition("/")
        parts.setdefault(who, {})[own] = value
    return parts.pop(""), parts


def check_resumable(state: ServerState, settings: FederationSettings) -> None:
    """Whether a run may go on with these settings.

    Raises:
        CheckpointError: the state belongs to other settings or another architecture; the text names what differs.
    """
    differences = _differences(state.fingerprint, settings.fingerprint())
    if differences:
        raise CheckpointError(
            f"the run {state.run} was begun with other settings: {differences[0]}; "
            "resume it with its own, or begin a new run in another folder"
        )
    _check_architecture(state.weights, settings, f"the state of run {state.run}")


def _check_architecture(weights: Weights, settings: FederationSettings, what: str) -> None:
    try:
        check_layout(weights, layout_of(skeleton(settings.task.model)))
    except ReplyError as error:
        raise CheckpointError(f"{what} is of another architecture than task {settings.task.name}: {error}") from error


def _read(path: Path) -> tuple[Weights, dict[str, Any]]:
    """The weights, and what the file says of itself."""
    if not path.is_file():
        raise CheckpointError(f"there is no server state {path}")
    try:
        with safe_open(path, "np") as stored:
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            values = json.loads((stored.metadata() or {}).get(_DESCRIPTION, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no server state of this version of segfed; point to the folder of a run, or, where another "
            "version began the run, go on with that version"
        )
    return weights, values


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({reason}); remove it, and the run resumes from the round before")


def _differences(then: Any, now: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, as "training.learning_rate was 0.001 and is 0.01"."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        keys = sorted(set(then) | set(now))
        return [line for key in keys for line in _differences(then.get(key), now.get(key), f"{name}.{key}".lstrip("."))]
    return [] if then == now else [f"{name} was {json.dumps(then)} and is {json.dumps(now)}"]
