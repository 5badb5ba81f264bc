"""What `segfed server status` says of a run. Oracle: by hand."""

import time

import pytest

from server.run_folder import DONE, MEASURING, TRAINING, Progress
from server.status import _state


@pytest.mark.parametrize(
    ("progress", "over", "reason", "told"),
    [
        (None, False, None, "submitted"),
        (None, True, None, "complete"),
        (None, True, "its sites are gone", "stopped, its sites are gone"),
        (Progress(phase=DONE), False, None, "closing"),
        (Progress(process=2**22 + 1, round=3), False, None, "its program ended in round 3, and is started again"),
    ],
)
def test_a_run_that_does_not_compute(progress: Progress | None, over: bool, reason: str | None, told: str) -> None:
    assert _state(progress, over, reason).startswith(told)


@pytest.mark.parametrize(("times", "left"), [([], ""), ([60, 120], ", about 4 min 30 s left")])
def test_a_run_that_computes(times: list[float], left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "is_alive", lambda self: True)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    told = {"round": 3, "rounds": 5, "since": 970.0, "round_seconds": times, "bytes_down": 2_000_000, "bytes_up": 1000}
    for phase in (TRAINING, MEASURING):
        found = _state(Progress(phase=phase, **told), over=False, reason=None)
        assert found == f"{phase}, round 3 of 5, for 30.0 s{left}; 2.0 MB down, 1.0 kB up"
