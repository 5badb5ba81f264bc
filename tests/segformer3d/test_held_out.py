"""The held-out cases of the published protocols: known by name in every spelling, and never trained on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer3d.cases import CaseFiles
from segformer3d.dataset import prepare
from segformer3d.errors import ConfigurationError
from segformer3d.held_out import HeldOutError, held_out_of, published_cases, split_off, training_cases, whole_lists
from segformer3d.task import Task
from segformer3d.tasks import TASKS, get_task, task_of_folder
from tests.conftest import MakeDataset

FOLDER = Path("data")


def named(*names: str, patient: str | None = None) -> tuple[CaseFiles, ...]:
    return tuple(CaseFiles(name, (), None, patient) for name in names)


def test_the_lists_are_the_published_ones(shared: Path) -> None:
    reference = json.loads((shared / "reference" / "held_out_splits.json").read_text())
    for task in TASKS:
        published = held_out_of(task)
        assert (None if published is None else list(published.names)) == reference.get(task, {}).get("held_out")
    counts = {task: len(told["held_out"]) for task, told in reference.items()}
    assert counts == {"brats2017": 73, "acdc": 20, "synapse": 12}


@pytest.mark.parametrize(
    ("task", "name", "held_out"),
    [
        ("brats2017", "BRATS_010", "BRATS_010"),
        ("brats2017", "brats_010", "BRATS_010"),
        ("brats2017", "BRATS_010_0000", "BRATS_010"),
        ("brats2017", "BRATS-010", "BRATS_010"),
        ("brats2017", "leeds_BRATS_010", "BRATS_010"),
        ("brats2017", "BRATS_001", None),
        ("brats2017", "BRATS_0100", None),
        ("brats2017", "BraTS20_Training_010", None),
        ("brats2017", "BraTS-GLI-00010-000", None),
        ("acdc", "patient002_frame01", "patient002"),
        ("acdc", "Patient002_frame12_gt", "patient002"),
        ("acdc", "patient001_frame01", None),
        ("acdc", "outpatient002", None),
        ("synapse", "img0001", "img0001"),
        ("synapse", "label0001", "img0001"),
        ("synapse", "ABD_001", "img0001"),
        ("synapse", "img0005", None),
        ("synapse", "img00010", None),
    ],
)
def test_a_held_out_case_is_known_by_its_name(task: str, name: str, held_out: str | None) -> None:
    published = held_out_of(task)
    assert published is not None
    assert published.name_of(*named(name)) == held_out


def test_a_patient_is_known_whatever_the_case_is_called() -> None:
    free, taken = split_off(named("scan-17", patient="patient002"), "acdc")
    assert (len(free), len(taken)) == (0, 1)


def test_names_that_a_hospital_may_use_itself_are_free_under_other_tasks() -> None:
    cases = named("patient002", "outpatient002_frame01", "img0001", "BraTS20_Training_010", "BRATS_0100")
    assert training_cases(FOLDER, cases, "hippocampus", leave_out=False) == cases


@pytest.mark.parametrize(
    ("case", "benchmark"),
    [
        (CaseFiles("BRATS_010", (), None), "brats2017"),
        (CaseFiles("leeds_brats_010_0000", (), None), "brats2017"),
        (CaseFiles("patient002_frame01", (), None), "acdc"),
        (CaseFiles("scan-17", (), None, "patient002", benchmark="acdc"), "acdc"),
        (CaseFiles("img0001", (), None, benchmark="synapse"), "synapse"),
    ],
)
@pytest.mark.parametrize("task", ["Task01_BrainTumour", "left-ventricle", "hippocampus", "brats2021"])
def test_a_held_out_case_is_one_whatever_the_task_is_called(case: CaseFiles, benchmark: str, task: str) -> None:
    """By the benchmark whose files are named like it."""
    cases = (case, *named("scan-1"))
    with pytest.raises(HeldOutError, match=f"contains 1 of the .* of the published {benchmark} protocol") as no:
        training_cases(FOLDER, cases, task, leave_out=False)
    assert str(no.value).endswith("or give cases that only share these names others")
    assert training_cases(FOLDER, cases, task, leave_out=True) == cases[1:]
    assert split_off(cases, task) == (cases[1:], (case,))
    with pytest.raises(HeldOutError, match="missing or incomplete"):
        whole_lists(FOLDER, cases, task)


def test_only_a_benchmarks_own_task_measures_its_published_cases() -> None:
    cases = every("brats2017", "")
    assert whole_lists(FOLDER, cases, "hippocampus") == cases
    with pytest.raises(
        ConfigurationError, match="task hippocampus has no published protocol; there is one for brats2017"
    ):
        published_cases(FOLDER, cases, "hippocampus")


def test_training_on_them_is_refused_or_they_are_left_out() -> None:
    cases = named("BRATS_001", "BRATS_010", "BRATS_026")
    with pytest.raises(
        HeldOutError, match=r"data contains 2 of the 73 held-out cases of the published brats2017"
    ) as no:
        training_cases(FOLDER, cases, "brats2017", leave_out=False)
    assert all(
        words in str(no.value) for words in ("(the first: BRATS_010)", "--leave-out-published", "--cases published")
    )
    assert "\n" not in str(no.value)
    assert training_cases(FOLDER, cases, "brats2017", leave_out=True) == cases[:1]


def every(task: str, *suffixes: str) -> tuple[CaseFiles, ...]:
    published = held_out_of(task)
    assert published is not None
    return named(*[name + suffix for name in published.names for suffix in suffixes])


@pytest.mark.parametrize(
    ("task", "suffixes"), [("brats2017", [""]), ("synapse", [""]), ("acdc", ["_frame01", "_frame09"])]
)
def test_the_published_cases_are_all_or_none(task: str, suffixes: list[str]) -> None:
    held = every(task, *suffixes)
    others = named("BRATS_001", "patient001_frame01", "img0005")
    assert published_cases(FOLDER, (*others, *held), task) == held
    with pytest.raises(HeldOutError, match=r"1 are missing or incomplete \(the first: .*\), and the published numbers"):
        published_cases(FOLDER, held[1:], task)


def test_counts_are_of_patients_where_they_have_several_cases() -> None:
    with pytest.raises(
        HeldOutError, match="contains 2 of the 20 held-out patients of the published acdc protocol, 19 are"
    ):
        published_cases(FOLDER, named("patient002_frame01", "patient003_frame01", "patient003_frame15"), "acdc")


# --- Where data is prepared for training -----------------------------------------------------------------------------


@pytest.fixture
def heart() -> Task:
    """A task that has a published protocol."""
    return get_task("acdc")


def frames(*patients: str) -> dict[str, Any]:
    generator, cases = np.random.default_rng(0), {}
    for name in [f"{patient}_frame{frame}" for patient in patients for frame in ("01", "09")]:
        label = np.zeros((6, 7, 4), np.int16)
        label[1:3, 2:5, 1:3], label[3:5, 2:5, 1:3] = 1, 3
        cases[name] = (generator.random(label.shape).astype(np.float32), label)
    return cases


def test_a_site_refuses_to_train_on_them(tmp_path: Path, make_dataset: MakeDataset, heart: Task) -> None:
    folder = make_dataset(tmp_path / "data", frames("patient001", "patient002", "patient004"), "plain")
    with pytest.raises(HeldOutError, match="contains 1 of the 20 held-out patients"):
        prepare(folder, heart, tmp_path / "cache")
    assert not (tmp_path / "cache").exists(), "nothing was prepared"
    data = prepare(folder, heart, tmp_path / "cache", leave_out_published=True)
    assert {case.patient for case in (*data.train, *data.validation)} == {"patient001", "patient004"}
    assert data.describe() == "4 used, 0 set aside, 2 of the published protocol left out"


def test_a_folder_of_nothing_else_is_refused(tmp_path: Path, make_dataset: MakeDataset, heart: Task) -> None:
    folder = make_dataset(tmp_path / "data", frames("patient002"), "plain")
    with pytest.raises(ValueError, match="has no usable case: all are held-out cases of the published protocol"):
        prepare(folder, heart, tmp_path / "cache", leave_out_published=True)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_both_frames_of_a_patient_are_on_one_side(
    tmp_path: Path, make_dataset: MakeDataset, heart: Task, share: float
) -> None:
    patients = [f"patient{number:03d}" for number in (1, 4, 5, 6, 7)]
    folder = make_dataset(tmp_path / "data", frames(*patients), "plain")
    data = prepare(folder, heart, tmp_path / "cache", validation_share=share)
    sides = [{case.patient for case in side} for side in (data.train, data.validation)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(patients)
    assert len(data.train) == 2 * len(sides[0])


@pytest.mark.parametrize("name", ["Task01_BrainTumour", "BRATS"])
def test_a_decathlon_folder_is_refused_whatever_it_calls_itself(
    tmp_path: Path, make_dataset: MakeDataset, name: str
) -> None:
    label = np.zeros((6, 7, 4), np.int16)
    label[1:3, 2:5, 1:3] = 1
    folder = make_dataset(tmp_path / "data", {"BRATS_010": (label + 1, label), "BRATS_001": (label + 2, label)})
    described = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**described, "name": name}))
    with pytest.raises(HeldOutError, match=r"1 of the 73 held-out .* \(the first: BRATS_010\)"):
        prepare(folder, task_of_folder(folder), tmp_path / "cache")
    assert not (tmp_path / "cache").exists(), "nothing was prepared"
