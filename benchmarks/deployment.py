"""Section: a round between processes, as hospitals play it: coordinator, gate, TLS, keys, and three sites on loopback.

The work is trivial (a tiny network, a few phantoms), so that what is measured is the way: Flower's polling and its
database, the gate, and what the processes on both sides add.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import table
from benchmarks.settings import Settings
from segformer3d.addresses import LOOPBACK, free_port
from server.run_folder import read_outcome
from simulations.phantoms import write_phantom_federation

SITES, CASES = 3, 6
PATIENCE_S = 300.0
# The smallest network that has every kind of layer; tests of federations between processes use it, too.
TINY = """
[model]
embed_dims = [8, 16]
num_heads = [1, 2]
mlp_ratios = [2, 2]
depths = [1, 1]
sr_ratios = [2, 1]
patch_kernel_size = [3, 3]
patch_stride = [2, 2]
patch_padding = [1, 1]
decoder_head_embedding_dim = 16

[grid]
patch = [16, 16, 16]
"""


def measure_deployment(settings: Settings) -> dict[str, Any] | None:
    """Seconds of the rounds of a run, and of its slowest site's work in each; None when it is left out."""
    if not settings.trivial_rounds:
        return None
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        coordinator = _set_up(folder, running)
        asked = f'task = "phantom"\nrounds = {settings.trivial_rounds}\nminimum_sites = {SITES}\n'
        (folder / "federation.toml").write_text(asked + TINY)
        _segfed("server", "run", folder / "federation.toml", "--folder", coordinator)
        (run,) = (coordinator / "runs").iterdir()
        _wait("the end of the run", lambda: read_outcome(run)[0])
        rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    work = [max(s["training_seconds"] + s["validation_seconds"] for s in r["sites"]) for r in rounds]
    return {"sites": SITES, "round_seconds": [r["seconds"] for r in rounds], "work_seconds": work}


def describe_deployment(found: Mapping[str, Any] | None) -> str:
    """The section in Markdown."""
    if found is None:
        return "Left out of the quick report."
    median, work = (statistics.median(found[name]) for name in ("round_seconds", "work_seconds"))
    worst = max(found["round_seconds"])
    header = ("sites", "rounds", "round, median", "round, longest", "of it the slowest site's work")
    row = (str(found["sites"]), str(len(found["round_seconds"])), f"{median:.1f} s", f"{worst:.1f} s", f"{work:.1f} s")
    return table(header, [row])


def _set_up(folder: Path, running: ExitStack) -> Path:
    """A coordinator and its sites, all of them running; returns the coordinator's folder."""
    coordinator, port = folder / "coordinator", free_port()
    address = f"{LOOPBACK}:{port}"
    _segfed("server", "init", coordinator, "--host", LOOPBACK, "--port", port, "--listen", address)
    data = write_phantom_federation(folder / "data", [CASES] * SITES, 1, seed=0)
    sites = []
    for place in data.sites:
        site = folder / place.name
        _segfed("site", "init", site, "--name", place.name, "--data", place, "--coordinator", address)
        (site / "coordinator.crt").write_bytes((coordinator / "coordinator.crt").read_bytes())
        (site / "site.toml").write_text("threads = 1\n" + (site / "site.toml").read_text())
        _segfed("server", "add-site", place.name, site / "site.pub", "--folder", coordinator)
        sites.append(site)
    running.enter_context(_kept_running("server", "start", coordinator))
    for site in sites:
        running.enter_context(_kept_running("site", "join", site))
    _wait("the sites", lambda: _segfed("server", "status", coordinator).count(" yes ") == SITES)
    return coordinator


def _wait(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} took longer than {PATIENCE_S:.0f} s")
        time.sleep(0.5)


def _command(*words: object) -> list[str]:
    return [sys.executable, "-m", "segfed", *map(str, words)]


def _segfed(*words: object) -> str:
    return subprocess.run(_command(*words), check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own


@contextmanager
def _kept_running(*words: object) -> Iterator[None]:
    process = subprocess.Popen(_command(*words), stdout=subprocess.DEVNULL)  # noqa: S603 - our own
    try:
        yield
    finally:
        process.terminate()
        process.wait()
