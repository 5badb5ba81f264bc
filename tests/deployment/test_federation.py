"""A whole federation between processes, over TLS with registered keys. Oracle: the simulation of the same sites."""

import json
import re

from .federation import ROUNDS, Simulated, federation_file
from .kill_matrix import same_weights
from .rig import Rig


def test_the_final_weights_are_those_of_the_simulation(rig: Rig, simulated: Simulated) -> None:
    run = rig.begin_run(federation_file())
    assert rig.outcome(run) is None, rig.logs()
    assert same_weights(run, simulated.folder)
    rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [len(record["sites"]) for record in rounds] == [3] * ROUNDS
    shown = rig.do("server", "status", rig.coordinator)
    assert re.search(rf"run {run.name}: complete", shown)


def test_no_patient_is_named_at_the_coordinator(rig: Rig) -> None:
    """Cases are called hippocampus_NNN; nothing that the coordinator keeps says so."""
    for path in rig.coordinator.rglob("*"):
        if path.is_file():
            assert not re.search(rb"hippocampus_\d", path.read_bytes()), path
