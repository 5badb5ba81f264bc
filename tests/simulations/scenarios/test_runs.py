"""Whole runs of `segfed simulate --scenario`: what the run folder says, and that a resumed run is as hostile."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segformer3d.checkpoint import load, save
from segformer3d.dataset import prepare
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


def start(source: Path, scenario: str, out: Path, **more: Any) -> Path:
    """A run with three sites, one after another in this process."""
    settings = SimulationSettings(
        data=source,
        sites=3,
        scenario=scenario,
        parallel=1,
        device="cpu",
        model=MODEL,
        grid={"patch": [12, 12, 12]},
        **{"rounds": 1, **more},
    )
    return start_simulation(settings, out)


@pytest.fixture
def simulate(tmp_path: Path, source: Path) -> Callable[..., Path]:
    """`simulate(scenario, rounds=1)` runs it."""
    return lambda scenario, **more: start(source, scenario, tmp_path / scenario, **more)


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


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """Two rounds in which the last site's labels are reversed, with personal models."""
    out = tmp_path_factory.mktemp("hostile") / "run"
    return start(source, "hostile-labels", out, rounds=2, strategy=named_strategy("ditto"))


def test_a_hostile_site_has_no_say_in_what_a_run_is_worth(hostile: Path, tmp_path: Path) -> None:
    """By hand, from records that say what a good model would get: all but nothing where labels are reversed."""
    place = tmp_path / "run"
    shutil.copytree(hostile, place, symlinks=True)
    described = json.loads((place / "run.json").read_text())
    described["settings"]["strategy"] = named_strategy("fedavg").to_json()
    (place / "run.json").write_text(json.dumps(described))
    dice = {"site-1": [0.8, 0.6], "site-2": [0.9, None], "site-3": [0.1, 0.0]}
    result, rounds = json.loads((place / "result.json").read_text()), rounds_of(place)
    for cases, (name, told) in enumerate(dice.items(), start=1):
        result["sites"][name] |= {"dice": told, "cases": cases}
        next(s for s in rounds[1]["sites"] if s["site"] == name).update(dice=told, validation_cases=cases)
    (place / "result.json").write_text(json.dumps(result))
    (place / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in rounds))
    found = outcome_of(place, "fedavg", 0)
    assert found.worst == pytest.approx(0.7)
    together = ((1 * 0.8 + 2 * 0.9) / 3 + 0.6) / 2
    assert [point[2] for point in found.curve] == pytest.approx([together, together])
    assert found.curve[0][0] == rounds[0]["bytes_up"], "its messages travel all the same"
    shutil.rmtree(place / "sites" / "site-3")
    assert pooled_outcome(place, 0, tmp_path / "pooled", 1).worst is not None, "pooled training does not look at it"


def test_summary_and_report_name_the_hostile_site(hostile: Path) -> None:
    assert json.loads((hostile / "summary.json").read_text())["hostile"] == ["site-3"]
    assert "site-3 is hostile in this scenario" in (hostile / "report.md").read_text()


def test_dittos_worst_site_is_by_the_models_that_the_sites_keep(hostile: Path) -> None:
    """Personal models that see the first structure everywhere: its Dice is 2 |T| / (|T| + N)."""
    run, expected = read_run(hostile), []
    for site in run.sites.sites[:2]:
        path = hostile / "work" / site.name / run.name / "personal-0002.safetensors"
        model = load(path)
        (head,) = [bias for name, bias in model.named_parameters() if name.endswith("bias") and bias.shape == (3,)]
        with torch.no_grad():
            head += torch.tensor([0.0, 1e4, 0.0])
        save(path, model, run.task)
        kept = prepare(site, run.task, hostile / "work" / site.name / "cache").validation
        labels = [np.asarray(case.label()) == 1 for case in kept]
        expected.append(np.mean([label.sum() / (label.sum() + label.size) for label in labels]))
    found = outcome_of(hostile, "ditto", 0)
    assert found.worst == pytest.approx(min(expected))
    assert found.worst > 0
    assert found.dice == json.loads((hostile / "summary.json").read_text())["mean_dice"], "of the global model"


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
