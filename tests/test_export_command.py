"""`segfed export` as a user meets it. Oracles: the records of the run, the lists of cases, the hashes of the files."""

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client.privacy.settings import PrivacySettings
from segformer3d.checkpoint import load, read_weights, save
from segformer3d.export.card import make_card
from segformer3d.export.card_text import card_text
from segformer3d.loading import Loaded, load_model
from segformer3d.model import build
from segformer3d.model_description import load_task
from server.coordinator import Coordinator
from server.export import export_and_print
from server.federation import FederationSettings
from server.run_folder import SETTINGS_FILE

from .client.tiny_site import RUN
from .commands import one_line, run, run_process, summary
from .server.test_coordinator import coordinator  # noqa: F401 - a fixture
from .server.test_export import played  # noqa: F401 - a fixture


def card_of(folder: Path) -> dict:
    return json.loads((folder / "model_card.json").read_text())


def export(model: Path, out: Path, *more: object) -> dict:
    run("export", model, *more, "--out", out)
    return card_of(out)


def cases_in(folder: Path) -> int:
    return len(json.loads((folder / "dataset.json").read_text())["training"])


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("export") / "out"
    words = ["--format", "onnx", "torch-export", "--format", "monai-bundle", "--licence", "CC-BY-4.0"]
    return out, run("export", finished / "last.safetensors", *words, "--out", out).stdout


def test_every_format_is_written_checked_and_named_with_its_hash(exported: tuple[Path, str]):
    out, told = exported
    graphs = ["model.pt2", "model.onnx"]
    assert {path.name for path in out.iterdir()} == {"MODEL_CARD.md", "model_card.json", "monai-bundle", *graphs}
    files = {file["name"]: file for file in card_of(out)["files"]}
    assert list(files) == ["monai-bundle/models/model.pt", *graphs]
    for name, file in files.items():
        content = (out / name).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert f"{name}: " in told
        assert file["sha256"] in (out / "MODEL_CARD.md").read_text()
    assert files["monai-bundle/models/model.pt"]["check"] is None
    assert files["model.pt2"]["check"]["difference"] == 0
    assert 0 < files["model.onnx"]["check"]["difference"] < 1e-4
    assert "does not state" not in told


def test_the_card_says_what_the_run_recorded(exported: tuple[Path, str], finished: Path):
    out, _ = exported
    card, recorded = card_of(out), summary(finished)
    assert card["weights_sha256"] == recorded["weights_sha256"]
    assert card["evaluation"]["structures"] == recorded["classes"]
    assert card["evaluation"]["mean_dice"]["mean"] == recorded["mean_dice"]
    assert card["evaluation"]["held_out"]
    assert card["evaluation"]["cases"] == cases_in(finished / "sites" / "held-out")
    assert card["run"]["settings"]["rounds"] == card["round"] == 3
    assert card["run"]["settings"]["learning_rate"] == 0.002
    assert card["run"]["begun_from"] == "random weights"
    assert not card["run"]["privacy"]["claimed"]
    for site in card["run"]["sites"]:
        assert site["cases"] + site["validation_cases"] == cases_in(finished / "sites" / site["site"])
        assert site["epsilon"] is None
    assert card["licence"] == "CC-BY-4.0"
    text = (out / "MODEL_CARD.md").read_text()
    mean = recorded["classes"]["first"]["dice"]
    assert f"{mean['mean']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]" in text
    assert "No differential privacy was claimed" in text
    assert "It is not a medical device" in text


def test_no_case_and_no_path_leaves_with_a_model(exported: tuple[Path, str], finished: Path):
    check_nothing_leaves(exported[0], finished)


def check_nothing_leaves(out: Path, finished: Path) -> None:
    texts = [path for path in out.rglob("*") if path.suffix in (".md", ".json") and "segformer3d" not in path.parts]
    assert len(texts) == 5
    for path in texts:
        assert "case_" not in path.read_text(), path
        assert str(finished.parent) not in path.read_text(), path
    graphs = list(out.glob("model.[op]*"))
    assert graphs
    for path in graphs:
        assert b"case_" not in path.read_bytes()
        assert str(finished.parent).encode() not in path.read_bytes()


