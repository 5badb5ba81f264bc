"""Preparing a site's data: damaged cases are counted and never end it, and the cache is never stale."""

import gzip
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segformer3d.cases import CaseFiles, find_cases
from segformer3d.dataset import PreparedCase, SiteData, name_fraction, prepare, prepare_case, split
from segformer3d.errors import CaseError, DataError
from segformer3d.files import StorageError
from segformer3d.tasks import Structure, Task, get_task
from tests.conftest import MakeDataset, WriteNifti

SHAPE = (6, 7, 8)


def scans(*names: str) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """A bright block that is structure 1 above and structure 2 below, in noise, another for each name."""
    cases = {}
    for name in names:
        generator = np.random.default_rng(sum(name.encode()))
        label = np.zeros(SHAPE, np.int16)
        label[1:4, 2:5, 2:4], label[1:4, 2:5, 4:7] = 1, 2
        cases[name] = ((label * 100 + generator.normal(0, 5, SHAPE)).astype(np.float32), label)
    return cases


def names_of(data: SiteData) -> list[str]:
    return sorted(case.name for case in data.train + data.validation)


def times(folder: Path) -> dict[str, int]:
    """When each file of a cache was last written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.npy")}


# --- What comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["decathlon", "plain"])
def test_a_prepared_case_is_the_scaled_image_and_its_label(
    tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset, layout: str
) -> None:
    cases = scans("a", "b", "c")
    data = prepare(make_dataset(tmp_path / "data", cases, layout), tiny_task, tmp_path / "cache")
    assert names_of(data) == ["a", "b", "c"]
    assert data.describe() == "3 used, 0 set aside"
    for case in data.train + data.validation:
        image, label = cases[case.name]
        np.testing.assert_allclose(case.image()[0], (image - image.mean()) / image.std(), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(case.label(), label)
        assert (case.image().dtype, case.label().dtype) == (np.float32, np.int16)
        structures, *places = np.asarray(case.voxels()).T
        np.testing.assert_array_equal(label[tuple(places)], structures + 1)
        assert len(structures) == (label > 0).sum(), "few voxels are all remembered"


def test_cases_come_out_on_the_tasks_grid(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "data", scans("a", "b"), affine=np.diag([-2.0, 1, 1, 1]))
    data = prepare(folder, replace(tiny_task, spacing=(1.0, 1.0, 2.0)), tmp_path / "cache")
    case = data.train[0]
    assert case.image().shape == (1, 12, 7, 4)
    assert case.label().shape == (12, 7, 4)


def test_overlapping_regions_remember_their_voxels_each(tmp_path: Path, make_dataset: MakeDataset) -> None:
    image, label = scans("a")["a"]
    folder = make_dataset(tmp_path / "data", {"a": (np.stack([image] * 4, -1), label)})
    case = prepare(folder, get_task("brats2017"), tmp_path / "cache").train[0]
    counts = np.bincount(np.asarray(case.voxels())[:, 0], minlength=3)
    assert counts.tolist() == [(label > 0).sum(), (label == 2).sum(), 0]


def test_many_voxels_are_thinned_out_evenly(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    label = np.ones((30, 30, 30), np.int16)
    image = np.random.default_rng(0).normal(size=label.shape)
    folder = make_dataset(tmp_path / "data", {"a": (image, label)})
    voxels = np.asarray(prepare(folder, tiny_task, tmp_path / "cache").train[0].voxels())
    assert 2000 <= len(voxels) < 4000
    np.testing.assert_allclose(voxels[:, 1:].mean(axis=0), 14.5, atol=1)


def test_a_case_without_any_structure_is_a_case(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    image, label = scans("a")["a"]
    case = prepare(make_dataset(tmp_path / "d", {"a": (image, label * 0)}), tiny_task, tmp_path / "cache").train[0]
    assert case.voxels().shape == (0, 4)
    assert not case.label().any()


def test_worker_processes_prepare_the_same(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "data", scans("a", "b", "c"))
    (folder / "imagesTr" / "b.nii.gz").write_bytes(b"broken")
    alone = prepare(folder, tiny_task, tmp_path / "alone")
    together = prepare(folder, tiny_task, tmp_path / "together", workers=2)
    assert names_of(alone) == names_of(together) == ["a", "c"]
    assert alone.set_aside == together.set_aside
    for one, other in zip(alone.train + alone.validation, together.train + together.validation, strict=True):
        assert np.array_equal(one.image(), other.image())
        assert one.folder.name == other.folder.name


# --- Damaged cases ---------------------------------------------------------------------------------------------------


def nan_inside(path: Path) -> None:
    """Puts NaN (0x7fc00000) into the last voxel of a .nii.gz of float32."""
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:-4] + b"\x00\x00\xc0\x7f"))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing image": (lambda d: (d / "imagesTr/a.nii.gz").unlink(), "restore it"),
    "missing label": (lambda d: (d / "labelsTr/a.nii.gz").unlink(), "restore it"),
    "image is a folder": (lambda d: [(d / "imagesTr/a.nii.gz").unlink(), (d / "imagesTr/a.nii.gz").mkdir()], "restore"),
    "truncated": (lambda d: os.truncate(d / "imagesTr/a.nii.gz", 300), "truncated or damaged"),
    "empty file": (lambda d: os.truncate(d / "labelsTr/a.nii.gz", 0), "the label file is"),
    "noise": (lambda d: (d / "imagesTr/a.nii.gz").write_bytes(b"no image" * 99), "the image file is"),
    "NaN": (lambda d: nan_inside(d / "imagesTr/a.nii.gz"), "NaN or infinite"),
    "image for a label": (
        lambda d: (d / "labelsTr/a.nii.gz").write_bytes((d / "imagesTr/a.nii.gz").read_bytes()),
        "the label holds the value",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_case_is_set_aside_and_the_others_go_on(
    tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset, name: str
) -> None:
    damage, reason = DAMAGES[name]
    folder = make_dataset(tmp_path / "data", scans("a", "b", "c"))
    damage(folder)
    data = prepare(folder, tiny_task, tmp_path / "cache")
    assert names_of(data) == ["b", "c"]
    assert data.describe() == "2 used, 1 set aside"
    (aside,) = data.set_aside
    assert aside.case == "a"
    assert reason in aside.reason
    assert "\n" not in aside.reason
    assert not list((tmp_path / "cache").rglob(".*")), "nothing half-written stays"


def test_half_a_case_in_plain_folders_is_set_aside(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "data", scans("a", "b", "c", "d"), "plain")
    (folder / "images" / "a.nii.gz").unlink()
    (folder / "labels" / "b.nii.gz").unlink()
    data = prepare(folder, tiny_task, tmp_path / "cache")
    assert [item.case for item in data.set_aside] == ["a", "b"]
    assert data.describe() == "2 used, 2 set aside"


def test_when_all_are_damaged_one_line_says_so(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "data", scans("a", "b"))
    for path in (folder / "imagesTr").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"has no usable case: all 2 were set aside, the first because the image") as no:
        prepare(folder, tiny_task, tmp_path / "cache")
    assert "\n" not in str(no.value)


def test_a_case_without_a_label_cannot_be_learnt_from(tmp_path: Path, tiny_task: Task) -> None:
    with pytest.raises(CaseError, match="the case has no label"):
        prepare_case(CaseFiles("a", (tmp_path / "a.nii.gz",), None), tiny_task, tmp_path / "cache")


def test_a_full_disk_ends_the_preparation_in_one_line(
    tmp_path: Path,
    tiny_task: Task,
    make_dataset: MakeDataset,
    full_disk: Callable[[int], AbstractContextManager[None]],
) -> None:
    folder = make_dataset(tmp_path / "data", scans("a", "b"))
    with full_disk(1000), pytest.raises(StorageError, match=r"cannot write .* free space") as refused:
        prepare(folder, tiny_task, tmp_path / "cache")
    assert "\n" not in str(refused.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert prepare(folder, tiny_task, tmp_path / "cache").describe() == "2 used, 0 set aside"


# --- Cache -----------------------------------------------------------------------------------------------------------


def test_a_second_preparation_reads_no_scan(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    folder, cache = make_dataset(tmp_path / "data", scans("a", "b")), tmp_path / "cache"
    first = prepare(folder, tiny_task, cache)
    before = times(cache)
    # Other bytes of the same size and time: whoever opened these files would find no scan in them.
    for path in folder.glob("*/*.nii.gz"):
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert prepare(folder, tiny_task, cache) == first
    assert times(cache) == before


def test_files_that_were_only_copied_are_not_prepared_again(
    tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset
) -> None:
    folder, cache = make_dataset(tmp_path / "data", scans("a", "b")), tmp_path / "cache"
    first = prepare(folder, tiny_task, cache)
    before = times(cache)
    for path in folder.glob("*/*.nii.gz"):
        os.utime(path)
    assert prepare(folder, tiny_task, cache) == first
    folder.rename(tmp_path / "moved")
    assert prepare(tmp_path / "moved", tiny_task, cache) == first
    assert times(cache) == before


def test_an_edited_scan_is_prepared_again(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    folder, cache, cases = tmp_path / "data", tmp_path / "cache", scans("a", "b")
    first = {case.name: case.folder for case in prepare(make_dataset(folder, cases), tiny_task, cache).train}
    image, label = cases["a"]
    for changed in ({"a": (image, np.flip(label, 2).copy())}, {"a": (image * image, label)}):
        make_dataset(folder, {**cases, **changed})
        data = prepare(folder, tiny_task, cache)
        again = {case.name: case for case in data.train + data.validation}
        assert again["a"].folder != first.get("a")
        np.testing.assert_array_equal(again["a"].label(), changed["a"][1])
        assert first.get("b", again["b"].folder) == again["b"].folder


def test_a_scan_of_the_same_size_that_was_edited_in_place_is_prepared_again(
    tmp_path: Path, tiny_task: Task, write_nifti: WriteNifti
) -> None:
    """Files that are not compressed: every edit leaves them as long as they were, and only their time tells."""
    image, label = scans("a")["a"]
    stored = CaseFiles("a", (write_nifti(tmp_path / "i.nii", image),), write_nifti(tmp_path / "l.nii", label))
    assert stored.label is not None
    prepare_case(stored, tiny_task, tmp_path / "cache")
    before = stored.label.stat()
    edited = label[:, :, ::-1].copy()
    write_nifti(stored.label, edited)
    os.utime(stored.label, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert stored.label.stat().st_size == before.st_size
    np.testing.assert_array_equal(prepare_case(stored, tiny_task, tmp_path / "cache").label(), edited)


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": (2.0, 2.0, 2.0)},
        {"intensity": "minmax"},
        {"intensity": "window", "window": (0.0, 100.0)},
        {"label_values": (0, 1, 2, 3)},
        {"structures": (Structure("first", (2,)), Structure("second", (1,)))},
    ],
    ids=str,
)
def test_every_setting_that_changes_the_result_changes_the_entry(
    tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset, change: dict[str, Any]
) -> None:
    (case,) = find_cases(make_dataset(tmp_path / "data", scans("a")))
    entries = {
        prepare_case(case, task, tmp_path / "cache").folder for task in (tiny_task, replace(tiny_task, **change))
    }
    assert len(entries) == 2


def test_two_windows_of_a_ct_have_an_entry_each(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    """Closed form: a value's place between the ends of its window, cut off at 0 and 1."""
    image, label = scans("a")["a"]
    (case,) = find_cases(make_dataset(tmp_path / "data", {"a": (image, label)}))
    for low, high in ((0.0, 100.0), (50.0, 250.0)):
        task = replace(tiny_task, intensity="window", window=(low, high))
        prepared = prepare_case(case, task, tmp_path / "cache").image()[0]
        np.testing.assert_allclose(prepared, np.clip((image - low) / (high - low), 0, 1), atol=1e-6)


