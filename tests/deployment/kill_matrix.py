"""`python -m tests.deployment.kill_matrix`: kill -9 of every kind of process in every phase of a round, one cell each.

A cell is a run of its own on a running federation. It survives when the run completes without anybody's help, and is
exact when its final weights are those of the undisturbed simulation to the last bit. Site-1 is the victim among sites.
"""

import argparse
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

from .federation import Simulated, federation_file, simulate
from .rig import Rig

VICTIM = "site-1"
# What is killed: whose process it is, and what its command line holds.
KINDS = {
    "ServerApp": ("coordinator", "flwr-serverapp"),
    "SuperLink": ("coordinator", "flower-superlink"),
    "gate": ("coordinator", "server.gate_process"),
    "executor": ("coordinator", "flower-superexec"),
    "SuperNode": (VICTIM, "client.supernode"),
    "ClientApp": (VICTIM, "client.worker"),
}
PHASES = ("before the round", "training", "the reply travels", "aggregating", "between rounds")
LONGER: Mapping[str, int | str] = {"rounds": 3, "local_epochs": 25}  # so many passes that training takes seconds


@dataclass(frozen=True)
class Cell:
    """What became of a run: whether it completed, whether its weights are right, and how long it took."""

    survived: bool
    exact: bool
    seconds: float


def play_cell(rig: Rig, simulated: Simulated, kind: str, phase: str) -> Cell:
    """Begin a run, kill one process once in its second round, and see how it ends."""
    began = time.monotonic()
    run = rig.begin_run(federation_file(**LONGER))
    moment = _Moment(rig, run)
    phases = {
        "before the round": (run / "progress.json").exists,
        "training": moment.training,
        "the reply travels": moment.travelling,
        "aggregating": moment.aggregating,
        "between rounds": moment.between,
    }
    rig.wait(phase, phases[phase], pause_s=0.002)
    owner, part = KINDS[kind]
    rig.process_of(owner, part).kill()
    reason = rig.outcome(run, patience_s=600)
    exact = reason is None and same_weights(run, simulated.folder)
    return Cell(reason is None, exact, time.monotonic() - began)


def same_weights(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same weights, to the last bit."""
    ours, theirs = load_file(one / "last.safetensors"), load_file(other / "last.safetensors")
    return set(ours) == set(theirs) and all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


class _Moment:
    """Tells when the second round of a run is in a phase."""

    def __init__(self, rig: Rig, run: Path) -> None:
        self._run = run
        self._log = rig.folder / VICTIM / "work" / "supernode.log"
        self._start = len(self._log.read_text())

    def training(self) -> bool:
        """The victim has the message of round 2, and had a second to begin."""
        if "ROUND 2]" not in self._told() or "Received successfully" not in self._told().split("ROUND 2]", 1)[1]:
            return False
        time.sleep(1)
        return True

    def travelling(self) -> bool:
        """The victim is sending its reply of round 2."""
        return "Sending" in self._told().split("ROUND 2]", 1)[-1] and self._told().count("ROUND 2]") > 1

    def aggregating(self) -> bool:
        """Everybody has answered in round 2: its average is on the way to the disk, or has just got there."""
        progress = self._progress()
        return self.between() or (progress["round"] == 2 and set(progress["sites"].values()) == {"answered"})

    def between(self) -> bool:
        """Round 2 is done."""
        return len(self._progress()["round_seconds"]) >= 2 or self._progress()["round"] > 2

    def _told(self) -> str:
        return self._log.read_text()[self._start :]

    def _progress(self) -> dict[str, object]:  # type: ignore[type-arg]
        try:
            return json.loads((self._run / "progress.json").read_text())  # type: ignore[no-any-return]
        except FileNotFoundError:
            return {"round": 0, "sites": {}, "round_seconds": []}


def main(kinds: Sequence[str], phases: Sequence[str], cases: Path, say: Callable[[str], None] = print) -> None:
    """Play the cells and print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulated = simulate(cases, folder / "simulated", **LONGER)
        with Rig(folder / "rig", simulated.sites, simulated.threads) as rig:
            rig.start_coordinator()
            rig.join(*rig.site_data)
            say("| killed | " + " | ".join(phases) + " |\n| --- |" + " --- |" * len(phases))
            cells = {}
            for kind, phase in itertools.product(kinds, phases):
                try:
                    cells[kind, phase] = play_cell(rig, simulated, kind, phase)
                except AssertionError as error:
                    cells[kind, phase] = Cell(False, False, math.nan)
                    print(error, file=sys.stderr)
                print(kind, phase, _spoken(cells[kind, phase]), file=sys.stderr, flush=True)
                rig.wait("the sites", lambda: all(rig.is_connected(site) for site in rig.site_data))
            for kind in kinds:
                say(f"| {kind} | " + " | ".join(_spoken(cells[kind, phase]) for phase in phases) + " |")
            survived, exact = (sum(getattr(cell, name) for cell in cells.values()) for name in ("survived", "exact"))
            say(f"\n{survived} of {len(cells)} survived, {exact} exact")


def _spoken(cell: Cell) -> str:
    return f"{'exact' if cell.exact else 'survived' if cell.survived else 'LOST'}, {cell.seconds:.0f} s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=Path, required=True, help="labelled hippocampus cases")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--phases", nargs="+", default=list(PHASES), choices=PHASES)
    asked = parser.parse_args()
    main(asked.kinds, asked.phases, asked.cases)
