"""Which files make up a case in the layouts of challenges and tools. Names count, so nearly all files are empty."""

import itertools
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from segformer3d.cases import LAYOUTS, CaseFiles, find_cases, find_images
from segformer3d.errors import DataError
from segformer3d.tasks import get_task, task_of_folder

OLD = ("flair", "seg", "t1", "t1ce", "t2")
NEW = ("seg", "t1c", "t1n", "t2f", "t2w")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def brats(folder: Path, name: str, parts: tuple[str, ...], sign: str, ending: str = ".nii.gz") -> Path:
    return touch(folder, *[f"{name}/{name}{sign}{part}{ending}" for part in parts])


def one(folder: Path) -> CaseFiles:
    (case,) = find_cases(folder)
    return case


# --- Decathlon -------------------------------------------------------------------------------------------------------


def test_two_crops_of_the_decathlons_hippocampi_are_one_patient(tmp_path: Path) -> None:
    names = [f"hippocampus_{number:03d}" for number in (1, 2, 3, 5, 6, 10)]
    entries = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in names]
    entries.append({**entries[0], "label": "labelsTr/hippocampus_004.nii.gz", "patient": "somebody"})
    entries[-1]["image"] = "imagesTr/hippocampus_004.nii.gz"
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
    whose = [str(case.patient).removeprefix("hippocampus-patient-") for case in find_cases(tmp_path)]
    assert whose == ["001", "001", "002", "somebody", "003", "003", "005"], "a dataset that tells knows better"


def test_two_crops_of_one_patient_are_of_one_scan(shared: Path) -> None:
    """Intensities span four orders of magnitude between patients, and agree within one."""
    means: dict[str | None, list[float]] = {}
    for case in find_cases(shared / "data" / "hippocampus"):
        means.setdefault(case.patient, []).append(float(np.mean(nib.load(case.images[0]).dataobj)))
    within = [max(pair) / min(pair) for pair in means.values() if len(pair) == 2]
    single = [pair[0] for pair in means.values()]
    between = [max(pair) / min(pair) for pair in itertools.pairwise(single)]
    assert (len(means), len(within)) == (148, 52)
    assert np.median(within) < 1.05 < 1.2 < np.median(between)


# --- BraTS -----------------------------------------------------------------------------------------------------------


def test_brats_2021(tmp_path: Path) -> None:
    place = brats(tmp_path, "BraTS2021_00002", OLD, "_") / "BraTS2021_00002"
    names = ("flair", "t1", "t1ce", "t2")
    assert one(tmp_path) == CaseFiles(
        "BraTS2021_00002",
        tuple(place / f"BraTS2021_00002_{contrast}.nii.gz" for contrast in names),
        place / "BraTS2021_00002_seg.nii.gz",
        contrasts=names,
        benchmark="brats2021",
    )
    assert task_of_folder(tmp_path) is get_task("brats2021")


def test_brats_2020_has_files_that_are_not_compressed(tmp_path: Path) -> None:
    brats(tmp_path, "BraTS20_Training_001", OLD, "_", ".nii")
    assert one(tmp_path).images[0].name == "BraTS20_Training_001_flair.nii"


def test_brats_2023_names_patient_and_timepoint(tmp_path: Path) -> None:
    for name in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00008-000"):
        brats(tmp_path, name, NEW, "-")
    cases = find_cases(tmp_path)
    assert [case.patient for case in cases] == ["BraTS-GLI-00005", "BraTS-GLI-00005", "BraTS-GLI-00008"]
    assert [case.facts for case in cases] == [(("timepoint", "000"),), (("timepoint", "001"),), (("timepoint", "000"),)]
    assert cases[0].contrasts == ("t2f", "t1n", "t1c", "t2w"), "in the order of the task"
    assert task_of_folder(tmp_path) is get_task("brats2023")