def test_scores_of_another_model_of_the_run_are_not_this_ones(finished: Path, tmp_path):
    """The held-out cases measured the last model. Of an earlier one the card knows what the sites had done by then."""
    earlier = tmp_path / "earlier.safetensors"
    name = read_weights(finished / "last.safetensors")[1]["notes"]["run"]
    task = load_task(finished / "last.safetensors")
    torch.manual_seed(1)
    save(earlier, build(task.model), task, {"run": name, "round": 1})
    card = export(earlier, tmp_path / "out", "--run", finished)
    assert card["evaluation"] is None
    assert card["round"] == 1
    assert {site["site"] for site in card["run"]["sites"]} == {"site-1", "site-2"}
    text = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "Scores: not stated." in text
    assert "round 1 of 3" in text
    words = ["--run", finished, "--evaluation", finished / "evaluation", "--out", tmp_path / "no"]
    line = one_line(run("export", earlier, *words, code=1))
    assert "evaluation/metrics.json measures another model (its weights hash to " in line
    assert line.endswith("run segfed evaluate on this model, or leave --evaluation out")
    assert not (tmp_path / "no").exists()


def test_an_evaluation_of_ones_own_is_of_this_model_and_says_its_protocol(finished: Path, tmp_path):
    """Away from its run, nobody says that the cases were held out."""
    model, scores = (shutil.copy(finished / name, tmp_path) for name in ("last.safetensors", "evaluation/metrics.json"))
    told = json.loads(Path(scores).read_text())
    assert told["weights_sha256"] == summary(finished)["weights_sha256"]
    card = export(model, tmp_path / "out", "--evaluation", tmp_path)
    facts = card["evaluation"]
    assert facts["structures"] == told["classes"]
    assert not facts["held_out"]
    assert (facts["protocol"], facts["sentence"]) == ("whole-scan", told["protocol"]["sentence"])
    text = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "trained on some: not stated" in text
    assert f"Protocol whole-scan: {told['protocol']['sentence']}" in text


def test_a_card_invents_nothing(finished: Path, tmp_path):
    """The same model, away from its run."""
    model = shutil.copy(finished / "last.safetensors", tmp_path)
    told = run("export", model, "--out", tmp_path / "out").stdout
    assert "does not state run, evaluation, licence; say it with --run, --evaluation, --licence" in told
    card = card_of(tmp_path / "out")
    assert card["run"] is card["evaluation"] is card["licence"] is None
    text = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    for line in (
        "How it was trained:",
        "Sites and their cases:",
        "Scores:",
        "differential privacy is claimed:",
        "Weights:",
    ):
        assert f"{line} not stated." in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "MODEL_CARD.md", "model_card.json", "monai-bundle",
    ]  # fmt: skip


def test_a_private_run_says_public_numbers_and_what_they_cost(private: tuple[Path, str], tmp_path):
    folder, _ = private
    card = export(folder / "last.safetensors", tmp_path / "out")
    promises = summary(folder)["privacy"]["sites"]
    assert {site["site"]: site["cases"] for site in card["run"]["sites"]} == {
        name: promise["patients"] for name, promise in promises.items()
    }
    assert all(site["validation_cases"] is None for site in card["run"]["sites"])
    told = card["run"]["privacy"]
    assert told["claimed"]
    for fact in ("epsilon", "delta", "spent"):
        assert told[fact] == max(promise[fact] for promise in promises.values())
    assert "local_epochs" not in card["run"]["settings"]
    text = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert f"epsilon at most {told['epsilon']:.3f}, delta 0.0001; spent: {told['spent']:.3f}" in text
    assert "Not covered: that a site takes part" in text
    assert "Attacks on the run found the claim not refuted" in text
    assert "patients (the public number, not the real one)" in text


