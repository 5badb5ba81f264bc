"""Benchmarks from the command line: published held-out cases, layouts, own tasks; real files, tiny models."""

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from segformer3d.cases import find_cases
from segformer3d.checkpoint import save
from segformer3d.comparability import published_part, why_not_comparable
from segformer3d.held_out import held_out_of, published_cases
from segformer3d.loading import load_model
from segformer3d.model import build
from segformer3d.model_description import load_task
from segformer3d.protocols import choose_protocol
from segformer3d.tasks import adjust, get_task
from tests.commands import TINY, one_line, run

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "brain-metastases.toml"
FREE = ("patient001", "patient004", "patient005", "patient006")
AFFINE = np.diag([-1.52, -1.52, 6.35, 1.0])
TINY_MODEL = {
    "embed_dims": [8, 16],
    "num_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "depths": [1, 1],
    "sr_ratios": [1, 1],
    "patch_kernel_size": [3, 3],
    "patch_stride": [2, 2],
    "patch_padding": [1, 1],
    "decoder_head_embedding_dim": 16,
}
PATIENTS = tuple(held_out_of("acdc").names)


def write_hearts(folder: Path, patients: tuple[str, ...]) -> Path:
    """ACDC in its own layout: two frames a patient, small."""
    for number, patient in enumerate(patients):
        generator, place = np.random.default_rng(number), folder / patient
        place.mkdir(parents=True)
        for frame in ("frame01", "frame12"):
            label = np.zeros((12, 13, 6), np.uint8)
            label[1:4, 3:9, 1:5], label[4:7, 3:9, 1:5], label[7:10, 3:9, 1:5] = 1, 2, 3
            image = (100 * label + generator.normal(50, 10, label.shape)).astype(np.int16)
            nib.save(nib.Nifti1Image(image, AFFINE), place / f"{patient}_{frame}.nii.gz")
            nib.save(nib.Nifti1Image(label, AFFINE), place / f"{patient}_{frame}_gt.nii.gz")
        (place / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\n")
    return folder


def left_ventricle(folder: Path) -> Path:
    """A task of one's own for the same files."""
    task = folder / "left.toml"
    task.write_text(
        'name = "left-ventricle"\nmodalities = ["MRI"]\nlabel_values = [0, 1, 2, 3]\npatch = [12, 12, 6]\n'
        '[[structures]]\nname = "left ventricle"\nlabels = [3]\n'
    )
    return task


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the published test patients, and four others."""
    return write_hearts(tmp_path_factory.mktemp("hearts"), (*PATIENTS, *FREE))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(TINY.replace("patch = [12, 12, 12]", "patch = [12, 12, 6]"))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the heart."""
    task = adjust(get_task("acdc"), TINY_MODEL, {"patch": [12, 12, 6]})
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    save(path, build(task.model, task.output_bias), task)
    return path


def test_training_on_published_cases_is_refused(tmp_path: Path, hearts: Path, config: Path) -> None:
    words = ["train", "--data", hearts, "--config", config, "--out", tmp_path / "out"]
    line = one_line(run(*words, code=1))
    assert (
        "contains 20 of the 20 held-out patients of the published acdc protocol (the first: patient002_frame01)" in line
    )
    assert "--leave-out-published" in line
    assert not (tmp_path / "out" / "model.safetensors").exists()
    done = run(*words, "--leave-out-published", "--epochs", 1)
    assert "8 used, 0 set aside, 40 of the published protocol left out" in done.stdout
    assert load_task(tmp_path / "out" / "model.safetensors").name == "acdc", "the layout told the task"


def test_ones_own_task_does_not_train_on_them_either(tmp_path: Path, hearts: Path, config: Path) -> None:
    task = left_ventricle(tmp_path)
    for words in (["train"], ["data", "prepare", hearts]):
        data = ["--data", hearts, "--config", config] if words == ["train"] else []
        line = one_line(run(*words, *data, "--task", task, "--out", tmp_path / "out", code=1))
        assert "contains 20 of the 20 held-out patients of the published acdc protocol" in line
    assert not (tmp_path / "out" / "model.safetensors").exists()


def measured(out: Path) -> tuple[dict[str, Any], str, str]:
    """The `metrics.json` of an evaluation, what its report says of published rows, and of the cases."""
    report = (out / "report.md").read_text()
    said = re.search(r"(?<=were not measured here\. ).*", report)
    cases = re.search(r".*--cases\).*", report)
    assert said is not None
    assert cases is not None
    return json.loads((out / "metrics.json").read_text()), said[0], cases[0]


def test_the_same_protocol_on_the_same_cases_is_called_comparable(tmp_path: Path, hearts: Path, model: Path) -> None:
    """As the papers do: on the published cases alone, of all that are there."""
    words = ["evaluate", "--model", model, "--data", hearts, "--cases", "published", "--protocol", "published"]
    same = run(*words, "--out", tmp_path / "same").stdout
    told, said, cases = measured(tmp_path / "same")
    assert said == "This model was measured by the same protocol, on exactly the cases that it holds out."
    assert told["comparable_with_published"] is True
    assert told["not_comparable_because"] is None
    assert told["published_cases"]["exact"] is True
    assert "published (--cases): 40 used, 0 set aside; 20 of the 20 held-out patients" in cases
    assert "not comparable" not in same
    assert told["cases"] == 40
    names = {line.partition("_")[0] for line in (tmp_path / "same" / "cases.csv").read_text().splitlines()[1:]}
    assert names == set(PATIENTS)


def test_other_cases_and_fewer_of_them_are_not_called_comparable(tmp_path: Path, model: Path) -> None:
    """The papers' protocol on more cases, of which one that they hold out is damaged."""
    folder = write_hearts(tmp_path / "data", (*PATIENTS, *FREE))
    (folder / PATIENTS[0] / f"{PATIENTS[0]}_frame01.nii.gz").write_bytes(b"no image")
    strata = tmp_path / "scanners.csv"
    names = [f"{patient}_{frame}" for patient in (*PATIENTS, *FREE) for frame in ("frame01", "frame12")]
    strata.write_text("case,scanner\n" + "".join(f"{name},GE\n" for name in names))
    words = ["evaluate", "--model", model, "--data", folder, "--protocol", "published", "--strata", strata]
    more = run(*words, "--out", tmp_path / "more").stdout
    told, said, cases = measured(tmp_path / "more")
    assert "same protocol" not in said
    assert "of the 20 held-out patients of the published acdc protocol, 1 missing or incomplete, 8 cases" in said
    assert "--cases published takes exactly these" in said
    assert told["comparable_with_published"] is False
    assert told["published_cases"]["missing"] == 1
    assert told["published_cases"]["others"] == 8
    assert "all (--cases): 47 used, 1 set aside" in cases
    assert "this model is not comparable" in " ".join(more.split())
    assert f"groups of cases: `{strata}`" in (tmp_path / "more" / "report.md").read_text().replace("**", "")


def test_one_case_more_or_less_is_not_comparable_and_neither_is_another_protocol(hearts: Path) -> None:
    """Of the cases alone, without measuring them."""
    protocol, found = choose_protocol("acdc", "published"), find_cases(hearts)
    cases = published_cases(hearts, found, "acdc")
    assert why_not_comparable(protocol, published_part(cases, "acdc")) == ""
    for others, said in (
        (found, "20 of the 20 held-out patients of the published acdc protocol, 0 missing or incomplete, 8 cases"),
        (cases[1:], "1 missing or incomplete, 0 cases that it does not hold out"),
    ):
        assert said in why_not_comparable(protocol, published_part(others, "acdc"))
    why = why_not_comparable(choose_protocol("acdc"), published_part(cases, "acdc"))
    assert why == "it was measured by another protocol (--protocol published measures as the papers do)"


def test_published_cases_that_are_not_complete_are_not_measured(tmp_path: Path, model: Path) -> None:
    folder = write_hearts(tmp_path / "data", PATIENTS[:3])
    (folder / PATIENTS[1] / f"{PATIENTS[1]}_frame12.nii.gz").unlink()
    words = ["evaluate", "--model", model, "--data", folder, "--out", tmp_path / "out"]
    line = one_line(run(*words, "--cases", "published", code=1))
    assert "contains 3 of the 20 held-out patients of the published acdc protocol, 18 are missing or incomplete" in line
    assert "--cases one of all, published" in one_line(run(*words, "--cases", "some", code=1))


def test_a_federation_on_some_published_cases_is_refused(tmp_path: Path, config: Path) -> None:
    folder = write_hearts(tmp_path / "data", (*PATIENTS[:2], *FREE))
    words = ["simulate", "--data", folder, "--config", config, "--sites", 2, "--rounds", 1, "--parallel", 1]
    line = one_line(run(*words, "--out", tmp_path / "no", code=1))
    assert "contains 2 of the 20 held-out patients" in line
    assert "leave them out of a federation with --leave-out-published" in line


# --- Layouts and own tasks -------------------------------------------------------------------------------------------


def test_ones_own_task_is_trained_evaluated_and_simulated(tmp_path: Path, config: Path) -> None:
    """The same hearts under a task of one's own, which asks for the left ventricle alone."""
    folder = write_hearts(tmp_path / "data", FREE)
    task = left_ventricle(tmp_path)
    asked = ["--data", folder, "--task", task, "--config", config]
    run("train", *asked, "--epochs", 1, "--out", tmp_path / "model")
    model = tmp_path / "model" / "model.safetensors"
    assert [s.name for s in load_task(model).structures] == ["left ventricle"]
    assert load_model(model, str(task)).task == load_task(model)
    run("simulate", *asked, "--sites", 2, "--rounds", 1, "--parallel", 1, "--out", tmp_path / "run")
    assert load_task(tmp_path / "run" / "last.safetensors").name == "left-ventricle"
    scores = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert list(scores["classes"]) == ["left ventricle"]
    task.write_text(task.read_text().replace("labels = [3]", "labels = [5]"))
    line = one_line(run("train", *asked, "--out", tmp_path / "no", code=1))
    assert f"{task}: structure 'left ventricle' of task 'left-ventricle' must use labels of" in line


def write_brats_2023(folder: Path, case: str) -> None:
    generator, label = np.random.default_rng(0), np.zeros((14, 14, 8), np.int16)
    label[3:6, 3:9, 2:6], label[6:9, 3:9, 2:6] = 2, 3
    (folder / case).mkdir(parents=True)
    for name in ("t1n", "t1c", "t2w", "t2f", "seg"):
        array = label if name == "seg" else 100 * label + generator.integers(50, 90, label.shape).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / case / f"{case}-{name}.nii.gz")


