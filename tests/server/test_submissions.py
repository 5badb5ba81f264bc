"""Runs that were cut off are submitted again: at once, after pauses that grow, and not for ever. Oracle: a clock."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from segformer3d.errors import FederationError
from segformer3d.files import write_json
from server import submissions
from server.coordinator import Coordinator
from server.run_folder import (
    OUTCOME_FILE,
    PROGRESS_FILE,
    SETTINGS_FILE,
    SUBMITTED_FILE,
    read_outcome,
    read_submissions,
    state_path,
)
from server.submissions import LONGEST_PAUSE_S, MOST_IN_VAIN, CutOffRuns, stop, submit

from ..client.tiny_site import RUN
from .test_coordinator import coordinator  # noqa: F401 - a fixture
from .tiny_federation import tiny_settings


class Flower:
    """The part of `server.control.Control` that runs need: numbers of runs, and which go on."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stopped: list[int] = []
        self.going_on: set[int] = set()

    def start(self, run: str) -> int:
        self.started.append(run)
        self.going_on.add(len(self.started))
        return len(self.started)

    def stop(self, number: int) -> None:
        self.stopped.append(number)
        self.going_on.discard(number)

    def is_going_on(self, number: int) -> bool:
        return number in self.going_on


@pytest.fixture
def folder(coordinator: Coordinator) -> Path:
    made = coordinator.run_folder(RUN)
    write_json(made / SETTINGS_FILE, tiny_settings().to_json())
    state_path(made, 0).touch()
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(submissions.time, "monotonic", lambda: now[0])
    return now


def test_a_run_is_submitted_once_at_a_time(coordinator: Coordinator, folder: Path) -> None:
    flower = Flower()
    submit(flower, coordinator, RUN)  # type: ignore[arg-type]
    with pytest.raises(FederationError, match="is going on"):
        submit(flower, coordinator, RUN)  # type: ignore[arg-type]
    stop(flower, coordinator, RUN)  # type: ignore[arg-type]
    assert read_outcome(folder) == (True, "stopped by the coordinator")
    with pytest.raises(FederationError, match="is not going on"):
        stop(flower, coordinator, RUN)  # type: ignore[arg-type]
    submit(flower, coordinator, RUN)  # type: ignore[arg-type]
    assert read_submissions(folder) == [1, 2]
    flower.going_on.clear()
    write_json(folder / OUTCOME_FILE, {"reason": None})
    with pytest.raises(FederationError, match="is complete"):
        submit(flower, coordinator, RUN)  # type: ignore[arg-type]


def test_pauses_grow_until_it_is_given_up(coordinator: Coordinator, folder: Path, clock: list[float]) -> None:
    flower, told = Flower(), []
    runs = CutOffRuns(coordinator, told.append)
    submit(flower, coordinator, RUN)  # type: ignore[arg-type]
    at = []
    while not read_outcome(folder)[0]:
        flower.going_on.clear()  # it dies at once
        before = len(flower.started)
        runs.resume(flower)  # type: ignore[arg-type]
        if len(flower.started) > before:
            at.append(clock[0])
        clock[0] += 0.5
    pauses = [later - earlier for earlier, later in pairwise(at)]
    assert len(at) == MOST_IN_VAIN
    assert pauses == [min(2.0**number, LONGEST_PAUSE_S) for number in range(MOST_IN_VAIN - 1)]
    reason = read_outcome(folder)[1]
    assert reason is not None
    assert f"died {MOST_IN_VAIN} times without completing round 1" in reason
    assert f"segfed server run --resume {RUN}" in reason


def test_a_round_that_was_completed_is_a_new_beginning(
    coordinator: Coordinator,
    folder: Path,
    clock: list[float],
) -> None:
    flower, told = Flower(), []
    runs = CutOffRuns(coordinator, told.append)
    submit(flower, coordinator, RUN)  # type: ignore[arg-type]
    for number in range(1, 3 * MOST_IN_VAIN):
        flower.going_on.clear()
        runs.resume(flower)  # type: ignore[arg-type]
        state_path(folder, number).touch()
    assert len(flower.started) == 3 * MOST_IN_VAIN
    assert not read_outcome(folder)[0]


def test_a_process_that_is_gone_is_noticed_before_flower_does(coordinator: Coordinator, folder: Path) -> None:
    flower = Flower()
    submit(flower, coordinator, RUN)  # type: ignore[arg-type]
    runs = CutOffRuns(coordinator, print)
    with subprocess.Popen([sys.executable, "-c", "input()", "flwr-serverapp"], stdin=subprocess.PIPE) as alive:
        write_json(folder / PROGRESS_FILE, {"process": alive.pid})
        runs.resume(flower)  # type: ignore[arg-type]
        assert len(flower.started) == 1
        alive.kill()
    write_json(folder / PROGRESS_FILE, {"process": os.getpid()})  # its number was given to another
    runs.resume(flower)  # type: ignore[arg-type]
    assert read_submissions(folder) == [1, 2]
    assert flower.stopped == [1]
    assert (folder / SUBMITTED_FILE).exists()
