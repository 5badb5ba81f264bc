"""Whole runs of `segfed simulate --scenario`: what the run folder says, and that a resumed run is as hostile."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulations.run import resume_simulation, start_simulation
from simulations.settings import SimulationSettings

MODEL = {
    "embed_dims": [8, 16],
    "num_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "patch_kernel_size": [3, 3],
    "patch_stride": [2, 2],
    "patch_padding": [1, 1],
    "decoder_head_embedding_dim": 16,
}


@pytest.fixture
def simulate(tmp_path: Path, source: Path) -> Callable[..., Path]:
    """`simulate(scenario, rounds)` runs it with three sites, one after another in this process."""

    def run(scenario: str, rounds: int = 1) -> Path:
        settings = SimulationSettings(
            data=source,
            sites=3,
            rounds=rounds,
            scenario=scenario,
            parallel=1,
            device="cpu",
            model=MODEL,
            grid={"patch": [12, 12, 12]},
        )
        return start_simulation(settings, tmp_path / scenario)

    return run


def rounds_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]


def test_a_site_that_merges_is_trained_with_and_measured_by_what_it_tells(simulate: Callable[..., Path]) -> None:
    run = simulate("labels")
    (record,) = rounds_of(run)
    dice = {site["site"]: site["dice"] for site in record["sites"]}
    assert dice["site-2"] == [None, None]
    assert None not in (*dice["site-1"], *record["measured"]["dice"])
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["scenario"], summary["partition"]) == ("labels", "iid")
    assert "scenario labels: one hospital outlines 1 voxel wider" in (run / "report.md").read_text()


@pytest.mark.slow
def test_a_resumed_run_is_as_hostile(simulate: Callable[..., Path], tmp_path: Path) -> None:
    whole = simulate("hostile-random", rounds=2)
    begun = tmp_path / "begun"
    shutil.copytree(whole, begun, symlinks=True)
    for name in ("state-0002.safetensors", "summary.json", "result.json", "last.safetensors"):
        (begun / name).unlink()
    resume_simulation(begun)
    hashes = [json.loads((run / "summary.json").read_text())["weights_sha256"] for run in (whole, begun)]
    assert hashes[0] == hashes[1]
    norms = [site["update_norm"] for site in rounds_of(begun)[1]["sites"]]
    assert norms[2] > 3 * max(norms[:2])