def test_a_run_between_hospitals_and_what_it_was_exported_to_give_the_same_card(
    coordinator: Coordinator,
    played: Path,
    tmp_path,
):
    export_and_print(str(coordinator.folder), RUN, str(tmp_path / "result"))
    cards = []
    for folder in (played, tmp_path / "result"):
        model = folder / "last.safetensors"
        cards.append(make_card(model, load_model(model, None), None, None, None))
    assert cards[0].run is not None
    assert cards[0].run.run == RUN
    assert cards[1].run == replace(cards[0].run, run=None)
    last = json.loads((played / "rounds.jsonl").read_text().splitlines()[-1])
    assert [(s.site, s.cases, s.validation_cases) for s in cards[0].run.sites] == [
        (s["site"], s["cases"], s["validation_cases"]) for s in last["sites"]
    ]
    text = card_text(cards[0])
    assert "A federation between sites; the model after round 3 of 3. Begun from: not stated." in text
    assert "No differential privacy was claimed" in text


@pytest.mark.parametrize(
    ("noise", "claim"), [("secure", "epsilon at most 8.000, delta 1e-05; spent: 3.000"), ("seeded", "None is claimed")]
)
def test_a_private_run_between_hospitals_claims_what_was_asked_for(noise: str, claim: str, played: Path):
    """Its records hold what each site has spent, here as a private run of these rounds would have left them."""
    asked = FederationSettings.from_json(json.loads((played / SETTINGS_FILE).read_text()))
    task = replace(asked.task, model=replace(asked.task.model, norm="group"))
    settings = replace(asked, task=task, privacy=PrivacySettings(8.0, 1e-5, noise=noise))  # type: ignore[arg-type]
    (played / SETTINGS_FILE).write_text(json.dumps(settings.to_json()))
    rounds = [json.loads(line) for line in (played / "rounds.jsonl").read_text().splitlines()]
    for record in rounds:
        for number, site in enumerate(record["sites"], start=2):
            site["epsilon"] = record["round"] * number / 3
    (played / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in rounds))
    torch.manual_seed(0)
    model = build(task.model)
    save(played / "early.safetensors", model, task, {"run": RUN, "round": 2})
    save(played / "late.safetensors", model, task, {"run": RUN, "round": 3})
    texts = [
        card_text(make_card(played / name, Loaded(model, task, None), None, None, None))
        for name in ("early.safetensors", "late.safetensors")
    ]
    assert claim in texts[1]
    assert ("spent: 2.000" in texts[0]) == (noise == "secure")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--format", "torchscript"],
            "--format takes monai-bundle, torch-export, onnx (one or several), got 'torchscript'",
        ),
        (
            ["--run", "nowhere"],
            "nowhere is no run folder: it has neither run.json (segfed simulate) nor federation.json",
        ),
        (
            ["--evaluation", "nowhere"],
            "nowhere/metrics.json cannot be read: No such file or directory; --evaluation takes",
        ),
        (["--task", "phantom"], "task phantom needs 4 and 3"),
        (["--task", "liver"], "there is no task 'liver'"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(words: Sequence[str], said: str, finished, tmp_path):
    line = one_line(run("export", finished / "last.safetensors", "--out", tmp_path / "out", *words, code=1))
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(finished, tmp_path):
    (tmp_path / "mine").touch()
    line = one_line(run("export", finished / "last.safetensors", "--out", tmp_path, code=1))
    assert line == f"segfed: {tmp_path} is not an empty folder; choose another --out"
    line = one_line(run("export", finished / "last.safetensors", "--out", tmp_path / "mine", code=1))
    assert "is not an empty folder" in line
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_empty_folder_is_filled(finished, tmp_path):
    (tmp_path / "out").mkdir()
    assert export(finished / "last.safetensors", tmp_path / "out")["task"]["name"] == "tiny"


def test_a_damaged_model_is_one_line(finished, tmp_path):
    whole, half = (finished / "last.safetensors").read_bytes(), tmp_path / "model.safetensors"
    half.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in one_line(run("export", half, "--out", tmp_path / "out", code=1))
    assert "there is no checkpoint" in one_line(run("export", tmp_path / "no", "--out", tmp_path / "out", code=1))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rounds.jsonl", '{"round": 1, "sites": [{"site": "a"', "damaged or of another version (JSONDecodeError"),
        ("rounds.jsonl", '{"round": 1, "sites": [{"site": "a"}]}', "damaged or of another version (KeyError"),
        ("run.json", "[]", "damaged or of another version (TypeError: run.json holds no JSON object)"),
        ("run.json", '{"run": "x", "settings": {}}', "damaged or of another version (KeyError"),
        ("summary.json", '{"privacy": {"sites": {}}}', "damaged or of another version (ValueError"),
        ("evaluation/metrics.json", "{}", "metrics.json is damaged or of another version (KeyError"),
        ("evaluation/metrics.json", "[1]", "metrics.json is damaged or of another version (TypeError"),
    ],
)
def test_damaged_records_are_one_line(name: str, content: str, said: str, finished, tmp_path):
    ignore = shutil.ignore_patterns("sites", "work", "state-*")
    folder = shutil.copytree(finished, tmp_path / "run", ignore=ignore)
    (folder / name).write_text(content)
    line = one_line(run("export", folder / "last.safetensors", "--out", tmp_path / "out", code=1))
    assert said in line
    assert not (tmp_path / "out").exists()


