"""Finds the processes that an engine leaves behind."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

MARK = "SEGFED_TEST_MARK"


@pytest.fixture
def descendants(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The command lines of the living processes that were started, directly or not, by this test."""
    mark = f"{MARK}={uuid4()}".encode()
    monkeypatch.setenv(MARK, mark.decode().partition("=")[2])
    return lambda: [command for command in _commands(mark) if "resource_tracker" not in command]


def _commands(mark: bytes) -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark in (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has just ended, or is not ours
            continue
        if marked and process.name != str(os.getpid()) and command:
            yield command


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether the condition has come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
