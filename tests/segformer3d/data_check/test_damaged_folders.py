"""Every rule, broken by a file that is really so: exactly that finding, on exactly that case."""

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from segformer3d.data_check.check import Checked, check_folder
from segformer3d.data_check.rules import Severity
from segformer3d.errors import DataError
from segformer3d.task import Task
from tests.conftest import MakeDataset
from tests.segformer3d.data_check.conftest import (
    SHAPE,
    Array,
    MakeCases,
    found,
    image_of,
    label_of,
    read,
    sound_case,
    told,
    write,
)

CASE = "c"


def image(change: Callable[[Array], Array]) -> Callable[[Path], Any]:
    """Changes the stored values of the case's image."""
    return lambda folder: write(image_of(folder, CASE), change(read(image_of(folder, CASE))))


def label(change: Callable[[Array], Array]) -> Callable[[Path], Any]:
    """Changes the stored values of the case's label."""
    return lambda folder: write(label_of(folder, CASE), change(read(label_of(folder, CASE))).astype(np.int16))


def affine(matrix: Array) -> Callable[[Path], Any]:
    """Gives image and label another affine."""

    def change(folder: Path) -> None:
        for path in (image_of(folder, CASE), label_of(folder, CASE)):
            write(path, read(path), np.block([[matrix, np.zeros((3, 1))], [np.zeros(3), 1]]))

    return change