def test_a_score_that_is_no_number_is_refused(finished, tmp_path):
    told = json.loads((finished / "evaluation" / "metrics.json").read_text())
    told["classes"]["first"]["dice"]["mean"] = "case_00"
    (tmp_path / "metrics.json").write_text(json.dumps(told))
    words = ["--evaluation", tmp_path, "--out", tmp_path / "out"]
    assert "a score is no number" in one_line(run("export", finished / "last.safetensors", *words, code=1))


def test_an_evaluation_of_other_structures_is_refused(finished, tmp_path):
    told = json.loads((finished / "evaluation" / "metrics.json").read_text())
    told["classes"]["third"] = told["classes"].pop("second")
    (tmp_path / "metrics.json").write_text(json.dumps(told))
    words = ["--evaluation", tmp_path, "--out", tmp_path / "out"]
    line = one_line(run("export", finished / "last.safetensors", *words, code=1))
    assert line.endswith("measures first, third; the model's task has first, second")


def test_the_run_of_another_model_is_refused_and_one_that_lies_beside_is_not_used(finished, tmp_path):
    task = load_task(finished / "last.safetensors")
    for name, notes in (("other", {"run": "another", "round": 2}), ("trained", {"part": 1, "parts": 1})):
        model = tmp_path / f"{name}.safetensors"
        save(model, load(finished / "last.safetensors"), task, notes)
        line = one_line(run("export", model, "--run", finished, "--out", tmp_path / "out", code=1))
        assert "and the model" in line
        assert line.endswith("leave --run out")
    shutil.copy(finished / "run.json", tmp_path)
    assert export(tmp_path / "other.safetensors", tmp_path / "out")["run"] is None


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_line_before_anything_is_done(package: str, finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what Python itself does for a package that must not be imported
    words = ["--format", "onnx", "--out", tmp_path / "out"]
    line = one_line(run("export", finished / "last.safetensors", *words, code=1))
    assert line == (
        f"segfed: --format onnx needs the Python package {package}, which is not installed; "
        "install what it takes with: pip install 'segfed[export]'"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "format_", ["monai-bundle", *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch-export", "onnx"))]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(format_: str, finished, tmp_path, full_disk):
    words = ["--format", format_, "--out", tmp_path / "out"]
    with full_disk(9000):
        line = one_line(run("export", finished / "last.safetensors", *words, code=1))
    assert "cannot write" in line
    assert "nothing half-written was kept" in line
    assert list(tmp_path.iterdir()) == []


def test_help_tells_the_two_exports_apart():
    assert "segfed server export is another thing" in " ".join(run_process("export", "--help").stdout.split())


@pytest.mark.slow
def test_a_process_of_its_own_exports(finished, tmp_path):
    run_process("export", finished / "last.safetensors", "--format", "torch-export", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "model.pt2").is_file()
