"""`segfed evaluate` as a coordinator uses it: two trained models compared, groups of cases, and one line for mistakes.

Oracle: the numbers of the files against each other, and against the better training of the better model.
"""

import csv
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from segformer3d.cases import find_cases
from segformer3d.checkpoint import load, read_weights, save
from segformer3d.loading import load_model
from segformer3d.measuring import Contest, forecast_of, measure_cases
from segformer3d.model import build
from segformer3d.model_description import load_task
from segformer3d.protocols import choose_protocol
from segformer3d.score_tables import case_table
from segformer3d.tasks import get_task
from segformer3d.tensor_file import write_tensors

from .commands import NORMS_KEPT, blob_case, one_line, run


@pytest.fixture(scope="module")
def models(tmp_path_factory, dataset, trained) -> tuple[Path, Path]:
    """Two models that were trained on the same cases, one much longer than the other."""
    out = tmp_path_factory.mktemp("models")
    run("train", "--data", dataset, "--config", trained / "faster.toml", "--epochs", 2, "--out", out)
    return trained / "model" / "model.safetensors", out / "model.safetensors"


@pytest.fixture(scope="module")
def strata(tmp_path_factory, dataset) -> Path:
    path = tmp_path_factory.mktemp("strata") / "scanners.csv"
    names = sorted(entry.name.removesuffix(".nii.gz") for entry in (dataset / "imagesTr").iterdir())
    path.write_text(
        "case,scanner\n" + "".join(f"{name},{'GE' if n < 12 else 'Philips'}\n" for n, name in enumerate(names))
    )
    return path


@pytest.fixture(scope="module")
def compared(tmp_path_factory, models, strata, dataset) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("compared")
    better, worse = models
    words = ["--model", better, "--against", worse, "--data", dataset, "--strata", strata, "--out", out]
    return out, run("evaluate", *words, "--protocol", "whole-scan").stdout


def test_two_trained_models_are_compared_with_intervals_and_a_p_value(compared: tuple[Path, str], models):
    folder, printed = compared
    told = json.loads((folder / "comparison.json").read_text())
    scores = json.loads((folder / "metrics.json").read_text())
    mean = told["differences"][0]
    assert (mean["structure"], mean["metric"], told["cases"]) == ("mean", "dice", 16)
    assert mean["difference"]["mean"] == pytest.approx(scores["mean_dice"] - told["mean_dice"])
    assert mean["difference"]["low"] > 0
    assert mean["wins"] > mean["losses"]
    assert mean["p_value"] < 0.01
    for structure in told["differences"][1:]:
        assert structure["p_holm"] >= structure["p_value"]
    assert told["against"] == str(models[1])
    assert "won / lost / tied" in printed
    assert "protocol whole-scan" in printed


def test_groups_add_up_to_all_cases(compared: tuple[Path, str]):
    folder, printed = compared
    strata = json.loads((folder / "metrics.json").read_text())["strata"]
    scanners = {s["group"]: s for s in strata if s["by"] == "scanner" and s["structure"] == "mean"}
    assert {group: (s["count"], s["enough"]) for group, s in scanners.items()} == {
        "GE": (12, True),
        "Philips": (4, False),
    }
    assert scanners["Philips"]["dice"]["mean"] is None
    sizes = [s["count"] for s in strata if s["by"] == "size" and s["structure"] == "first"]
    assert sum(sizes) == 16
    with (folder / "cases.csv").open(encoding="utf-8", newline="") as file:
        assert {row["scanner"] for row in csv.DictReader(file)} == {"GE", "Philips"}
    assert "Philips" in printed


def test_probabilities_are_calibrated_against_what_is_there(compared: tuple[Path, str]):
    folder, _ = compared
    calibration = json.loads((folder / "metrics.json").read_text())["calibration"]
    for told in calibration.values():
        assert 0 <= told["expected_error"] <= 1
        filled = [entry for entry in told["bins"] if entry["voxels"]]
        assert all(entry["low"] <= entry["mean_probability"] <= entry["high"] for entry in filled)
        assert filled[-1]["observed"] > filled[0]["observed"]


def other_task(tmp_path: Path) -> Path:
    task = get_task("hippocampus")
    torch.manual_seed(0)
    save(tmp_path / "other.safetensors", build(task.model), task)
    return tmp_path / "other.safetensors"