def test_settings_of_the_model_alone_share_an_entry(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    (case,) = find_cases(make_dataset(tmp_path / "data", scans("a")))
    other = replace(tiny_task, name="other", patch=(8, 8, 8), flip_axes=(0,), prior=(0.3, 0.1))
    assert prepare_case(case, tiny_task, tmp_path / "c").folder == prepare_case(case, other, tmp_path / "c").folder


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"entry": 3}', b'{"entry": "gone"}', b"\xff", b'{"entry": ""}']
)
def test_a_stale_ticket_is_harmless(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset, content: bytes) -> None:
    folder, cache = make_dataset(tmp_path / "data", scans("a", "b")), tmp_path / "cache"
    first = prepare(folder, tiny_task, cache)
    before = times(cache)
    for ticket in (cache / "tickets").iterdir():
        ticket.write_bytes(content)
    assert prepare(folder, tiny_task, cache) == first
    assert times(cache) == before


@pytest.mark.parametrize("lost", ["image.npy", "label.npy", "voxels.npy"])
def test_half_an_entry_is_not_taken_for_a_whole_one(
    tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset, lost: str
) -> None:
    (case,) = find_cases(make_dataset(tmp_path / "data", scans("a")))
    prepared = prepare_case(case, tiny_task, tmp_path / "cache")
    (prepared.folder / lost).unlink()
    again = prepare_case(case, tiny_task, tmp_path / "cache")
    assert again == prepared
    np.testing.assert_array_equal(again.label(), scans("a")["a"][1])
    assert again.image().shape == (1, *SHAPE)
    assert again.voxels().shape[1] == 4


