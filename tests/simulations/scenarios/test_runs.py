"""Whole runs of `segfed simulate --scenario`: what the run folder says, and that a resumed run is as hostile."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segformer3d.checkpoint import load
from segformer3d.dataset import prepare
from segformer3d.training import validate
from server.records import mean_dice
from server.strategies.strategy import named_strategy
from simulations.outcomes import outcome_of, pooled_outcome
from simulations.run import resume_simulation, start_simulation
from simulations.run_folder import read_run
from simulations.scenarios import SCENARIOS, get_scenario
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

    def run(scenario: str, rounds: int = 1, **more: Any) -> Path:
        settings = SimulationSettings(
            data=source,
            sites=3,
            rounds=rounds,
            scenario=scenario,
            parallel=1,
            device="cpu",
            model=MODEL,
            grid={"patch": [12, 12, 12]},
            **more,
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


def test_a_hostile_site_has_no_say_in_what_a_run_is_worth(simulate: Callable[..., Path], tmp_path: Path) -> None:
    """Its labels are reversed, so that a good model looks bad there. Oracle: the run's own records, without it."""
    place = simulate("hostile-labels", rounds=2)
    final = json.loads((place / "result.json").read_text())["sites"]
    dice = {name: mean_dice(report["dice"]) for name, report in final.items()}
    assert set(dice) == {"site-1", "site-2", "site-3"}
    found = outcome_of(place, "fedavg", 0)
    assert found.worst == min(dice["site-1"], dice["site-2"])
    sent = {site["site"]: site for site in rounds_of(place)[1]["sites"]}
    for point, reports, count in ((found.curve[0], sent, "validation_cases"), (found.curve[1], final, "cases")):
        honest = [reports[name] for name in ("site-1", "site-2")]
        weights = [report[count] for report in honest]
        by_structure = [np.average([report["dice"][s] for report in honest], weights=weights) for s in range(2)]
        assert point[2] == pytest.approx(np.mean(by_structure))
    shutil.rmtree(place / "sites" / "site-3")
    assert pooled_outcome(place, 0, tmp_path / "pooled").worst is not None, "pooled training does not look at it"
    described = json.loads((place / "summary.json").read_text())
    assert described["hostile"] == ["site-3"]
    text = (place / "report.md").read_text()
    assert "site-3 is hostile in this scenario" in text


def test_dittos_worst_site_is_by_the_models_that_the_sites_keep(simulate: Callable[..., Path]) -> None:
    """Oracle: the files of the personal models, loaded and measured here."""
    place = simulate("hostile-random", strategy=named_strategy("ditto"))
    found = outcome_of(place, "ditto", 0)
    run, expected = read_run(place), []
    for site in run.sites.sites[:2]:
        (model,) = (place / "work" / site.name / run.name).glob("personal-0001.safetensors")
        kept = prepare(site, run.task, place / "work" / site.name / "cache").validation
        report = validate(load(model), kept, run.task, device=torch.device("cpu"))
        expected.append(mean_dice(report.dice))
    assert found.worst == pytest.approx(min(expected), abs=1e-9)
    record = json.loads((place / "result.json").read_text())["sites"]
    assert found.worst != min(mean_dice(record[site]["dice"]) for site in ("site-1", "site-2")), (
        "not the global model's"
    )
    assert found.dice == json.loads((place / "summary.json").read_text())["mean_dice"], "which the held-out cases judge"
    assert outcome_of(place, "ditto", 0) == found, "measured once"


@pytest.mark.slow
def test_no_model_is_compared_at_a_hostile_site(simulate: Callable[..., Path]) -> None:
    place = simulate("hostile-labels", compare=True)
    summary = json.loads((place / "summary.json").read_text())
    assert set(summary["compared"]) == {"pooled", "site-1", "site-2"}
    assert set(summary["gains"]["sites"]) == {"site-1", "site-2"}
    assert "Shown are the first" not in (place / "report.md").read_text()


@pytest.mark.parametrize("name", SCENARIOS)
def test_hostile_scenarios_say_so(name: str) -> None:
    settings = SimulationSettings(data=Path("data"), sites=8, scenario=name)
    assert settings.hostile_sites == (("site-8",) if name.startswith("hostile-") else ())
    assert get_scenario(name).hostile or get_scenario(name).attack is None