def test_the_example_of_ones_own_task_is_trained_and_predicts(tmp_path: Path, config: Path) -> None:
    """On folders named as those of BraTS 2023, of which it takes two contrasts by name."""
    for number in (1, 2):
        write_brats_2023(tmp_path / "data", f"BraTS-MET-0000{number}-000")
    asked = ["--data", tmp_path / "data", "--task", EXAMPLE, "--config", config]
    run("train", *asked, "--epochs", 1, "--out", tmp_path / "model")
    model = tmp_path / "model" / "model.safetensors"
    assert load_task(model).modalities == ("t1ce", "flair")
    run("predict", "--model", model, "--image", tmp_path / "data", "--out", tmp_path / "labels")
    assert len(list((tmp_path / "labels").iterdir())) == 2


def test_a_model_of_one_brats_is_measured_on_the_labels_of_another(tmp_path: Path) -> None:
    """The images are alike; `--task` says what the labels mean."""
    older = adjust(get_task("brats2021"), TINY_MODEL, {"patch": [12, 12, 8]})
    torch.manual_seed(0)
    save(tmp_path / "model.safetensors", build(older.model, older.output_bias), older)
    write_brats_2023(tmp_path / "data", "BraTS-GLI-00001-000")
    asked = ["evaluate", "--model", tmp_path / "model.safetensors", "--data", tmp_path / "data"]
    asked += ["--out", tmp_path / "out"]
    task = load_model(tmp_path / "model.safetensors", "brats2023").task
    assert task.label_values == get_task("brats2023").label_values
    assert (task.patch, task.model) == (older.patch, older.model), "windows are those that the model was trained with"
    assert "named as those of task brats2023, whose label values mean other things" in one_line(run(*asked, code=1))
    run(*asked, "--task", "brats2023")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["cases"] == 1


@pytest.mark.parametrize("command", ["train", "simulate"])
def test_a_folder_of_no_layout_ends_in_one_line(tmp_path: Path, command: str) -> None:
    (tmp_path / "data" / "label").mkdir(parents=True)
    (tmp_path / "data" / "label" / "label0001.nii.gz").touch()
    line = one_line(run(command, "--data", tmp_path / "data", "--out", tmp_path / "out", code=1))
    assert "It comes near BTCV: label0001 or its like is there, img0001 is not" in line
    (tmp_path / "empty").mkdir()
    assert "is empty" in one_line(run(command, "--data", tmp_path / "empty", "--out", tmp_path / "out", code=1))
