"""One scan under two names: every way in which it comes about is found, and two patients are never taken for one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segformer3d.cases import find_cases
from segformer3d.data_check.candidates import NEIGHBOURS, compare, correlation, find_candidates, overlap
from segformer3d.data_check.check import Checked, check_folder
from segformer3d.data_check.facts import CaseFacts
from segformer3d.data_check.measure import measure_case
from segformer3d.dataset import DEFAULT_VALIDATION_SHARE, split
from segformer3d.task import Task
from segformer3d.tasks import get_task
from tests.examples import examples
from tests.segformer3d.data_check.conftest import Array, MakeCases, found, image_of, label_of, read, told, write

Twin = Callable[[Array], Array]


def same(array: Array) -> Array:
    return array


def cropped(array: Array) -> Array:
    return array[2:, 1:-2, :-1]


def as_bytes(array: Array) -> Array:
    """What an 8-bit export leaves of it."""
    return np.round((array - array.min()) / np.ptp(array) * 255).astype(np.uint8)


def noisy(array: Array) -> Array:
    """What lossy compression does: an error of a hundredth of the range."""
    error = np.random.default_rng(0).normal(0, 0.01, array.shape)
    return (array + error * np.ptp(array)).astype(np.float32)


# What is done to the image, what to the label, and what is said of it.
TWINS: dict[str, tuple[Twin, Twin, str]] = {
    "number type": (lambda a: a.astype(np.float64), same, "the same voxels"),
    "other scale": (lambda a: 3 * a + 50, same, "the same with other values"),
    "eight bits": (as_bytes, same, "the same with other values"),
    "lossy": (noisy, same, "the same with other values"),
    "cropped": (cropped, cropped, "the same voxels, cropped or moved"),
    "padded": (lambda a: np.pad(a, 3), lambda a: np.pad(a, 3), "the same voxels, cropped or moved"),
    "mirrored": (lambda a: a[::-1], lambda a: a[::-1], "the same voxels, mirrored left-right"),
    "turned upside down": (
        lambda a: a[:, ::-1, ::-1],
        lambda a: a[:, ::-1, ::-1],
        "the same voxels, mirrored front-back, mirrored top-bottom",
    ),
    "cropped and mirrored": (
        lambda a: cropped(a)[::-1],
        lambda a: cropped(a)[::-1],
        "the same voxels, mirrored left-right, cropped or moved",
    ),
    "another label": (same, lambda a: np.roll(a, 1, axis=0), "the same file, with another label"),
}


def add_case(folder: Path, name: str, image: Array, label: Array) -> None:
    """Writes another case and lists it."""
    write(image_of(folder, name), np.ascontiguousarray(image))
    write(label_of(folder, name), np.ascontiguousarray(label))
    described = json.loads((folder / "dataset.json").read_text())
    entry = {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**described, "training": [*described["training"], entry]}))


@pytest.fixture(scope="module")
def with_twins(tmp_path_factory: pytest.TempPathFactory, sound: Path, tiny_task: Task) -> list[tuple[str, str]]:
    """Case and words of the duplicates in a folder where each case has a twin, made one way each."""
    folder = Path(shutil.copytree(sound, tmp_path_factory.mktemp("twins") / "data"))
    for original, (way, (change_image, change_label, _)) in zip("abcdefghij", TWINS.items(), strict=True):
        image, label = read(image_of(folder, original)), read(label_of(folder, original))
        add_case(folder, f"z {way}", change_image(image), change_label(label))
    return [(case, line) for rule, case, line in found(folder, tiny_task) if rule == "duplicate" and case is not None]


@pytest.mark.parametrize(("original", "way"), list(zip("abcdefghij", TWINS, strict=True)))
def test_a_twin_is_found_and_how_it_differs_is_said(with_twins: list[tuple[str, str]], original: str, way: str) -> None:
    (line,) = [line for case, line in with_twins if case == f"z {way}"]
    assert line.startswith(f"it is the scan of {original} ({TWINS[way][2]})")


def test_the_later_name_is_the_duplicate_and_nobody_else_is(with_twins: list[tuple[str, str]]) -> None:
    assert {case for case, _ in with_twins} == {f"z {way}" for way in TWINS}


def test_of_many_copies_one_is_kept_and_their_sides_are_said(folder: Path, tiny_task: Task) -> None:
    names = [f"z{number}" for number in range(2 * NEIGHBOURS)]  # more than are looked for as neighbours
    for name in names:
        add_case(folder, name, *(read(place(folder, "c")) for place in (image_of, label_of)))
        shutil.copy(image_of(folder, "c"), image_of(folder, name))
    checked = check_folder(folder, tiny_task)
    duplicates = {case: line for rule, case, line in told(checked) if rule == "duplicate"}
    assert set(duplicates) == set(checked.quarantine()) == set(names), "one of them is kept"
    validation = {case.name for case in split(find_cases(folder), DEFAULT_VALIDATION_SHARE)[1]}
    assert validation & set(names), "or the next lines prove little"
    pairs = {(checked.cases[twins.one].name, checked.cases[twins.other].name) for twins in checked.twins}
    apart = {other for one, other in pairs if (one in validation) != (other in validation)}
    said = [f for f in checked.findings if "one is to train on, the other to validate with" in f.found]
    assert {finding.case for finding in said} == apart
    assert len(checked.findings) == len(names), "one line for each copy"
    assert all("the same file" in line for line in duplicates.values())


def test_a_scan_on_another_grid_looks_like_it(tmp_path: Path, make_cases: MakeCases, tiny_task: Task) -> None:
    folder = make_cases(tmp_path / "data", 6)
    affine = np.diag([26 / 20, 24 / 20, 22 / 20, 1])
    factors = [20 / size for size in read(image_of(folder, "c")).shape]
    image = ndimage.zoom(read(image_of(folder, "c")), factors, order=1, grid_mode=True, mode="nearest")
    add_case(folder, "z", image, ndimage.zoom(read(label_of(folder, "c")), factors, order=0))
    for path in (image_of(folder, "z"), label_of(folder, "z")):
        write(path, read(path), affine)
    findings = [(rule, case) for rule, case, _ in found(folder, tiny_task) if rule in ("alike", "duplicate")]
    assert findings == [("alike", "z")]


def test_two_visits_of_one_patient_are_no_duplicates(tmp_path: Path, make_cases: MakeCases, tiny_task: Task) -> None:
    """Alike but for their noise: a warning where nobody says that it is one patient, and none where it is said."""
    folder = make_cases(tmp_path / "data", 6)
    image = read(image_of(folder, "c"))
    visit = image + np.random.default_rng(1).normal(0, 0.25 * image.std(), image.shape)
    add_case(folder, "z", visit.astype(np.float32), read(label_of(folder, "c")))
    assert [(rule, case) for rule, case, _ in found(folder, tiny_task)] == [("alike", "z")]
    described = json.loads((folder / "dataset.json").read_text())
    for entry in described["training"]:
        if entry["image"] in ("./imagesTr/c.nii.gz", "./imagesTr/z.nii.gz"):
            entry["patient"] = "P1"
    (folder / "dataset.json").write_text(json.dumps(described))
    assert found(folder, tiny_task) == []


# --- The parts -------------------------------------------------------------------------------------------------------


@settings(max_examples=examples(50))
@given(shift=st.tuples(*[st.integers(-6, 6)] * 3))
def test_overlap_lays_voxel_on_voxel(shift: tuple[int, int, int]) -> None:
    """Oracle: the places of both parts in a grid of coordinates differ by the shift."""
    one, other = np.indices((5, 6, 7)), np.indices((6, 4, 7))
    parts = [overlap(a, b, shift) for a, b in zip(one, other, strict=True)]
    for (here, there), step in zip(parts, shift, strict=True):
        assert here.shape == there.shape
        assert (here - there == step).all()
    expected = 1
    for step, size, room in zip(shift, (5, 6, 7), (6, 4, 7), strict=True):
        expected *= max(0, min(size, room + step) - max(0, step))
    assert parts[0][0].size == expected


def test_correlation_is_numpys() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 4, 5, 6))
    assert correlation(one, other) == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    assert correlation(one, 5 - 2 * one) == pytest.approx(-1)
    assert correlation(one, np.ones_like(one)) == 0
    assert correlation(one[:0], other[:0]) == 0


def test_the_shift_of_fingerprints_is_found() -> None:
    one = np.zeros((32, 32, 32), np.float32)
    one[8:24, 8:24, 8:24] = np.random.default_rng(0).normal(size=(16, 16, 16))
    other = np.roll(one, (-2, 3, 5), axis=(0, 1, 2))
    likeness, shift = compare(one, other)
    assert shift == (2, -3, -5)
    assert likeness == pytest.approx(1)


# --- Real scans ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[2, pytest.param(1, marks=pytest.mark.slow)], ids=["every second", "all"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Checked:
    """By day every second of two hundred scans."""
    scans, folder = shared / "data" / "hippocampus", tmp_path_factory.mktemp("real")
    described = json.loads((scans / "dataset.json").read_text())
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).symlink_to(scans / kind)
    training = described["training"][:: request.param]
    described |= {"training": training, "numTraining": len(training)}
    (folder / "dataset.json").write_text(json.dumps(described))
    assert len(training) == 200 // request.param
    return check_folder(folder, get_task("hippocampus"))


def test_no_finding_in_real_scans(real: Checked) -> None:
    """They were looked at one by one: none is broken, none is there twice, and nobody should be woken for them."""
    assert told(real) == []
    assert [finding.rule.name for finding in real.findings] == ["mixed-scales"]
    assert (real.looked_at, real.twins) == (len(real.cases), ())


def test_cropped_copies_of_real_scans_are_found(real: Checked, tmp_path: Path) -> None:
    """Twenty patients' crops, cut by up to 3 voxels a side, mirrored and on another scale, among all the others."""
    generator, task = np.random.default_rng(0), get_task("hippocampus")
    files, count = find_cases(real.folder), len(real.cases)
    originals = range(0, count, count // 20)
    copies = []
    for number in originals:
        low, high = generator.integers(0, 4, (2, 3))
        stops = np.array(real.cases[number].geometry.shape) - high
        cut = tuple(slice(int(start), int(stop)) for start, stop in zip(low, stops, strict=True))
        image = read(files[number].images[0])[cut][:: int(generator.choice((-1, 1)))]
        path = tmp_path / f"{number}.nii.gz"
        write(path, (image * 2.5).astype(np.float32))
        copies.append(measure_case(type(files[0])(f"copy-{number}", (path,), None), task=task))
    cases = [*real.cases, *(copy for copy in copies if isinstance(copy, CaseFacts))]
    pairs = {(candidate.one, candidate.other) for candidate in find_candidates(cases, len(cases))}
    hits = sum((number, count + place) in pairs for place, number in enumerate(originals))
    assert hits >= 19
    assert len(pairs) <= hits + 0.06 * count, "few pairs are left to read again"