def test_mistakes_are_one_line_and_leave_nothing(models, dataset, tmp_path):
    model, out = models[0], tmp_path / "out"
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("patient,scanner\n")
    few = tmp_path / "few.csv"
    few.write_text("case,scanner\ncase_00,GE\n")
    name = load_task(model).name
    for words, said in (
        (["--protocol", "foo"], f"task {name} has no protocol 'foo'; it has whole-scan"),
        (["--against", other_task(tmp_path)], "only models of one task can be compared"),
        (["--against", tmp_path / "none.safetensors"], "there is no checkpoint"),
        (["--strata", wrong], "the first line of"),
        (["--strata", few], "no row of case case_01 and of 14 more"),
        (["--strata", tmp_path / "none.csv"], "cannot read"),
        (["--data", tmp_path], "is of no known layout"),
    ):
        data = [] if "--data" in words else ["--data", dataset]
        assert said in one_line(run("evaluate", "--model", model, *data, *words, "--out", out, code=1))
    assert not out.exists()


def test_no_labelled_case_is_one_line(models, make_dataset, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps({"training": []}))
    line = one_line(run("evaluate", "--model", models[0], "--data", folder, "--out", tmp_path / "out", code=1))
    assert "lists no case" in line


def part_of(scans: Path, folder: Path, cases: slice) -> Path:
    """A dataset of some cases of another, whose files stay where they are."""
    described = json.loads((scans / "dataset.json").read_text())
    entries = [{kind: str(scans / name) for kind, name in entry.items()} for entry in described["training"][cases]]
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps({**described, "training": entries}))
    return folder


@pytest.mark.slow
def test_longer_training_on_hippocampi_is_better_and_the_test_says_so(shared: Path, tmp_path: Path):
    scans = shared / "data" / "hippocampus"
    train, held_out = part_of(scans, tmp_path / "train", slice(24)), part_of(scans, tmp_path / "held", slice(176, None))
    for epochs in (1, 5):
        run("train", "--data", train, "--epochs", epochs, "--out", tmp_path / f"{epochs}")
    longer, shorter = (tmp_path / name / "model.safetensors" for name in ("5", "1"))
    out = tmp_path / "scores"
    run("evaluate", "--model", longer, "--against", shorter, "--data", held_out, "--out", out)
    told = json.loads((out / "comparison.json").read_text())
    assert told["cases"] == 24
    mean = told["differences"][0]
    assert mean["difference"]["low"] > 0
    assert mean["p_value"] < 0.01


@pytest.fixture(scope="module")
def few(tmp_path_factory, make_dataset) -> Path:
    """Six cases for the sites of a federation, of which one is held out."""
    return make_dataset(tmp_path_factory.mktemp("few") / "data", {f"case_{n:02d}": blob_case(n) for n in range(6)})


@pytest.fixture(scope="module")
def fedbn(tmp_path_factory, few, trained) -> Path:
    """A run of two sites that keep their norms."""
    folder = tmp_path_factory.mktemp("fedbn")
    asked = ("--data", few, "--config", trained / "faster.toml", "--sites", 2, "--strategy", "fedbn")
    run("simulate", *asked, "--rounds", 2, "--local-epochs", 5, "--parallel", 1, "--out", folder / "run")
    return folder / "run"


@dataclass(frozen=True)
class Evaluated:
    """A model of FedBN with a site's norms, measured against itself with the mean of all norms."""

    model: Path
    memory: Path
    printed: str
    scores: Path


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, fedbn, few) -> Evaluated:
    model, memory = fedbn / "last.safetensors", max(fedbn.glob("work/site-1/*/memory-*.safetensors"))
    scores = tmp_path_factory.mktemp("evaluated") / "scores"
    asked = ("--model", model, "--norms", memory, "--against", model, "--data", few, "--out", scores)
    return Evaluated(model, memory, run("evaluate", *asked).stdout, scores)


def case_scores(model: Path, data: Path) -> str:
    """What `cases.csv` says of a model, without an evaluation's pictures."""
    loaded = load_model(model, None)
    protocol, predict = choose_protocol(loaded.task.name), partial(forecast_of, loaded.network, loaded.task)
    contest = Contest(loaded.task, protocol, partial(predict, torch.device("cpu"), None), None)
    measured, _ = measure_cases(contest, find_cases(data), None)
    names = [structure.name for structure in loaded.task.structures]
    return case_table([case.result for case in measured], names, protocol)