def test_a_lost_cache_is_filled_again(tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset) -> None:
    (case,) = find_cases(make_dataset(tmp_path / "data", scans("a")))
    prepared = prepare_case(case, tiny_task, tmp_path / "cache")
    for path in prepared.folder.iterdir():
        path.unlink()
    prepared.folder.rmdir()
    np.testing.assert_array_equal(prepare_case(case, tiny_task, tmp_path / "cache").label(), scans("a")["a"][1])


# --- Split -----------------------------------------------------------------------------------------------------------

NAMES = st.sets(st.text("abcdefgh0123", min_size=1, max_size=6), min_size=1, max_size=40)
SHARE = st.floats(0, 0.9)


def cases_called(names: set[str]) -> list[PreparedCase]:
    return [PreparedCase(name, Path(name), "") for name in sorted(names)]


@given(names=NAMES, share=SHARE)
def test_every_case_is_on_one_side_and_neither_side_is_empty(names: set[str], share: float) -> None:
    train, validation = split(cases_called(names), share)
    assert sorted(case.name for case in train + validation) == sorted(names)
    assert train
    assert bool(validation) == (share > 0 and len(names) > 1)


@given(names=NAMES, more=NAMES, share=SHARE)
def test_cases_keep_their_side_while_others_come(names: set[str], more: set[str], share: float) -> None:
    """Where no side would be empty, a case's side depends on its name and the share alone."""
    smaller, larger = (split(cases_called(group), share) for group in (names, names | more))
    by_hash = {name for name in names if name_fraction(name) < share}
    if by_hash and by_hash != names:
        assert {case.name for case in smaller[1]} == by_hash
        assert {case.name for case in larger[1]} & names == by_hash


