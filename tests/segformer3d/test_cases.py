"""Which files make up a case, in every layout. Only names count, so the files here are empty."""

import json
from pathlib import Path
from typing import Any

import pytest

from segformer3d.cases import CaseFiles, case_name, find_cases, find_images
from segformer3d.errors import DataError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def decathlon(folder: Path, *training: Any) -> Path:
    (folder / "dataset.json").write_text(json.dumps({"training": list(training)}))
    return folder


@pytest.mark.parametrize(
    ("path", "name"), [("a.nii.gz", "a"), ("a.nii", "a"), ("x/a.b.nii.gz", "a.b"), ("a_0000.nii.gz", "a_0000")]
)
def test_case_name(path: str, name: str) -> None:
    assert case_name(Path(path)) == name


# --- dataset.json ----------------------------------------------------------------------------------------------------


def test_decathlon(tmp_path: Path) -> None:
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("b", "a")]
    first, second = find_cases(decathlon(tmp_path, *entries))
    assert first == CaseFiles("a", (tmp_path / "imagesTr/a.nii.gz",), tmp_path / "labelsTr/a.nii.gz")
    assert second.name == "b"


def test_an_image_in_several_files_has_the_name_of_its_label(tmp_path: Path) -> None:
    entry = {"image": ["i/p1_flair.nii.gz", "i/p1_t1.nii.gz"], "label": "l/p1.nii.gz"}
    (case,) = find_cases(decathlon(tmp_path, entry))
    assert case == CaseFiles(
        "p1", (tmp_path / "i/p1_flair.nii.gz", tmp_path / "i/p1_t1.nii.gz"), tmp_path / "l/p1.nii.gz"
    )


def test_files_that_are_not_there_are_not_looked_for(tmp_path: Path) -> None:
    assert len(find_cases(decathlon(tmp_path, {"image": "nowhere.nii.gz", "label": "nowhere.nii.gz"}))) == 1


@pytest.mark.parametrize(
    "entry",
    [
        "a.nii.gz",
        3,
        {},
        {"image": "a.nii.gz"},
        {"label": "a.nii.gz"},
        {"image": [], "label": "a"},
        {"image": [1], "label": "a"},
    ],
    ids=str,
)
def test_an_entry_without_both_names_is_refused(tmp_path: Path, entry: Any) -> None:
    good = {"image": "i/a.nii.gz", "label": "l/a.nii.gz"}
    with pytest.raises(DataError, match=r"training entry 1 of .*dataset.json needs an 'image' and a 'label' file name"):
        find_cases(decathlon(tmp_path, good, entry))


@pytest.mark.parametrize("patient", ["", 7])
def test_a_patient_without_a_name_is_refused(tmp_path: Path, patient: Any) -> None:
    entry = {"image": "i/a.nii.gz", "label": "l/a.nii.gz", "patient": patient}
    with pytest.raises(DataError, match=r"'patient' of training entry 0 of .*dataset.json must be a text"):
        find_cases(decathlon(tmp_path, entry))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"training": {}}', '{"training": []}'])
def test_a_description_without_cases_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError) as refused:
        find_cases(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_case_may_stand_there_once(tmp_path: Path) -> None:
    entry = {"image": "i/a.nii.gz", "label": "l/a.nii.gz"}
    with pytest.raises(DataError, match="lists a case twice"):
        find_cases(decathlon(tmp_path, entry, entry))


# --- images/ and labels/ ---------------------------------------------------------------------------------------------


def test_plain_folders(tmp_path: Path) -> None:
    touch(
        tmp_path, "images/b.nii.gz", "images/a.nii", "labels/a.nii.gz", "labels/b.nii", "images/._a.nii", "images/x.txt"
    )
    assert find_cases(tmp_path) == (
        CaseFiles("a", (tmp_path / "images/a.nii",), tmp_path / "labels/a.nii.gz"),
        CaseFiles("b", (tmp_path / "images/b.nii.gz",), tmp_path / "labels/b.nii"),
    )


def test_numbered_channels_are_one_case_in_order(tmp_path: Path) -> None:
    names = [f"images/p1_000{i}.nii.gz" for i in (2, 0, 1)]
    (case,) = find_cases(touch(tmp_path, *names, "labels/p1.nii.gz"))
    assert case.name == "p1"
    assert [path.name for path in case.images] == ["p1_0000.nii.gz", "p1_0001.nii.gz", "p1_0002.nii.gz"]


def test_a_number_that_the_label_has_too_belongs_to_the_name(tmp_path: Path) -> None:
    touch(tmp_path, *[f"{folder}/p_000{i}.nii.gz" for folder in ("images", "labels") for i in (1, 2)])
    assert [case.name for case in find_cases(tmp_path)] == ["p_0001", "p_0002"]
    assert all(len(case.images) == 1 for case in find_cases(tmp_path))


def test_half_a_case_is_a_case_with_a_missing_file(tmp_path: Path) -> None:
    touch(tmp_path, "images/image_only.nii.gz", "labels/label_only.nii.gz")
    by_name = {case.name: case for case in find_cases(tmp_path)}
    assert by_name["image_only"].label == tmp_path / "labels" / "image_only.nii.gz"
    assert by_name["label_only"].images == (tmp_path / "images" / "label_only.nii.gz",)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([], "is empty; --data takes a folder of labelled cases"),
        (["scan.nii.gz"], r"is of no known layout\. Known are Decathlon \(dataset.json.*BraTS \(a folder a case"),
        (["images/readme.txt"], "comes near plain: images/ and labels/ hold no .nii.gz and no .nii file"),
    ],
)
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, files: list[str], text: str) -> None:
    with pytest.raises(DataError, match=text):
        find_cases(touch(tmp_path, *files))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*missing; --data takes a folder"):
        find_cases(tmp_path / "missing")


# --- Images to predict -----------------------------------------------------------------------------------------------


def test_images_to_predict(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "p_0000.nii.gz", "p_0001.nii.gz")
    assert find_images(tmp_path / "a.nii.gz") == (CaseFiles("a", (tmp_path / "a.nii.gz",), None),)
    several = find_images(tmp_path)
    assert [(case.name, len(case.images), case.label) for case in several] == [("a", 1, None), ("p", 2, None)]


def test_four_digits_are_a_channel_only_where_there_is_a_channel_0(tmp_path: Path) -> None:
    touch(tmp_path, "liver_0001.nii.gz", "liver_0002.nii.gz", "p_0000.nii.gz", "p_0001.nii.gz")
    assert [(case.name, len(case.images)) for case in find_images(tmp_path)] == [
        ("liver_0001", 1),
        ("liver_0002", 1),
        ("p", 2),
    ]


def test_images_of_a_dataset_to_predict(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")
    assert [case.name for case in find_images(tmp_path)] == ["a"]


def test_nothing_to_predict_is_said(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="there is no NIfTI image"):
            find_images(path)