def turned(degrees: float) -> Array:
    """A rotation about the axis from left to right."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def with_value(array: Array, value: float) -> Array:
    changed = array.astype(np.float32)
    changed[1, 2, 3] = value
    return changed


def flip_a_bit(path: Path) -> None:
    """In a stored block: only the checksum can tell."""
    raw = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def without_label_2(array: Array) -> Array:
    return np.where(array == 2, 1, array)


def shrunk(array: Array) -> Array:
    """Structures of a few voxels."""
    kept = np.zeros_like(array)
    for value in (1, 2):
        places = np.argwhere(array == value)
        middle = places[np.abs(places - places.mean(axis=0)).sum(axis=1).argsort()[:12]]
        kept[tuple(middle.T)] = value
    return kept


def with_crumbs(array: Array) -> Array:
    """Specks of label 1 all over the image."""
    crumbs = array.copy()
    crumbs[2:-2:4, 2:-2:4, 2:-2:4] = np.where(array[2:-2:4, 2:-2:4, 2:-2:4] == 0, 1, array[2:-2:4, 2:-2:4, 2:-2:4])
    return crumbs


def other_contrast(array: Array) -> Array:
    """Most voxels dark and a few very bright: a histogram of another shape."""
    return np.exp(10 * (array - array.min()) / np.ptp(array)).astype(np.float32)


def with_more_slices(folder: Path) -> None:
    """Makes another case with more of them."""
    for place, array in zip((image_of, label_of), sound_case(20, (*SHAPE[:2], 60)), strict=True):
        write(place(folder, CASE), array)


def at_the_edge(array: Array) -> Array:
    """Moved to the left until it touches the end of the image."""
    return np.roll(array, -int(np.argwhere(array)[:, 0].min()), axis=0)


RGB = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))

ERRORS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "missing image": (lambda f: image_of(f, CASE).unlink(), "unreadable", "the image file is missing; restore it"),
    "truncated": (lambda f: os.truncate(image_of(f, CASE), 900), "unreadable", "truncated or damaged; export it again"),
    "a bit flipped": (lambda f: flip_a_bit(image_of(f, CASE)), "unreadable", "truncated or damaged"),
    "no NIfTI": (lambda f: label_of(f, CASE).write_bytes(b"<html>" * 99), "unreadable", "the label file is"),
    "2D": (image(lambda a: a[:, :, 5]), "unreadable", r"has the shape \(26, 24\); it must be 3D"),
    "colours": (lambda f: write(image_of(f, CASE), RGB), "unreadable", r"colours \(RGB\)"),
    "NaN": (image(lambda a: with_value(a, np.nan)), "unreadable", "holds 1 voxels that are NaN"),
    "constant": (image(lambda a: np.full_like(a, 7)), "unreadable", "every voxel of contrast MRI has the same value"),
    "wrong label value": (label(lambda a: np.where(a == 2, 4, a)), "unreadable", "holds the value 4; task tiny knows"),
    "two contrasts": (image(lambda a: np.stack([a, a], -1)), "unreadable", "has 2 contrasts; task tiny takes 1"),
    "a CT": (image(lambda a: np.where(a < 100, -1000, a)), "unreadable", "is a CT by its values"),
    "another place": (
        lambda f: write(label_of(f, CASE), read(label_of(f, CASE)), np.diag([1.0, 1, 3, 1])),
        "unreadable",
        "image and label differ in position",
    ),
}
WARNINGS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "clipped": (image(lambda a: np.minimum(a, np.percentile(a, 97))), "clipped", "3.0% of MRI have the highest value"),
    "spacing": (affine(np.diag([1.0, 1.0, 3.0])), "spacing", "1 x 1 x 3 mm; most have 1 x 1 x 1"),
    "rotated affine": (affine(turned(30)), "tilted", "turned by 30 degrees"),
    "sheared affine": (affine(np.array([[1, 0, 0], [0, 1, 0.2], [0, 0, 1]])), "sheared", "11.3 degrees off a right"),
    "another contrast": (image(other_contrast), "unlike-histogram", "the histogram of MRI is unlike the others'"),
    "empty label": (label(np.zeros_like), "empty-label", "no structure is labelled"),
    "forgotten structure": (label(without_label_2), "missing-structure", "it has no second"),
    "tiny label": (label(shrunk), "volume", "first is 0.012 ml; the median is"),
    "crumbs": (label(with_crumbs), "pieces", "of it lie outside the largest"),
    "at the edge": (label(at_the_edge), "at-the-edge", "first touches the image's left edge"),
    "inverted": (image(lambda a: a.max() + a.min() - a), "brightness", "second is much darker in MRI than"),
    "more slices": (with_more_slices, "field-of-view", "it covers 60 mm top-bottom; the median is 22 mm"),
    "a label map": (
        lambda f: write(image_of(f, CASE), read(label_of(f, CASE)).astype(np.float32)),
        "few-levels",
        "2 different values",
    ),
}


def test_nothing_is_found_in_sound_cases(sound: Path, tiny_task: Task) -> None:
    checked = check_folder(sound, tiny_task)
    assert checked.findings == ()
    assert (checked.looked_at, len(checked.usable), checked.quarantine()) == (12, 12, {})


def with_one_of_each(
    tmp_path_factory: pytest.TempPathFactory,
    sound: Path,
    damages: Mapping[str, tuple[Callable[[Path], Any], str, str]],
) -> Path:
    """The sound cases, and one damaged in each of the ways, which has the way for a name."""
    folder = Path(shutil.copytree(sound, tmp_path_factory.mktemp("damaged") / "data"))
    described = json.loads((folder / "dataset.json").read_text())
    for number, (name, (damage, _, _)) in enumerate(damages.items()):
        alone = tmp_path_factory.mktemp("alone")
        for place, array in zip((image_of, label_of), sound_case(100 + number), strict=True):
            place(alone, CASE).parent.mkdir()
            write(place(alone, CASE), array)
        damage(alone)
        for place in (image_of, label_of):
            if place(alone, CASE).exists():
                place(alone, CASE).rename(place(folder, name))
        entry = {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        described["training"].append(entry)
    described["numTraining"] = len(described["training"])
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, sound: Path, tiny_task: Task) -> Checked:
    """Twelve sound cases, and one broken in each of the ways that are errors."""
    return check_folder(with_one_of_each(tmp_path_factory, sound, ERRORS), tiny_task)


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory, sound: Path, tiny_task: Task) -> Checked:
    """Twelve sound cases, and one damaged in each of the ways that are warnings."""
    return check_folder(with_one_of_each(tmp_path_factory, sound, WARNINGS), tiny_task)


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_used_is_an_error_and_nothing_else_is_said_of_it(broken: Checked, name: str) -> None:
    _, rule, words = ERRORS[name]
    ((its_rule, line),) = [(its_rule, line) for its_rule, case, line in told(broken) if case == name]
    assert its_rule == rule
    assert re.search(words, line)
    assert "\n" not in line
    assert broken.quarantine()[name].startswith(f"{rule}: ")


def test_what_cannot_be_used_does_not_count_and_nobody_else_is_blamed(broken: Checked) -> None:
    assert {case for _, case, _ in told(broken)} == set(broken.quarantine()) == set(ERRORS)
    assert (broken.looked_at, len(broken.usable)) == (12 + len(ERRORS), 12)


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_unlike_the_others_is_a_warning(unlike: Checked, name: str) -> None:
    _, rule, words = WARNINGS[name]
    findings = [(its_rule, line) for its_rule, case, line in told(unlike) if case == name]
    assert any(its_rule == rule and re.search(words, line) for its_rule, line in findings), findings


def test_of_what_is_unlike_the_others_nobody_else_is_blamed_and_all_may_be_used(unlike: Checked) -> None:
    assert {case for _, case, _ in told(unlike)} == set(WARNINGS)
    assert unlike.quarantine() == {}, "a warning keeps nothing from use"
    assert all(finding.rule.severity is not Severity.ERROR for finding in unlike.findings)


def test_contrasts_from_one_file_are_said(tmp_path: Path, tiny_task: Task) -> None:
    """By a copied file, or by the same image on another scale; two real contrasts of one patient are none."""
    task = replace(tiny_task, modalities=("t1", "t2"), model=replace(tiny_task.model, in_channels=2))
    image, seen = sound_case(1)
    noise = np.random.default_rng(0).normal(0, 3, SHAPE)
    second = {"copied": image, "scaled": 3 * image + 7, "sound": image + noise.astype(np.float32)}
    for name, other in second.items():
        for number, array in enumerate((image, other)):
            (tmp_path / "images").mkdir(exist_ok=True)
            write(tmp_path / "images" / f"{name}_{number:04d}.nii.gz", np.roll(array, len(name), axis=2))
        (tmp_path / "labels").mkdir(exist_ok=True)
        write(tmp_path / "labels" / f"{name}.nii.gz", np.roll(seen, len(name), axis=2))
    same = [(case, line) for rule, case, line in found(tmp_path, task) if rule == "same-contrast"]
    assert same == [("copied", "t1 and t2 are the same image"), ("scaled", "t1 and t2 are the same image")]


def test_a_single_slice_is_said(tmp_path: Path, make_cases: MakeCases, tiny_task: Task) -> None:
    folder = make_cases(tmp_path / "data", 3)
    for path in (image_of(folder, "a"), label_of(folder, "a")):
        write(path, read(path)[:, :, 11:12])
    assert ("single-slice", "a", "the image is 26 x 24 x 1 voxels: a single slice") in found(folder, tiny_task)


def test_a_label_in_the_background_and_an_empty_image_are_said(folder: Path, tiny_task: Task) -> None:
    """Skull-stripped images: 0 outside; in one of them the label lies there, in another hardly anything is left."""
    for name in "abcdefghijkl":
        values, seen = read(image_of(folder, name)), read(label_of(folder, name))
        write(image_of(folder, name), np.where(ndimage.binary_dilation(seen > 0, iterations=3), values, 0))
    write(label_of(folder, "a"), np.roll(read(label_of(folder, "a")), 5, axis=0))
    speck = np.zeros(SHAPE, np.float32)
    speck[10:13, 10:13, 10:13] = np.arange(27).reshape(3, 3, 3) + 1
    write(image_of(folder, "b"), speck)
    findings = {(rule, case) for rule, case, _ in found(folder, tiny_task)}
    assert ("label-outside", "a") in findings
    assert ("mostly-empty", "b") in findings
    assert {case for rule, case in findings if rule in ("label-outside", "mostly-empty")} == {"a", "b"}


def test_a_lost_rescale_intercept_is_said(tmp_path: Path, make_dataset: MakeDataset, tiny_task: Task) -> None:
    """A CT in raw detector values among others in Hounsfield units."""
    task = replace(tiny_task, modalities=("CT",), intensity="window", window=(-175.0, 250.0))
    cases = {chr(97 + n): (sound_case(n)[0] - 200, sound_case(n)[1]) for n in range(11)}
    cases["z"] = (sound_case(20)[0] + 300 - 400 * (np.indices(SHAPE)[0] == 0), sound_case(20)[1])
    folder = make_dataset(tmp_path / "data", cases)
    described = folder / "dataset.json"
    described.write_text(described.read_text().replace("MRI", "CT"))
    findings = found(folder, task)
    assert [(rule, case) for rule, case, _ in findings if rule == "intensity"] == [("intensity", "z")]


# --- The dataset as a whole ------------------------------------------------------------------------------------------


def noted(checked: Checked) -> dict[str, str]:
    return {finding.rule.name: finding.found for finding in checked.having(Severity.NOTE)}


def test_mixed_spacings_axes_and_scales_are_noted_once(folder: Path, tiny_task: Task) -> None:
    for name in "abcdef":
        for path in (image_of(folder, name), label_of(folder, name)):
            write(path, read(path), np.diag([-1.0, 1, 1.5, 1]))
        write(image_of(folder, name), read(image_of(folder, name)) * 1000)
    checked = check_folder(folder, tiny_task)
    assert told(checked) == [], "half the cases are no outliers"
    notes = noted(checked)
    assert set(notes) == {"mixed-spacing", "mixed-orientation", "mixed-scales"}
    assert notes["mixed-spacing"] == "there are 2 spacings; 6 of 12 cases have 1 x 1 x 1.5 mm"
    assert notes["mixed-orientation"] == "LAS in 6 cases, RAS in 6 cases"


def test_with_a_spacing_of_the_task_only_far_off_ones_are_named(folder: Path, tiny_task: Task) -> None:
    for name, mm in (("a", 1.2), ("b", 10.0)):
        for path in (image_of(folder, name), label_of(folder, name)):
            write(path, read(path), np.diag([1.0, 1, mm, 1]))
    task = replace(tiny_task, spacing=(1.0, 1.0, 1.0))
    assert [case for rule, case, _ in found(folder, task) if rule == "spacing"] == ["b"]
    assert [case for rule, case, _ in found(folder, tiny_task) if rule == "spacing"] == ["a", "b"]


def test_what_many_cases_do_is_said_once(folder: Path, tiny_task: Task) -> None:
    for name in "abcd":
        write(label_of(folder, name), without_label_2(read(label_of(folder, name))))
    checked = check_folder(folder, tiny_task)
    assert told(checked) == []
    assert noted(checked) == {"often": "4 of 12 cases have no second"}


def test_few_cases_are_not_judged_and_that_is_said(tmp_path: Path, make_cases: MakeCases, tiny_task: Task) -> None:
    folder = make_cases(tmp_path / "data", 4)
    label(shrunk)(folder)
    checked = check_folder(folder, tiny_task)
    assert told(checked) == []
    assert "there are 4 usable cases" in noted(checked)["not-judged"]


def test_an_empty_folder_is_one_line(tmp_path: Path, tiny_task: Task) -> None:
    with pytest.raises(DataError, match="is empty; --data takes a folder of labelled cases") as refused:
        check_folder(tmp_path, tiny_task)
    assert "\n" not in str(refused.value)


def test_when_nothing_can_be_read_every_case_is_said(tmp_path: Path, make_cases: MakeCases, tiny_task: Task) -> None:
    folder = make_cases(tmp_path / "data", 3)
    for path in (folder / "imagesTr").iterdir():
        path.write_bytes(b"broken")
    assert [(rule, case) for rule, case, _ in found(folder, tiny_task)] == [("unreadable", name) for name in "abc"]


def test_processes_find_the_same(tmp_path: Path, make_cases: MakeCases, tiny_task: Task) -> None:
    folder = make_cases(tmp_path / "data", 4)
    image_of(folder, "b").unlink()
    seen: list[tuple[int, int]] = []
    together = check_folder(folder, tiny_task, workers=2, on_case=lambda done, of: seen.append((done, of)))
    alone = check_folder(folder, tiny_task, workers=1)
    assert together.findings == alone.findings
    assert [case.to_json() for case in together.cases] == [case.to_json() for case in alone.cases]
    assert seen == [(number, 4) for number in range(1, 5)]


# --- Patients and sides ----------------------------------------------------------------------------------------------


def test_a_patient_on_both_sides_is_said_and_naming_the_patient_mends_it(
    tmp_path: Path, make_cases: MakeCases, tiny_task: Task
) -> None:
    """Visits 1 and 2 of each patient; names decide the sides unless the dataset says whose a case is."""
    folder = make_cases(tmp_path / "data", 6)
    described = json.loads((folder / "dataset.json").read_text())
    entries = described["training"]
    for number, entry in enumerate(entries):
        new = f"p{number // 2:02d}_visit{number % 2}"
        for kind in ("image", "label"):
            path = folder / entry[kind]
            entry[kind] = f"./{path.parent.name}/{new}.nii.gz"
            path.rename(folder / entry[kind])
    (folder / "dataset.json").write_text(json.dumps(described))
    assert found(folder, tiny_task) == [], "nobody said that two cases are one patient"
    (finding,) = found(folder, tiny_task, patient_pattern=r"p\d+")
    assert finding[0] == "patient-on-both-sides"
    assert re.fullmatch(r"patient p\d\d: p\d\d_visit\d to train on, p\d\d_visit\d to validate with", finding[2])
    for number, entry in enumerate(entries):
        entry["patient"] = f"p{number // 2:02d}"
    (folder / "dataset.json").write_text(json.dumps(described))
    assert found(folder, tiny_task, patient_pattern=r"p\d+") == []


def test_a_name_without_a_patient_is_one_line(folder: Path, tiny_task: Task) -> None:
    with pytest.raises(DataError, match="does not match patient_pattern"):
        check_folder(folder, tiny_task, patient_pattern="patient[0-9]+")


def test_held_out_cases_and_patients_must_not_be_in_the_folder(
    tmp_path: Path, tiny_task: Task, make_cases: MakeCases, make_dataset: MakeDataset
) -> None:
    """The same scan under another name, and another scan of a patient whom both folders know."""
    folder = make_cases(tmp_path / "data", 5)
    image, seen = read(image_of(folder, "c")), read(label_of(folder, "c"))
    other = make_dataset(tmp_path / "other", {"x": (image * 2, seen), "y": sound_case(50), "d": sound_case(51)})
    (other / "imagesTr" / "y.nii.gz").write_bytes(b"broken")
    for place, name in ((folder, "e"), (other, "d")):
        described = json.loads((place / "dataset.json").read_text())
        for entry in described["training"]:
            if f"/{name}.nii.gz" in entry["image"]:
                entry["patient"] = "P7"
        (place / "dataset.json").write_text(json.dumps(described))
    checked = check_folder(folder, tiny_task, against=other)
    findings = told(checked)
    assert [(rule, case) for rule, case, _ in findings] == [("held-out", "c"), ("held-out", "e")]
    assert "it is the scan of x of the other folder (the same with other values)" in findings[0][2]
    assert findings[1][2] == "its patient is in the other folder (d)"
    assert noted(checked)["held-out-unreadable"].startswith("1 of 3 cases")


def test_an_equal_name_alone_is_a_warning(
    tmp_path: Path, tiny_task: Task, make_cases: MakeCases, make_dataset: MakeDataset
) -> None:
    """Hospitals call their cases alike without knowing of each other."""
    folder = make_cases(tmp_path / "data", 3)
    other = make_dataset(tmp_path / "other", {"b": sound_case(50)})
    assert found(folder, tiny_task, against=other) == [("alike", "b", "its name is in the other folder (b)")]
