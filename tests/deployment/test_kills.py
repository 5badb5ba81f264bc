"""kill -9 in the middle of a round; `python -m tests.deployment.kill_matrix` plays all processes in all phases."""

import pytest

from .federation import Simulated, simulate
from .kill_matrix import HOW, KINDS, PHASES, play_cell
from .rig import Rig

FAST = {("ServerApp", "training")}


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory, shared) -> Simulated:
    """The same sites with a strategy and an exchange that remember, and rounds that take seconds."""
    return simulate(shared / "data" / "hippocampus", tmp_path_factory.mktemp("longer"), **HOW)


@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        pytest.param(kind, phase, marks=() if (kind, phase) in FAST else pytest.mark.slow)
        for kind in KINDS
        for phase in PHASES
    ],
)
def test_a_killed_process_costs_a_round_at_most(rig: Rig, longer: Simulated, kind: str, phase: str) -> None:
    cell = play_cell(rig, longer, kind, phase)
    assert cell.survived, rig.logs()
    assert cell.exact
    rig.wait("the sites", lambda: all(rig.is_connected(name) for name in rig.site_data))
