"""An import as a whole: what is written, what stands in it, and what does not."""

import hashlib
import json
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from segformer3d.cases import find_cases, find_images
from segformer3d.dicom.importing import Imported, Order, import_series
from segformer3d.dicom.selection import Refused, Wish, contrast_wishes, modality_of, read_wishes
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.files import StorageError
from segformer3d.patients import patient_of
from segformer3d.strata import read_facts
from segformer3d.tasks import get_task

from .conftest import Written
from .test_labels import masks, write_seg
from .writing import BIRTH, DATE, NAME, PATIENT_ID, Study, noise, oblique_affine, write_series

HIPPOCAMPUS, PHANTOM = get_task("hippocampus"), get_task("phantom")
CONTRASTS = tuple(Wish(name, f"*{name}*") for name in ("flair", "t1"))


def run(*sources: Path, out: Path, **wanted: Any) -> Imported:
    """An import that prints nothing."""
    return import_series(Order(sources, out, **wanted), lambda count: None, lambda result: None)


def manifest(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_text())


def by_reason(imported: Imported) -> list[str]:
    return [refused.reason for refused in imported.refused]


# --- What is written -------------------------------------------------------------------------------------------------


def test_a_series_becomes_a_nifti_file(tmp_path: Path) -> None:
    voxels = noise()
    write_series(tmp_path / "in", voxels)
    imported = run(tmp_path / "in", out=tmp_path / "out")
    (case,) = imported.cases
    image = nib.load(tmp_path / "out" / case["images"][0]["file"])
    assert np.array_equal(np.asanyarray(image.dataobj), voxels)
    assert image.get_data_dtype() == np.int16
    assert np.abs(image.affine - oblique_affine()).max() < 1e-4
    assert np.abs(image.get_qform() - oblique_affine()).max() < 1e-3
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)


def test_the_manifest_says_what_was_kept(tmp_path: Path) -> None:
    voxels = noise()
    write_series(tmp_path / "in" / "a", voxels)
    write_series(tmp_path / "in" / "b", noise((4, 4, 2)), description="scout")
    (tmp_path / "in" / "notes.txt").write_text("hello")
    imported = run(tmp_path / "in", out=tmp_path / "out")
    told = manifest(tmp_path / "out")
    image = told["cases"][0]["images"][0]
    assert {key: image[key] for key in ("modality", "manufacturer", "model", "field_strength_tesla", "files")} == {
        "modality": "MR", "manufacturer": "ACME", "model": "Spin 3000", "field_strength_tesla": 3.0, "files": 5,
    }  # fmt: skip
    assert image["spacing_mm"] == [0.7, 0.9, 2.5]
    assert image["shape"] == [9, 7, 5]
    assert np.allclose(image["affine_ras"], oblique_affine(), atol=1e-6)
    assert image["voxels_sha256"] == hashlib.sha256(voxels.astype("<i2").tobytes(order="F")).hexdigest()
    assert told["last_import"]["files"] == 8
    assert told["last_import"]["not_dicom"] == 1
    assert told["refused"] == [{"name": imported.refused[0].name, "reason": imported.refused[0].reason}]
    assert told["refused"][0]["reason"].startswith("it has 2 slices")