def test_a_missing_contrast_is_left_to_the_reading_and_a_missing_label_is_none(tmp_path: Path) -> None:
    brats(tmp_path, "a", ("flair", "t1", "t2"), "_")
    assert (one(tmp_path).contrasts, one(tmp_path).label) == (("flair", "t1", "t2"), None)


def test_one_folder_may_be_a_case_itself(tmp_path: Path) -> None:
    brats(tmp_path, "TCGA-DU-7294", OLD, "_")
    assert find_images(tmp_path / "TCGA-DU-7294") == find_cases(tmp_path)


def test_the_folder_that_one_is_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brats(tmp_path, "a", OLD, "_")
    monkeypatch.chdir(tmp_path / "a")
    assert find_images(Path())[0].name == "a"


def test_two_namings_in_one_folder_are_refused(tmp_path: Path) -> None:
    brats(tmp_path, "a", OLD, "_")
    brats(tmp_path, "b", NEW, "-")
    brats(tmp_path, "c", NEW, "-")
    with pytest.raises(DataError, match=r"_flair, _t1 \(1 cases\) and -t2f, -t1n \(2 cases\), whose labels differ"):
        find_cases(tmp_path)


# --- BTCV ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels", "label"),
    [
        ("img", "label", "label0004"),
        ("imagesTr", "labelsTr", "label0004"),
        ("imagesTr", "labelsTr", "img0004"),
        ("averaged-training-images", "averaged-training-labels", "label0004"),
        (".", ".", "label0004"),
    ],
)
def test_btcv(tmp_path: Path, images: str, labels: str, label: str) -> None:
    touch(tmp_path, f"{images}/img0004.nii.gz", f"{labels}/{label}.nii.gz")
    image, truth = tmp_path / images / "img0004.nii.gz", tmp_path / labels / f"{label}.nii.gz"
    assert one(tmp_path) == CaseFiles("img0004", (image,), truth, "img0004", ("CT",), benchmark="synapse")
    assert task_of_folder(tmp_path) is get_task("synapse")


def test_half_a_btcv_case_is_a_case_with_a_missing_file(tmp_path: Path) -> None:
    touch(tmp_path, "img/img0001.nii.gz", "label/label0002.nii.gz")
    first, second = find_cases(tmp_path)
    assert first.label == tmp_path / "label" / "label0001.nii.gz"
    assert second.images == (tmp_path / "img" / "img0002.nii.gz",)


# --- ACDC ------------------------------------------------------------------------------------------------------------

INFO = "ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"


def acdc(folder: Path, patient: str, *frames: int, info: str | None = INFO) -> Path:
    for frame in frames:
        touch(folder / patient, *[f"{patient}_frame{frame:02d}{kind}.nii.gz" for kind in ("", "_gt")])
    touch(folder / patient, f"{patient}_4d.nii.gz")
    if info is not None:
        (folder / patient / "Info.cfg").write_text(info)
    return folder


def test_acdc_frames_are_cases_of_one_patient(tmp_path: Path) -> None:
    place = acdc(tmp_path, "patient001", 1, 12) / "patient001"
    end_of_diastole, end_of_systole = find_cases(tmp_path)
    assert end_of_diastole == CaseFiles(
        "patient001_frame01",
        (place / "patient001_frame01.nii.gz",),
        place / "patient001_frame01_gt.nii.gz",
        "patient001",
        ("MRI",),
        (("frame", "ED"), ("group", "DCM")),
        (place / "Info.cfg",),
        "acdc",
    )
    assert (end_of_systole.name, end_of_systole.patient) == ("patient001_frame12", "patient001")
    assert end_of_systole.facts == (("frame", "ES"), ("group", "DCM")), "height and weight are nobody's business"
    assert task_of_folder(tmp_path) is get_task("acdc")


@pytest.mark.parametrize("info", [None, "", "\x00\xff", "ED 1"])
def test_acdc_without_a_readable_info_has_no_facts(tmp_path: Path, info: str | None) -> None:
    acdc(tmp_path, "patient001", 1, info=info)
    assert one(tmp_path).facts == ()