def test_a_single_case_is_for_training() -> None:
    for number in range(30):
        train, validation = split(cases_called({f"case{number}"}), 0.9)
        assert (len(train), len(validation)) == (1, 0)


def test_the_place_of_a_name_is_fixed() -> None:
    # First 8 bytes, over 2^64, of what the system's own tool says: printf 'validation/abc' | sha256sum
    assert name_fraction("abc") == 0x0F2EC85B84605D1B / 2**64


def test_the_share_is_met_on_average() -> None:
    names = {f"hippocampus_{number:03d}" for number in range(2000)}
    assert len(split(cases_called(names), 0.1)[1]) == pytest.approx(200, abs=40)


# --- Real scans ------------------------------------------------------------------------------------------------------


def test_real_hippocampus_scans(tmp_path: Path, shared: Path) -> None:
    source = shared / "data" / "hippocampus"
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "labels").mkdir()
    for path in sorted((source / "imagesTr").glob("*.nii.gz"))[:6]:
        (tmp_path / "data" / "images" / path.name).symlink_to(path)
        (tmp_path / "data" / "labels" / path.name).symlink_to(source / "labelsTr" / path.name)
    data = prepare(tmp_path / "data", get_task("hippocampus"), tmp_path / "cache")
    assert data.describe() == "6 used, 0 set aside"
    for case in data.train + data.validation:
        image = np.asarray(case.image())
        assert abs(image.mean()) < 1e-3
        assert abs(image.std() - 1) < 1e-3
        assert set(np.unique(case.label())) == {0, 1, 2}