def test_scanners_are_strata(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a")
    write_series(tmp_path / "in" / "b", change=lambda dataset, k: dataset.pop("MagneticFieldStrength"))
    imported = run(tmp_path / "in", out=tmp_path / "out")
    told = read_facts(tmp_path / "out" / "scanners.csv")
    assert told.keys() == {case["case"] for case in imported.cases}
    assert sorted(dict(facts)["field_strength_tesla"] for facts in told.values()) == ["", "3.0"]
    assert {dict(facts)["model"] for facts in told.values()} == {"Spin 3000"}


@pytest.mark.parametrize(
    ("modalities", "said"), [(["MR"], "MRI"), (["CT", "CT"], "CT"), (["PT"], "PET"), (["CT", "MR"], "unknown")]
)
def test_the_dataset_says_what_its_images_are(tmp_path: Path, modalities: list[str], said: str) -> None:
    for number, modality in enumerate(modalities):
        write_series(tmp_path / "in" / str(number), modality=modality)
    run(tmp_path / "in", out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["modality"] == {"0": said}


def test_labelled_cases_are_to_train_on_and_all_are_to_predict(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "in" / "a")
    write_seg(tmp_path / "in" / "seg.dcm", slices, masks())
    write_series(tmp_path / "in" / "b", study=Study("OTHER"))
    out = tmp_path / "out"
    run(tmp_path / "in", out=out, task=HIPPOCAMPUS)
    (case,) = find_cases(out)
    assert patient_of(case) == case.name.split("_")[0]
    label = nib.load(case.label)
    assert np.array_equal(np.asarray(label.dataobj), masks()[0] + 2 * masks()[1])
    assert np.array_equal(label.affine, nib.load(case.images[0]).affine)
    assert len(find_images(out / "images")) == 2
    described = json.loads((out / "dataset.json").read_text())
    assert (described["name"], described["numTraining"], described["numTest"]) == ("hippocampus", 1, 1)
    assert described["labels"] == {"0": "background", "1": "anterior", "2": "posterior"}


def test_without_a_task_labels_are_left_out(tmp_path: Path) -> None:
    write_seg(tmp_path / "in" / "seg.dcm", write_series(tmp_path / "in" / "a"), masks())
    imported = run(tmp_path / "in", out=tmp_path / "out")
    assert imported.cases[0]["label"] is None
    assert not (tmp_path / "out" / "labels").exists()


def test_a_case_whose_label_cannot_be_used_is_refused_as_a_whole(tmp_path: Path) -> None:
    write_seg(tmp_path / "in" / "seg.dcm", write_series(tmp_path / "in" / "a"), masks(), ["x", "y"])
    write_series(tmp_path / "in" / "b")
    imported = run(tmp_path / "in", out=tmp_path / "out", task=HIPPOCAMPUS)
    assert len(imported.cases) == 1
    assert "none of the 2 structures" in by_reason(imported)[0]
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1


def test_a_case_with_one_broken_contrast_leaves_no_file(tmp_path: Path) -> None:
    write_study(tmp_path / "in" / "bad", "FLAIR", "T1")
    write_study(tmp_path / "in" / "good", "FLAIR", "T1")
    path = tmp_path / "in" / "bad" / "1" / "IM0002"
    path.write_bytes(path.read_bytes()[:-5])
    imported = run(tmp_path / "in", out=tmp_path / "out", contrasts=CONTRASTS)
    assert "is truncated or damaged" in by_reason(imported)[0]
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2


def test_a_label_that_is_gone_is_removed(tmp_path: Path) -> None:
    path = write_seg(tmp_path / "in" / "seg.dcm", write_series(tmp_path / "in" / "a"), masks())
    run(tmp_path / "in", out=tmp_path / "out", task=HIPPOCAMPUS)
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 1
    path.unlink()
    run(tmp_path / "in", out=tmp_path / "out", task=HIPPOCAMPUS)
    assert list((tmp_path / "out" / "labels").iterdir()) == []


def test_what_headers_announce_is_noted(tmp_path: Path) -> None:
    """The end of a transfer that broke off shows in nothing but this number."""
    write_series(
        tmp_path / "in", change=lambda dataset, k: setattr(dataset, "ImagesInAcquisition", 5), keep=lambda k: k < 4
    )
    (case,) = run(tmp_path / "in", out=tmp_path / "out").cases
    assert case["notes"] == ["its headers announce 5 images, 4 are here; see that the export is complete"]


# --- Contrasts -------------------------------------------------------------------------------------------------------


def write_study(folder: Path, *descriptions: str, study: Study | None = None, **options: Any) -> Study:
    study = study or Study()
    for number, description in enumerate(descriptions):
        write_series(folder / str(number), noise(seed=number), study=study, description=description, **options)
    return study


def test_the_contrasts_of_a_study_are_one_case_in_the_order_asked_for(tmp_path: Path) -> None:
    write_study(tmp_path / "in", "ax T1 se", "localizer", "ax FLAIR")
    imported = run(tmp_path / "in", out=tmp_path / "out", contrasts=CONTRASTS)
    (case,) = find_images(tmp_path / "out" / "images")
    assert [path.name[-11:] for path in case.images] == ["0000.nii.gz", "0001.nii.gz"]
    assert np.array_equal(np.asanyarray(nib.load(case.images[0]).dataobj), noise(seed=2))
    assert np.array_equal(np.asanyarray(nib.load(case.images[1]).dataobj), noise(seed=0))
    assert imported.selected.not_asked == 1
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["modality"] == {"0": "flair", "1": "t1"}


def test_a_study_without_one_series_for_each_contrast_is_refused(tmp_path: Path) -> None:
    wrong = {
        "the study has no usable series for contrast t1; every case needs all contrasts": ["FLAIR"],
        "the study has 2 series for contrast t1; make its pattern narrower": ["FLAIR", "T1", "T1 again"],
        "its description fits flair and t1; make the patterns of --contrast narrower": ["FLAIR T1", "FLAIR"],
    }
    write_study(tmp_path / "in" / "good", "FLAIR", "T1")
    for number, descriptions in enumerate(wrong.values()):
        write_study(tmp_path / "in" / str(number), *descriptions)
    imported = run(tmp_path / "in", out=tmp_path / "out", contrasts=CONTRASTS)
    assert len(imported.cases) == 1
    for reason in wrong:
        assert any(text.startswith(reason) for text in by_reason(imported)), reason


def test_a_study_of_two_patients_is_refused(tmp_path: Path) -> None:
    study = Study()
    write_series(tmp_path / "in" / "0", study=study, description="FLAIR")
    write_series(tmp_path / "in" / "1", study=replace(study, patient="OTHER"), description="T1")
    with pytest.raises(DataError, match="the study holds series of several patients"):
        run(tmp_path / "in", out=tmp_path / "out", contrasts=CONTRASTS)


@pytest.mark.parametrize("difference", ["position", "size", "frame of reference"])
def test_contrasts_on_different_grids_are_refused(tmp_path: Path, difference: str) -> None:
    study, affine = Study(), oblique_affine()
    write_series(tmp_path / "in" / "0", study=study, description="FLAIR")
    affine[0, 3] += 1.0 * (difference == "position")
    voxels = noise((9, 7, 6 if difference == "size" else 5))
    other = Study(uid=study.uid) if difference == "frame of reference" else study
    write_series(tmp_path / "in" / "1", voxels, affine, study=other, description="T1")
    with pytest.raises(DataError, match="flair and t1 lie on different grids; register and resample them"):
        run(tmp_path / "in", out=tmp_path / "out", contrasts=CONTRASTS)


def test_protocol_names_count_too(tmp_path: Path) -> None:
    write_series(tmp_path / "in", change=lambda dataset, k: setattr(dataset, "ProtocolName", "Brain/t1_mprage"))
    assert len(run(tmp_path / "in", out=tmp_path / "out", contrasts=(Wish("x", "*T1_MPRAGE"),)).cases) == 1


def test_what_nobody_asked_for_is_said(tmp_path: Path) -> None:
    write_series(tmp_path / "in", description="DIXON")
    with pytest.raises(DataError, match=r"none of 1 series fits a pattern of --contrast; private/series.json"):
        run(tmp_path / "in", out=tmp_path / "out", contrasts=CONTRASTS)
    assert "DIXON" in (tmp_path / "out" / "private" / "series.json").read_text()


@pytest.mark.parametrize(
    ("texts", "task", "said"),
    [
        (["flair"], None, "takes NAME=PATTERN"),
        (["=x"], None, "takes NAME=PATTERN"),
        (["a=x", "a=y"], None, "names a twice"),
        (["adc=*ADC*"], PHANTOM, "knows flair, t1, t1ce, t2, got 'adc'"),
        (["flair=*FLAIR*"], PHANTOM, "task phantom takes 4 contrasts"),
        ([], PHANTOM, '--contrast "flair=[*]flair[*]" --contrast "t1=[*]t1[*]"'),
    ],
)
def test_wishes_that_mean_nothing(texts: list[str], task: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        contrast_wishes(texts, task)


def test_wishes_are_in_the_order_of_the_task() -> None:
    wishes = contrast_wishes(["T2=a", "t1=b", "t1ce=c", "FLAIR=d"], PHANTOM)
    assert [wish.name for wish in wishes] == ["flair", "t1", "t1ce", "t2"]
    assert [wish.name for wish in read_wishes("--contrast", ["b=1", "a=2"], None)] == ["b", "a"]
    assert contrast_wishes([], HIPPOCAMPUS) == ()


@pytest.mark.parametrize(
    ("contrast", "modality"),
    [("CT", "CT"), ("ct venous", "CT"), ("PET", "PT"), ("MRI", "MR"), ("t1ce", "MR"), ("ADC", "MR"), ("T2w", "MR")],
)
def test_what_a_contrast_is_taken_with(contrast: str, modality: str) -> None:
    assert modality_of(contrast) == modality


def test_a_task_refuses_another_modality(tmp_path: Path) -> None:
    write_series(tmp_path / "in", modality="CT")
    with pytest.raises(DataError, match="it is a CT scan; the task takes MR"):
        run(tmp_path / "in", out=tmp_path / "out", task=HIPPOCAMPUS)


# --- Identifiers -----------------------------------------------------------------------------------------------------


def secret_texts(*studies: Study) -> list[str]:
    return [NAME, "Doe", "Jonathan", PATIENT_ID, "4711", BIRTH, DATE, "ACC-99", "House", "Elsewhere", "SN-123", "VIP",
            *(study.uid for study in studies), *(study.frame_of_reference for study in studies)]  # fmt: skip


def test_nothing_that_leaves_the_private_folder_holds_an_identifier(tmp_path: Path) -> None:
    """Names of files, their bytes (NIfTI unpacked), and all that is told about cases and refused series."""
    study, out, told = Study(), tmp_path / "out", []
    slices = write_series(tmp_path / "Doe_VIP" / DATE / "T1 VIP", study=study, description="T1 VIP")
    write_seg(tmp_path / "Doe_VIP" / "seg.dcm", slices, masks(), ["anterior", "VIP posterior"])
    write_series(tmp_path / "Doe_VIP" / DATE / "scout", noise((9, 7, 2)), study=study, description="VIP scout")
    import_series(Order((tmp_path / "Doe_VIP",), out, HIPPOCAMPUS), told.append, told.append)
    files = [path for path in out.rglob("*") if path.is_file() and "private" not in path.parts]
    assert len(files) == 5
    uids = [dataset.SOPInstanceUID for dataset in slices] + [slices[0].SeriesInstanceUID]
    for path in files:
        content = path.read_bytes() if path.suffix != ".gz" else nib.load(path).to_bytes() + path.read_bytes()
        for secret in [*secret_texts(study), *uids]:
            assert secret.encode() not in content, (path, secret)
            assert secret not in str(path.relative_to(out))
    for secret in [*secret_texts(study), *uids]:
        assert secret not in repr(told)


def test_the_private_folder_leads_back_and_is_for_its_owner_only(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "in" / "Doe", description="T1 of Doe")
    run(tmp_path / "in", out=tmp_path / "out")
    private = tmp_path / "out" / "private"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert stat.S_IMODE((private / "key").stat().st_mode) == 0o600
    (known,) = json.loads((private / "series.json").read_text()).items()
    assert known[0] == manifest(tmp_path / "out")["cases"][0]["images"][0]["series"]
    assert known[1]["folders"] == [str(tmp_path / "in" / "Doe")]
    assert known[1]["description"] == "T1 of Doe"
    assert slices[0].PatientID not in (private / "series.json").read_text()


def test_a_patient_has_one_name_in_all_series_visits_and_imports(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_series(tmp_path / "first" / "a", study=Study("p-01"))
    write_series(tmp_path / "first" / "b", study=Study(" P-01"))
    write_series(tmp_path / "first" / "c", study=Study("p-02"))
    write_series(tmp_path / "second", study=Study("P-01 "))
    first, second = run(tmp_path / "first", out=out), run(tmp_path / "second", out=out)
    names = [case["patient"] for case in (*first.cases, *second.cases)]
    assert len(set(names)) == 2
    assert sorted(names.count(name) for name in set(names)) == [1, 3]
    assert all(re.fullmatch(r"p[0-9a-f]{12}", name) for name in names)
    assert len(manifest(out)["cases"]) == 4


def test_another_folder_has_other_names(tmp_path: Path, plain: Written) -> None:
    names = {run(plain.folder, out=tmp_path / out).cases[0]["case"] for out in ("a", "b")}
    assert len(names) == 2


def test_a_series_without_patient_id_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", study=Study(patient=""))
    with pytest.raises(DataError, match="it names no patient"):
        run(tmp_path / "in", out=tmp_path / "out")


def test_facts_about_the_scanner_are_clean(tmp_path: Path) -> None:
    def change(dataset: Dataset, k: int) -> None:
        dataset.Manufacturer, dataset.MagneticFieldStrength = "ACME\x1b[31m" + "x" * 50, 15000  # gauss

    write_series(tmp_path / "in", change=change)
    image = run(tmp_path / "in", out=tmp_path / "out").cases[0]["images"][0]
    assert image["manufacturer"].startswith("ACME[31mx")
    assert image["field_strength_tesla"] == 1.5


# --- Again, and into folders that are not new ------------------------------------------------------------------------


def test_importing_again_changes_nothing(tmp_path: Path, plain: Written) -> None:
    out = tmp_path / "out"
    run(plain.folder, out=out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    run(plain.folder, out=out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_series_that_was_refused_and_is_whole_now_is_refused_no_more(tmp_path: Path) -> None:
    uid, study = generate_uid(), Study()
    change = lambda dataset, k: setattr(dataset, "SeriesInstanceUID", uid)  # noqa: E731
    write_series(tmp_path / "in", study=study, change=change, keep=lambda k: k != 2)
    with pytest.raises(
        DataError, match=r"nothing could be imported; 1 were refused, the first \(s[0-9a-f]{12}\): about 1"
    ):
        run(tmp_path / "in", out=tmp_path / "out")
    assert len(manifest(tmp_path / "out")["refused"]) == 1
    write_series(tmp_path / "in", study=study, change=change)
    run(tmp_path / "in", out=tmp_path / "out")
    assert manifest(tmp_path / "out")["refused"] == []


def test_after_an_import_without_a_case_settings_may_be_others(tmp_path: Path) -> None:
    """The first try fails, private/series.json says why, and the second one need not choose a new folder."""
    write_series(tmp_path / "in", description="T1 mprage")
    with pytest.raises(DataError, match="none of 1 series fits"):
        run(tmp_path / "in", out=tmp_path / "out", contrasts=CONTRASTS[:1])
    assert len(run(tmp_path / "in", out=tmp_path / "out", contrasts=(Wish("t1", "*t1*"),)).cases) == 1


def test_other_settings_need_another_folder(tmp_path: Path, plain: Written) -> None:
    run(plain.folder, out=tmp_path / "out")
    with pytest.raises(DataError, match='was imported with task null, now "hippocampus" is asked for'):
        run(plain.folder, out=tmp_path / "out", task=HIPPOCAMPUS)
    with pytest.raises(DataError, match=r"was imported with contrasts \[\], now \[\"t1\"\] is asked for"):
        run(plain.folder, out=tmp_path / "out", contrasts=(Wish("t1", "*"),))


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, plain: Written) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(DataError, match="holds something else; choose a new folder"):
        run(plain.folder, out=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_damaged_key_is_said(tmp_path: Path, plain: Written) -> None:
    run(plain.folder, out=tmp_path / "out")
    for content in ("", "xyz", "ab" * 5):
        (tmp_path / "out" / "private" / "key").write_text(content)
        with pytest.raises(DataError, match="key is damaged; restore it"):
            run(plain.folder, out=tmp_path / "out")


def test_a_full_disk_ends_in_one_line_and_what_was_done_is_listed(tmp_path: Path, full_disk: Any) -> None:
    write_series(tmp_path / "in" / "a")
    write_series(
        tmp_path / "in" / "b", np.random.default_rng(0).integers(0, 30000, (60, 60, 20), np.int16), study=Study()
    )
    done: list[Any] = []
    with full_disk(20000), pytest.raises(StorageError, match="free space or choose another folder"):
        import_series(Order((tmp_path / "in",), tmp_path / "out"), lambda count: None, done.append)
    assert not any(isinstance(result, Refused) for result in done)
    assert [case["case"] for case in manifest(tmp_path / "out")["cases"]] == [result["case"] for result in done]


def test_stopped_by_the_user_what_was_done_is_listed(tmp_path: Path) -> None:
    for number in range(3):
        write_series(tmp_path / "in" / str(number))
    done: list[Any] = []

    def stop(result: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(result)

    with pytest.raises(KeyboardInterrupt):
        import_series(Order((tmp_path / "in",), tmp_path / "out"), lambda count: None, stop)
    assert [case["case"] for case in manifest(tmp_path / "out")["cases"]] == [done[0]["case"]]
    assert len(run(tmp_path / "in", out=tmp_path / "out").cases) == 3