def test_a_frame_tells_its_patient_wherever_it_was_copied_to(tmp_path: Path) -> None:
    touch(tmp_path, *[f"{kind}/patient007_frame{frame}.nii.gz" for kind in ("images", "labels") for frame in (1, 9)])
    assert [case.patient for case in find_cases(tmp_path)] == ["patient007", "patient007"]


# --- nnU-Net ---------------------------------------------------------------------------------------------------------


def nnunet(folder: Path, **described: Any) -> Path:
    values = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "lesion": 1}, **described}
    (folder / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz", **values}))
    return folder


def raw(folder: Path, *names: str, channels: int = 2, ending: str = ".nii.gz") -> Path:
    images = [f"imagesTr/{name}_{channel:04d}{ending}" for name in names for channel in range(channels)]
    return touch(folder, *images, *[f"labelsTr/{name}{ending}" for name in names])


def test_nnunet(tmp_path: Path) -> None:
    nnunet(raw(tmp_path, "la_003", "la_004"), numTraining=2)
    first, second = find_cases(tmp_path)
    images = tuple(tmp_path / "imagesTr" / f"la_003_000{channel}.nii.gz" for channel in (0, 1))
    assert first == CaseFiles("la_003", images, tmp_path / "labelsTr" / "la_003.nii.gz", contrasts=("T1", "FLAIR"))
    assert second.name == "la_004"


def test_nnunet_takes_the_ending_that_it_names(tmp_path: Path) -> None:
    nnunet(raw(tmp_path, "a", ending=".nii"), file_ending=".nii")
    assert [path.name for path in one(tmp_path).images] == ["a_0000.nii", "a_0001.nii"]
    with pytest.raises(DataError, match=r"says file_ending '.png', and segfed reads .nii.gz and .nii; convert the"):
        find_cases(nnunet(tmp_path, file_ending=".png"))


def test_nnunet_must_have_as_many_cases_as_it_announces(tmp_path: Path) -> None:
    nnunet(raw(tmp_path, "a", "b"), numTraining=3)
    with pytest.raises(DataError, match=r"announces 3 cases \(numTraining\), and there are 2; restore the missing"):
        find_cases(tmp_path)


def test_nnunet_may_list_its_files(tmp_path: Path) -> None:
    listed = {"a": {"images": ["i/a_t1.nii.gz", "i/a_flair.nii.gz"], "label": "l/a.nii.gz"}}
    case = one(nnunet(tmp_path, dataset=listed))
    assert (case.name, case.images[1], case.label) == ("a", tmp_path / "i/a_flair.nii.gz", tmp_path / "l/a.nii.gz")
    with pytest.raises(DataError, match=r"case 'a' of 'dataset' in .* needs 'images' and a 'label'"):
        find_cases(nnunet(tmp_path, dataset={"a": {"images": "i/a.nii.gz"}}))


def test_the_first_nnunet_lists_names_without_channels(tmp_path: Path) -> None:
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    nnunet(raw(tmp_path, "a"), training=[entry], numTraining=1, modality={"0": "T1", "1": "FLAIR"})
    assert (one(tmp_path).name, len(one(tmp_path).images)) == ("a", 2)


def test_a_missing_channel_is_left_to_the_reading(tmp_path: Path) -> None:
    nnunet(raw(tmp_path, "a"))
    (tmp_path / "imagesTr" / "a_0000.nii.gz").unlink()
    assert one(tmp_path).contrasts == ("FLAIR",)


# --- BIDS ------------------------------------------------------------------------------------------------------------


def test_bids(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_FLAIR.nii.gz",
        "sub-01/anat/sub-01_ce-GADOLINIUM_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
        "derivatives/manual/sub-01/anat/sub-01_space-orig_desc-tumour_dseg.nii.gz",
        "derivatives/manual/sub-01/anat/sub-01_desc-brain_mask.nii.gz",
    )
    case = one(tmp_path)
    assert (case.name, case.patient) == ("sub-01", "sub-01")
    assert dict(zip(case.contrasts, [path.name for path in case.images], strict=True)) == {
        "T1w": "sub-01_T1w.nii.gz",
        "FLAIR": "sub-01_FLAIR.nii.gz",
        "T1ce": "sub-01_ce-GADOLINIUM_T1w.nii.gz",
    }
    assert case.label is not None
    assert case.label.name == "sub-01_space-orig_desc-tumour_dseg.nii.gz", "a label map goes before a mask"


def test_bids_sessions_are_cases_of_one_patient(tmp_path: Path) -> None:
    for session in ("1", "2"):
        name = f"sub-A_ses-{session}"
        touch(tmp_path, f"sub-A/ses-{session}/anat/{name}_T1w.nii.gz")
        touch(tmp_path, f"derivatives/rater/sub-A/ses-{session}/anat/{name}_label-lesion_mask.nii.gz")
    touch(tmp_path, "sub-B/ses-1/anat/sub-B_ses-1_T1w.nii.gz", "derivatives/rater/sub-B/anat/sub-B_dseg.nii.gz")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tSite\tscanner\nsub-A\t40\tLeeds\tn/a\nsub-B\t50\t\t\n"
    )
    first, second, third = find_cases(tmp_path)
    assert [case.name for case in (first, second, third)] == ["sub-A_ses-1", "sub-A_ses-2", "sub-B_ses-1"]
    assert (first.patient, second.patient) == ("sub-A", "sub-A")
    assert first.facts == (("site", "Leeds"),), "age is nobody's business"
    assert third.label is not None, "a label without a session is of the only one"
    assert first.sidecars == (tmp_path / "participants.tsv",)


