"""What sites remember from round to round is theirs, whichever process works for them. Oracle: bits.

The strategy keeps all kinds of memory at once: control variates, norms, personal models and what compression left out.
"""

import hashlib
from pathlib import Path

import pytest

from server.app import make_server_app
from server.strategies.strategy import strategy_from_json
from simulations.engines import EngineSettings, run_local
from tests.client.tiny_site import RUN, ball_of_one_window, tiny_site
from tests.server.tiny_federation import tiny_settings, tiny_state
from tests.simulations.tiny_source import tiny_source

SITES = 2
KINDS = {"memory", "personal", "residual"}


def play(folder: Path, at_once: int) -> dict[str, str]:
    """Hashes of the model and of each file that a site has kept, after two rounds."""
    sites = [tiny_site(folder, f"site-{number}", seed=number, draw=ball_of_one_window) for number in range(SITES)]
    strategy = strategy_from_json({"name": "scaffold", "local_norms": True, "personal": 0.1})
    settings = tiny_settings(rounds=2, exchange="compact", strategy=strategy)
    server = make_server_app(settings, folder / "run", tiny_state(settings), lambda event: None)
    run_local(server, tiny_source(sites), SITES, EngineSettings(at_once, folder / "engine.log"))
    kept = [path for site in sites for path in (site.work / RUN).glob("*-0002.safetensors")]
    assert {path.stem.partition("-")[0] for path in kept} >= KINDS
    left = [folder / "run" / "last.safetensors", *kept]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in left}


@pytest.mark.usefixtures("no_site_remembered")
def test_two_processes_leave_the_same_bits_as_one(tmp_path: Path) -> None:
    two = play(tmp_path / "two", 2)
    assert len(two) >= 1 + SITES * len(KINDS)
    assert two == play(tmp_path / "one", 1)
