"""A whole federation between processes, over TLS with registered keys. Oracle: the simulation of the same sites."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from .federation import ROUNDS, SITES, Simulated, federation_file
from .kill_matrix import same_weights
from .rig import Rig


@pytest.fixture(scope="module")
def run(rig: Rig) -> Path:
    """The folder of a run that nothing disturbed."""
    played = rig.begin_run(federation_file())
    assert rig.outcome(played) is None, rig.logs()
    return played


def test_the_final_weights_are_those_of_the_simulation(rig: Rig, run: Path, simulated: Simulated) -> None:
    assert same_weights(run, simulated.folder)
    assert [len(record["sites"]) for record in rounds_of(run)] == [SITES] * ROUNDS
    shown = rig.do("server", "status", rig.coordinator)
    assert re.search(rf"run {run.name}: complete", shown)


def rounds_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]


def test_both_ends_have_written_down_the_same(rig: Rig, run: Path) -> None:
    """What the coordinator sent is what the sites received, and the other way round, by SHA-256."""
    ours = [line for line in trail(rig, rig.coordinator / "audit.jsonl") if line["run"] == run.name]
    for name in rig.site_data:
        theirs = trail(rig, rig.folder / name / "work" / "audit.jsonl")
        for here, there in (("sent", "received"), ("received", "sent")):
            mine = [line["sha256"] for line in ours if line["what"] == here and line["peer"] == name]
            assert mine == [
                line.get("sha256") for line in theirs if line["what"] == there and line.get("sha256") in mine
            ]
            assert len(mine) == 1 + ROUNDS + 1
    used = [line["peer"] for line in ours if line["what"] == "used" and line["kind"] == "train"]
    assert sorted(used) == sorted(list(rig.site_data) * ROUNDS)


def trail(rig: Rig, path: Path) -> list[dict[str, Any]]:
    assert "lines hang together" in rig.do("audit", "verify", path)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("run")
def test_no_patient_is_named_at_the_coordinator(rig: Rig) -> None:
    """Cases are called hippocampus_NNN; nothing that the coordinator keeps says so."""
    for path in rig.coordinator.rglob("*"):
        if path.is_file():
            assert not re.search(rb"hippocampus_\d", path.read_bytes()), path


def test_a_site_in_order_passes_its_check(rig: Rig) -> None:
    shown = rig.do("site", "check", rig.folder / "site-1")
    assert "FAIL" not in shown
    for line in (
        "key",
        "data",
        "device",
        "disk",
        "privacy ledger",
        "certificate of the coordinator",
        "TLS",
        "clock",
        "standing",
    ):
        assert line in shown
    status = rig.do("site", "status", rig.folder / "site-1")
    assert re.search(r"supernode \(connects\): runs", status)
    assert re.search(r"worker \(computes\): runs", status)


@pytest.fixture(scope="module")
def private_run(rig: Rig) -> Path:
    """The folder of a private run of two rounds."""
    asked = "[privacy]\nepsilon = 8.0\npatients = 4\nlocal_steps = 1\ncrops = 1\n"
    played = rig.begin_run(federation_file(rounds=2, strategy="fedavg", exchange="fp32") + asked)
    assert rig.outcome(played) is None, rig.logs()
    return played


@pytest.mark.slow
def test_a_private_run_costs_what_was_said_before_and_tells_nothing_else(private_run: Path) -> None:
    spent = [[site["epsilon"] for site in record["sites"]] for record in rounds_of(private_run)]
    assert [len(record) for record in spent] == [SITES] * 2
    assert all(7.5 < epsilon <= 8.0 for epsilon in spent[-1])
    assert all(before < after for pair in pairwise(spent) for before, after in zip(*pair, strict=True))
    for record in rounds_of(private_run):
        for site in record["sites"]:
            assert {site[name] for name in ("loss", "validation_loss", "training_seconds")} == {None}
            assert site["cases"] == 4  # public; a site has more
            assert site["dice"] == [None] * len(site["dice"])


@pytest.mark.slow
def test_a_private_run_is_in_every_sites_ledger(rig: Rig, private_run: Path) -> None:
    for name in rig.site_data:
        assert "lines hang together" in rig.do("ledger", "verify", rig.folder / name)
        assert private_run.name in rig.do("ledger", "show", rig.folder / name)
        assert "its patients have spent epsilon" in rig.do("site", "check", rig.folder / name)
