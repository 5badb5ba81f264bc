"""The `segfed` command as a user meets it: real processes, exit codes, one-line errors, files left behind."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import segfed
from segformer3d.checkpoint import load, save
from segformer3d.model import build
from segformer3d.tasks import task_of_folder

from .commands import (
    TINY,
    Done,
    blob_case,
    one_line,
    run,
    run_and_stop,
    run_process,
    simulate,
    summary,
)


def test_help_names_every_command_and_does_not_wait_for_pytorch():
    began = time.perf_counter()
    text = run_process("--help").stdout
    assert all(name in text for name in segfed.COMMANDS)
    loaded = subprocess.run(
        [sys.executable, "-c", "import segfed, sys; segfed.parser(); print('torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert loaded.stdout.strip() == "False"
    assert time.perf_counter() - began < 60


def test_training_takes_a_prepared_cache_and_leaves_out_what_is_quarantined(tmp_path, dataset, config):
    run("data", "prepare", dataset, "--out", tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    (tmp_path / "list.csv").write_text("case,reason\ncase_03,moved\n")
    words = ["--data", dataset, "--config", config, "--epochs", 1, "--out", tmp_path / "out"]
    done = run("train", *words, "--cache", tmp_path / "cache", "--quarantine", tmp_path / "list.csv")
    assert "15 used, 1 set aside" in done.stdout
    assert "set aside case_03: quarantined: moved" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")} == before
    assert not (tmp_path / "out" / "cache").exists()


def test_a_federation_leaves_a_whole_run_folder(finished):
    told = summary(finished)
    assert told["task"] == "tiny"
    assert told["sites"] == 2
    assert told["rounds"] == 3
    assert 0 <= told["mean_dice"] <= 1
    assert set(told["classes"]) == {"first", "second"}
    assert re.fullmatch(r"[0-9a-f]{64}", told["weights_sha256"])
    assert 0 <= told["overhead_share"] <= 1
    assert told["bytes_up"] > 0
    assert told["bytes_down"] > 0
    rounds = [json.loads(line) for line in (finished / "rounds.jsonl").read_text().splitlines()]
    closing = json.loads((finished / "result.json").read_text())
    for way in ("bytes_up", "bytes_down"):
        assert told[f"all_{way}"] == sum(record[way] for record in [*rounds, closing])
    assert told["all_bytes_up"] == pytest.approx(2 * 3 * told["bytes_up"], rel=0.05)
    assert told["all_bytes_down"] == pytest.approx(2 * (3 + 1) * told["bytes_down"], rel=0.05)  # a closing measurement
    assert load(finished / told["model"]).config.embed_dims == (8, 16)
    listed = re.findall(r"^\| ([^|]+) \|", (finished / "README.md").read_text(), re.M)
    names = [name for cell in listed for name in re.findall(r"`([^`]+)`", cell)]
    assert {"summary.json", "last.safetensors", "curves.png", "overlay-worst.png"} <= set(names)
    for name in names:
        assert list(finished.glob(name.rstrip("/"))), name
    assert len((finished / "rounds.jsonl").read_text().splitlines()) == 3


def test_sites_and_held_out_cases_are_disjoint_and_complete(finished, dataset):
    def names(folder: Path) -> set[str]:
        described = json.loads((folder / "dataset.json").read_text())
        return {Path(entry["image"]).name for entry in described["training"]}

    parts = [names(finished / "sites" / part) for part in ("site-1", "site-2", "held-out")]
    assert set.union(*parts) == names(dataset)
    assert sum(map(len, parts)) == 16


@pytest.mark.slow
def test_compare_prints_three_kinds_side_by_side(dataset, config, tmp_path):
    text = simulate(dataset, config, tmp_path / "run", "--compare", "--rounds", 1).stdout
    assert re.search(r"^federated .*\n^pooled .*\n^site-1 alone .*\n^site-2 alone ", text, re.M)
    assert set(summary(tmp_path / "run")["compared"]) == {"pooled", "site-1", "site-2"}
    assert (tmp_path / "run" / "comparison.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "how", [None, *(pytest.param(how, marks=pytest.mark.slow) for how in (signal.SIGINT, signal.SIGKILL))]
)
def test_a_run_that_was_stopped_and_met_a_full_disk_ends_with_the_weights_of_one_that_did_not(
    how, finished, dataset, config, tmp_path, full_disk
):
    """It meets the disk as it begins, is stopped once it goes on, and meets the disk again in a round.

    By day nobody stops it: test_study_command.py has the Ctrl-C.
    """
    out = tmp_path / "run"
    refused = (finished / "state-0003.safetensors").stat().st_size - 2000  # small files and the sites' data fit
    with full_disk(refused):
        check_the_disk_is_named(simulate(dataset, config, out, code=1), out)
    if how is not None:
        stopped = run_and_stop(out / "state-0001.safetensors", "simulate", "--resume", out, how=how)
    if how is signal.SIGINT:
        assert stopped.code == 130
        assert "--resume" in stopped.stderr.splitlines()[-1]
        assert "Traceback" not in stopped.stderr or "Exception ignored in" in stopped.stderr
    assert not (out / "summary.json").exists()
    with full_disk(refused):
        check_the_disk_is_named(run("simulate", "--resume", out, code=1), out)
    run("simulate", "--resume", out)
    assert summary(out)["weights_sha256"] == summary(finished)["weights_sha256"]
    assert len((out / "rounds.jsonl").read_text().splitlines()) == 3


def check_the_disk_is_named(done: Done, out: Path) -> None:
    line = one_line(done)
    assert "cannot write" in line or "disk is full" in line
    assert not list(out.glob(".*state*"))
    assert not (out / "summary.json").exists()


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(finished, tmp_path):
    copied = copy_of(finished, tmp_path)
    run("simulate", "--resume", copied)
    assert summary(copied)["weights_sha256"] == summary(finished)["weights_sha256"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds", 0], "--rounds must be a whole number in [1,"),
        (["--sites", 0], "--sites must be a whole number in [1,"),
        (["--sites", 99], "sites"),
        (["--partition", "alphabet"], "--partition must be one of iid, quantity, intensity"),
        (["--scenario", "chaos"], "there is no scenario 'chaos'; known are iid, unequal, intensity, scanners, labels"),
        (["--scenario", "missing-contrasts"], "needs a task of two contrasts or more, and task tiny has one"),
        (["--engine", "steam"], "--engine must be one of local, ray"),
        (["--held-out", 1.5], "--held-out must be in (0, 1)"),
        (["--task", "liver"], "there is no task 'liver'"),
        (["--device", "tpu"], "device must be"),
        (["--minimum-sites", 3], "--minimum-sites (3) cannot be more than --sites (2)"),
        (["--data", "/nowhere"], "/nowhere"),
    ],
)
def test_an_option_out_of_range_is_one_line(words: Sequence[object], said: str, dataset, config, tmp_path):
    line = one_line(simulate(dataset, config, tmp_path / "run", *words, code=1))
    assert said in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rounds = ", "not valid TOML"),
        ("rouns = 3", "unknown setting 'rouns'"),
        ("[training]\nbatch_size = 0", "batch_size"),
    ],
)
def test_a_wrong_settings_file_is_one_line(text, said, dataset, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    assert said in one_line(run("simulate", "--data", dataset, "--config", path, "--out", tmp_path / "run", code=1))


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["train", "--data", ".", "--out", ".", "--config"], "--config takes a TOML file"),
        (["simulate", "--config"], "--config takes a TOML file"),
        (["privacy", "verify"], "name a federation file, a run folder, or a TOML file with a [pipeline]"),
        (["site", "check"], "make a site with: segfed site init"),
        (["server", "status"], "set up a coordinator with: segfed server init"),
    ],
)
def test_a_settings_file_that_is_not_there_says_what_is_meant(words: Sequence[str], remedy: str, tmp_path, capsys):
    nowhere = str(tmp_path / "nowhere")
    assert segfed.main([*words, nowhere]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"cannot read {nowhere}" in told
    assert remedy in told


def test_a_site_is_made_once_and_joins_with_its_key(tmp_path):
    site = tmp_path / "site"
    assert "needs --name, --data and --coordinator" in one_line(run("site", "init", site, code=1))
    words = ["site", "init", site, "--data", tmp_path, "--coordinator", "example.org:8443"]
    assert "1 to 40 letters" in one_line(run(*words, "--name", "St. Anna", code=1))
    run(*words, "--name", "St-Anna")
    key = (site / "site.pub").read_bytes()
    run("site", "init", site)
    assert (site / "site.pub").read_bytes() == key
    assert "site St-Anna has not joined" in run("site", "status", site).stdout
    (site / "site.key").unlink()
    assert "make one with: segfed site init" in one_line(run("site", "join", site, code=1))


def test_a_run_is_begun_or_gone_on_with(tmp_path):
    for words in ([], [tmp_path / "federation.toml", "--resume", "run-1"]):
        assert "or --resume RUN to go on" in one_line(run("server", "run", *words, "--folder", tmp_path, code=1))


@pytest.mark.parametrize("text", ["training = 3", 'grid = "large"', "rounds = 3"])
def test_train_takes_tables_and_nothing_else(text, dataset, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    assert text.split()[0] in one_line(run("train", "--data", dataset, "--config", path, "--out", tmp_path, code=1))


def test_a_folder_in_use_is_not_written_into(finished, dataset, config):
    assert "--resume" in one_line(simulate(dataset, config, finished, code=1))


def test_resume_of_no_run_folder_is_one_line(tmp_path):
    assert "no run folder" in one_line(run("simulate", "--resume", tmp_path, code=1))


def test_resume_with_another_architecture_is_one_line(finished, tmp_path):
    copied = copy_of(finished, tmp_path)
    described = json.loads((copied / "run.json").read_text())
    described["task"]["model"]["embed_dims"] = [8, 32]
    (copied / "run.json").write_text(json.dumps(described))
    assert "embed_dims" in one_line(run("simulate", "--resume", copied, code=1))


def test_resume_from_a_truncated_state_is_one_line(finished, tmp_path):
    copied = copy_of(finished, tmp_path)
    state = copied / "state-0003.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    assert "state-0003.safetensors" in one_line(run("simulate", "--resume", copied, code=1))


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy", symlinks=True))


def test_train_and_predict_one_after_another(dataset, trained, tmp_path):
    assert "epoch 30/30: loss" in (trained / "printed.txt").read_text()
    model = trained / "model" / "model.safetensors"
    image = dataset / "imagesTr" / "case_03.nii.gz"
    run("predict", "--model", model, "--image", image, "--mirror", "--out", tmp_path / "labels")
    predicted = nib.load(tmp_path / "labels" / "case_03.nii.gz")
    assert predicted.shape == nib.load(image).shape
    assert np.array_equal(predicted.affine, nib.load(image).affine)
    found, truth = (np.asarray(label.dataobj) for label in (predicted, nib.load(dataset / "labelsTr" / image.name)))
    assert set(np.unique(found)) <= {0, 1, 2}
    for value in (1, 2):
        both = np.count_nonzero((found == value) & (truth == value))
        assert 2 * both > 0.3 * (np.count_nonzero(found == value) + np.count_nonzero(truth == value))


def test_damaged_cases_are_counted_and_never_end_a_run(make_dataset, config, tmp_path):
    """The run takes its settings from a file; options go first."""
    dataset = make_dataset(tmp_path / "data", {f"case_{n:02d}": blob_case(n) for n in range(12)})
    damage(dataset)
    text = run("train", "--data", dataset, "--config", config, "--epochs", 1, "--out", tmp_path / "model").stdout
    assert "cases: 7 used, 5 set aside" in text
    for reason in ("truncated", "NaN", "the value 9", "shape", "cannot be read"):
        assert reason in text
    path = tmp_path / "all.toml"
    path.write_text(f'data = "{dataset}"\nsites = 2\nrounds = 2\nlocal-epochs = 2\nout = "{tmp_path / "run"}"\n' + TINY)
    run("simulate", "--config", path, "--rounds", 1, "--parallel", 1)
    told = summary(tmp_path / "run")
    assert (told["sites"], told["rounds"], told["local_epochs"]) == (2, 1, 2)
    scores = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    sites = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert scores["set_aside"] + scores["cases"] >= 2
    assert len(sites) == 1


def damage(dataset: Path) -> None:
    images, labels = dataset / "imagesTr", dataset / "labelsTr"
    first = images / "case_00.nii.gz"
    first.write_bytes(first.read_bytes()[:200])
    rewrite(images / "case_01.nii.gz", lambda data: np.where(data == data.max(), np.nan, data))
    rewrite(labels / "case_02.nii.gz", lambda data: np.where(data == 2, 9, data))
    rewrite(labels / "case_03.nii.gz", lambda data: data[1:])
    (images / "case_04.nii.gz").unlink()


def rewrite(path: Path, change) -> None:
    image = nib.load(path)
    data = change(np.asarray(image.dataobj))
    nib.save(nib.Nifti1Image(data, image.affine), path)


def test_no_usable_case_is_one_line(make_dataset, config, tmp_path):
    dataset = make_dataset(tmp_path / "data", {f"case_{n}": blob_case(n) for n in range(3)})
    for image in (dataset / "imagesTr").iterdir():
        image.write_bytes(b"no image")
    line = one_line(run("train", "--data", dataset, "--config", config, "--out", tmp_path / "model", code=1))
    assert "no usable case" in line


def test_a_model_of_another_architecture_is_one_line(finished, dataset, tmp_path):
    wrong = finished / "last.safetensors"
    line = one_line(
        run("evaluate", "--model", wrong, "--data", dataset, "--task", "phantom", "--out", tmp_path, code=1)
    )
    assert "1 contrasts" in line


def test_a_truncated_model_is_one_line(dataset, tmp_path):
    task = task_of_folder(dataset)
    torch.manual_seed(0)
    save(tmp_path / "model.safetensors", build(task.model), task)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    model = tmp_path / "model.safetensors"
    line = one_line(run("predict", "--model", model, "--image", dataset / "imagesTr", "--out", tmp_path, code=1))
    assert "truncated" in line
