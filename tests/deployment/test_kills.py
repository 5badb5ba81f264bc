"""kill -9 in the middle of a round; `python -m tests.deployment.kill_matrix` plays all processes in all phases."""

import pytest

from .federation import Simulated, simulate
from .kill_matrix import KINDS, LONGER, PHASES, play_cell
from .rig import Rig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory, shared) -> Simulated:
    """The same sites with rounds that take seconds."""
    return simulate(shared / "data" / "hippocampus", tmp_path_factory.mktemp("longer"), **LONGER)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_costs_a_round_at_most(rig: Rig, longer: Simulated, kind: str, phase: str) -> None:
    cell = play_cell(rig, longer, kind, phase)
    assert cell.survived, rig.logs()
    assert cell.exact
    rig.wait("the sites", lambda: all(rig.is_connected(name) for name in rig.site_data))