def test_a_model_of_fedbn_is_used_with_the_norms_that_are_named(evaluated, few, tmp_path):
    """Oracle: a model put together here, of the last model and a site's norms, that says nothing of norms."""
    model, memory, task = evaluated.model, evaluated.memory, load_task(evaluated.model)
    mixed = load(model)
    own = {name.removeprefix("norms:"): value for name, value in read_weights(memory)[0].items()}
    mixed.load_state_dict({**mixed.state_dict(), **own})
    save(tmp_path / "mixed.safetensors", mixed, task)
    ways = {"mean": (model, "mean"), "own": (model, memory), "mixed": (tmp_path / "mixed.safetensors", None)}
    whose = {"mean": NORMS_KEPT, "own": f"a site's own, from {memory}", "mixed": None}
    labels = {}
    for way, (path, norms) in ways.items():
        asked = () if norms is None else ("--norms", norms)
        told = run("predict", "--model", path, "--image", few / "imagesTr", "--out", tmp_path / way, *asked).stdout
        lines = [line for line in told.splitlines() if "norms are" in line]
        assert lines == [f"{path}: its norms are {whose[way]}"] * (norms is not None)
        run("export", path, "--out", tmp_path / f"{way}-export", *asked)
        card = (tmp_path / f"{way}-export" / "MODEL_CARD.md").read_text()
        assert [line for line in card.splitlines() if "orms are" in line] == (
            [f"- Its norms are {whose[way]}."] if norms is not None else []
        )
        labels[way] = [path.read_bytes() for path in sorted((tmp_path / way).glob("*.nii.gz"))]
    assert labels["own"] == labels["mixed"] != labels["mean"]
    scores = (evaluated.scores / "cases.csv").read_text()
    assert scores == case_scores(tmp_path / "mixed.safetensors", few)
    assert scores != (evaluated.scores / "cases_against.csv").read_text()


def test_an_evaluation_says_whose_norms_it_used(evaluated, compared):
    """The second model has the mean."""
    told, model = [line for line in evaluated.printed.splitlines() if "norms are" in line], evaluated.model
    whose = (f"a site's own, from {evaluated.memory}", NORMS_KEPT)
    assert told == [f"{model}: its norms are {words}" for words in whose]
    facts = (evaluated.scores / "report.md").read_text()
    assert f"- norms of the model: {whose[0]}" in facts.replace("`", "")
    assert f"- norms of the second model: {NORMS_KEPT}" in facts
    assert "norms of the" in (evaluated.scores / "report.html").read_text()
    difference = json.loads((evaluated.scores / "comparison.json").read_text())["differences"][0]["difference"]
    assert difference["mean"] != 0
    assert "norms of the" not in (compared[0] / "report.html").read_text(), "of models that share theirs"


def test_a_model_of_fedbn_without_a_choice_of_norms_is_refused(fedbn, models, dataset, tmp_path):
    model, memory = fedbn / "last.safetensors", min(fedbn.glob("work/site-2/*/memory-*.safetensors"))
    refused = one_line(run("evaluate", "--model", model, "--data", dataset, "--out", tmp_path / "a", code=1))
    assert "was trained with FedBN" in refused
    assert "--norms FILE" in refused
    assert "memory-NNNN.safetensors" in refused
    images = dataset / "imagesTr"
    assert "FedBN" in one_line(run("predict", "--model", model, "--image", images, "--out", tmp_path / "b", code=1))
    assert "FedBN" in one_line(run("export", model, "--out", tmp_path / "c", code=1))
    plain = ("--model", models[1], "--data", dataset, "--out", tmp_path / "d")
    assert "leave --norms out" in one_line(run("evaluate", *plain, "--norms", memory, code=1))
    asked = ("--model", model, "--data", dataset, "--out", tmp_path / "e", "--norms")
    assert "holds no site's norms" in one_line(run("evaluate", *asked, model, code=1))
    assert "there is no checkpoint" in one_line(run("evaluate", *asked, tmp_path / "none", code=1))
    other = tmp_path / "other.safetensors"
    write_tensors(other, {"norms:encoder.norm.weight": np.zeros(3, np.float32)}, {})
    assert "another architecture" in one_line(run("evaluate", *asked, other, code=1))
    assert not any((tmp_path / name).exists() for name in "abcde")