def test_bids_without_labels_can_be_predicted(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    assert find_images(tmp_path)[0].label is None


def test_two_label_maps_of_a_session_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    touch(tmp_path, *[f"derivatives/{rater}/sub-01/anat/sub-01_dseg.nii.gz" for rater in ("anna", "ben")])
    with pytest.raises(DataError, match=r"has 2 label maps \(_dseg, in derivatives/anna/sub-01/anat and .*ben"):
        find_cases(tmp_path)


# --- None of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (["labels/a.nii.gz"], "plain: labels/ is there, images/ is not"),
        (["imagesTr/a_0000.nii.gz"], "nnU-Net: imagesTr/ is there, dataset.json is not"),
        (["label/label0001.nii.gz"], "BTCV: label0001 or its like is there, img0001 is not"),
        (["patient001/patient001_4d.nii.gz"], r"ACDC: patient folders are there, patient001_frame01\.nii\.gz or its"),
        (["sub-01/func/sub-01_bold.nii.gz"], r"BIDS: sub- folders are there, an image in sub-\*/anat/ is not"),
        (["a_flair.nii.gz", "a_t1.nii.gz"], "BraTS: files are named by contrast, but do not lie in a folder for each"),
        (["case1/x_flair.nii.gz"], "BraTS: files are named by contrast, but do not lie in a folder for each case that"),
    ],
)
def test_what_is_missing_in_a_layout_that_came_near_is_said(tmp_path: Path, files: list[str], missing: str) -> None:
    with pytest.raises(DataError, match=missing) as refused:
        find_cases(touch(tmp_path, *files))
    text = str(refused.value)
    assert "\n" not in text
    assert all(layout.name in text for layout in LAYOUTS), "every layout that was looked for"


def test_a_dataset_one_level_deeper_is_pointed_at(tmp_path: Path) -> None:
    acdc(tmp_path / "training", "patient001", 1)
    with pytest.raises(DataError, match="Its folder training is; name that one"):
        find_cases(tmp_path)


def test_hidden_files_are_no_cases(tmp_path: Path) -> None:
    touch(tmp_path, "img/._img0001.nii.gz", "img/img0002.nii.gz", ".cache/.cache_flair.nii.gz")
    assert [case.name for case in find_cases(tmp_path)] == ["img0002"]
