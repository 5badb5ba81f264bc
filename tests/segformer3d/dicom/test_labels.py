"""Segmentations and structure sets to label maps; the segmentations are written by highdicom from known masks."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.sr.codedict import codes

from segformer3d.dicom.labels import CaseLabel, read_label
from segformer3d.dicom.pseudonyms import Pseudonyms
from segformer3d.dicom.selection import Case, Wish, select
from segformer3d.dicom.series import find_series
from segformer3d.errors import CaseError
from segformer3d.tasks import Structure, Task, get_task

from .conftest import Written
from .test_contours import rectangle
from .writing import LPS, oblique_affine, write_structure_set

SHAPE = (9, 7, 5)
HIPPOCAMPUS = get_task("hippocampus")


def only_case(folders: Sequence[Path], task: Task = HIPPOCAMPUS) -> Case:
    (case,) = select(find_series(folders), Pseudonyms(b"k" * 32), (), task).cases
    return case


def label_of(folders: Sequence[Path], task: Task = HIPPOCAMPUS, wishes: Sequence[Wish] = ()) -> CaseLabel:
    label = read_label(only_case(folders, task), task, wishes)
    assert label is not None
    return label


def masks(seed: int = 0, overlapping: bool = False) -> NDArray[np.bool_]:
    """Two random structures (2, columns, rows, slices), nothing on the first and the last slice."""
    values = np.random.default_rng(seed).integers(0, 3, SHAPE)
    values[:, :, [0, -1]] = 0
    first, second = values == 1, values == 2
    return np.stack([first | second if overlapping else first, second])


def write_seg(
    path: Path,
    slices: Sequence[Dataset],
    masks_SIJK: NDArray[np.generic],
    names: Sequence[str] = ("anterior", "posterior"),
    kind: str = "BINARY",
    affine: NDArray[np.float64] | None = None,
) -> Path:
    """A segmentation of the series: on its slices, in the order given, or as a volume with this affine (RAS)."""
    algorithm = hd.AlgorithmIdentificationSequence("pen", codes.DCM.ManualProcessing, "1")
    described = [
        hd.seg.SegmentDescription(n, name, codes.SCT.Tissue, codes.SCT.Tissue, "SEMIAUTOMATIC", algorithm)
        for n, name in enumerate(names, start=1)
    ]
    frames = masks_SIJK.transpose(3, 2, 1, 0)
    array = frames.astype(float) if kind == "FRACTIONAL" else frames.astype(np.uint8)
    if kind == "LABELMAP":
        array = (array * np.arange(1, len(names) + 1)).sum(axis=-1).astype(np.uint8)
    pixels: object = np.ascontiguousarray(array)
    if affine is not None:
        kji = (LPS @ affine)[:, [2, 1, 0, 3]]
        pixels = hd.Volume(array, kji, "PATIENT", channels={"SegmentNumber": list(range(1, len(names) + 1))})
    segmentation = hd.seg.Segmentation(
        source_images=slices, pixel_array=pixels, segmentation_type=kind, segment_descriptions=described,
        series_instance_uid=hd.UID(), series_number=7, sop_instance_uid=hd.UID(), instance_number=1,
        manufacturer="x", manufacturer_model_name="x", software_versions="x", device_serial_number="x",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save_as(path)
    return path


# --- Segmentations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_segmentation_becomes_the_label_map(tmp_path: Path, plain: Written, kind: str) -> None:
    """Of slices in whatever order."""
    slices, wanted, order = plain.slices, masks(), (3, 0, 4, 1, 2)
    write_seg(tmp_path / "seg.dcm", [slices[k] for k in order], wanted[..., list(order)], kind=kind)
    label = label_of((plain.folder, tmp_path))
    assert label.values.dtype == np.int16
    assert np.array_equal(label.values, wanted[0] + 2 * wanted[1])
    assert label.notes == ()


def test_structures_on_one_slice_only(tmp_path: Path, plain: Written) -> None:
    """Frames without a voxel are not stored, so that one frame may be all there is."""
    slices, wanted = plain.slices, masks()
    wanted[..., [0, 1, 3, 4]] = False
    write_seg(tmp_path / "seg.dcm", slices, wanted)
    assert np.array_equal(label_of((plain.folder, tmp_path)).values, wanted[0] + 2 * wanted[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_segmentation_with_other_axes(tmp_path: Path, plain: Written, axis: int) -> None:
    """Reversed along an axis, in voxels and in affine: the same places."""
    slices, wanted = plain.slices, masks()
    affine = oblique_affine()
    affine[:3, 3] += affine[:3, axis] * (SHAPE[axis] - 1)
    affine[:3, axis] *= -1
    write_seg(tmp_path / "seg.dcm", slices, np.flip(wanted, axis + 1), affine=affine)
    assert np.array_equal(label_of((plain.folder, tmp_path)).values, wanted[0] + 2 * wanted[1])


def test_a_segmentation_of_a_part_of_the_scan(tmp_path: Path, plain: Written) -> None:
    slices, wanted = plain.slices, masks()
    affine = oblique_affine()
    affine[:3, 3] += affine[:3, :3] @ [2, 1, 1]
    part = np.zeros_like(wanted)
    part[:, 2:8, 1:6, 1:4] = wanted[:, 2:8, 1:6, 1:4]
    write_seg(tmp_path / "seg.dcm", slices, wanted[:, 2:8, 1:6, 1:4], affine=affine)
    assert np.array_equal(label_of((plain.folder, tmp_path)).values, part[0] + 2 * part[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda affine: affine @ np.diag([0.5, 0.5, 1, 1]), "its voxels are not those of the series"),
        (lambda affine: affine @ np.diag([2, 1, 1, 1]), "its voxels are not those of the series"),
        (lambda affine: affine @ shift(0.3, 0, 0), "its voxels are not those of the series"),
        (lambda affine: affine @ shift(5, 0, 0), "it reaches beyond the slices of the series"),
    ],
    ids=["finer", "coarser", "between voxels", "beyond"],
)
def test_a_segmentation_on_another_grid_is_refused(tmp_path: Path, plain: Written, change: object, said: str) -> None:
    slices = plain.slices
    write_seg(tmp_path / "seg.dcm", slices, masks(), affine=change(oblique_affine()))  # type: ignore[operator]
    with pytest.raises(CaseError, match=said):
        label_of((plain.folder, tmp_path))


def shift(*voxels: float) -> NDArray[np.float64]:
    moved = np.eye(4)
    moved[:3, 3] = voxels
    return moved


def test_fractions_are_refused(tmp_path: Path, plain: Written) -> None:
    write_seg(tmp_path / "seg.dcm", plain.slices, masks(), kind="FRACTIONAL")
    with pytest.raises(CaseError, match="holds fractions"):
        label_of((plain.folder, tmp_path))


def test_wherever_a_segmentation_is_cut_it_is_refused(tmp_path: Path, plain: Written) -> None:
    path = write_seg(tmp_path / "seg.dcm", plain.slices, masks())
    whole, case = path.read_bytes(), only_case([plain.folder])
    for length in range(132, len(whole), 211):
        path.write_bytes(whole[:length])
        found = find_series([plain.folder / "IM0000", path])
        for label in found.labels:
            with pytest.raises(CaseError):
                read_label(replace(case, labels=(label,)), HIPPOCAMPUS, ())
        assert found.labels or found.damaged


# --- Which structure is which ----------------------------------------------------------------------------------------


def test_names_are_matched_by_patterns(tmp_path: Path, plain: Written) -> None:
    """Two segments that fit one pattern are one structure; capitals do not matter."""
    slices, wanted = plain.slices, masks()
    write_seg(tmp_path / "seg.dcm", slices, np.stack([*wanted, wanted[0]]), ["HEAD left", "tail", "head right"])
    label = label_of((plain.folder, tmp_path), wishes=[Wish("anterior", "head*"), Wish("posterior", "Tail")])
    assert np.array_equal(label.values, wanted[0] + 2 * wanted[1])


def test_what_is_absent_or_left_over_is_said(tmp_path: Path, plain: Written) -> None:
    slices, wanted = plain.slices, masks()
    write_seg(tmp_path / "seg.dcm", slices, wanted, ["Anterior", "Doe's structure"])
    label = label_of((plain.folder, tmp_path))
    assert np.array_equal(label.values, wanted[0])
    assert label.notes == (
        "the label has no structure posterior: taken as absent",
        "1 structures of the label are not of the task: left out",
    )


def test_names_that_do_not_fit_are_refused_without_being_said(tmp_path: Path, plain: Written) -> None:
    write_seg(tmp_path / "seg.dcm", plain.slices, masks(), ["Doe 1", "Doe 2"])
    with pytest.raises(CaseError, match="none of the 2 structures of its label is called anterior or posterior") as no:
        label_of((plain.folder, tmp_path))
    assert "Doe" not in str(no.value)


def test_two_labels_of_one_scan_are_refused(tmp_path: Path, plain: Written) -> None:
    slices = plain.slices
    write_seg(tmp_path / "a.dcm", slices, masks())
    write_seg(tmp_path / "b.dcm", slices, masks(1))
    with pytest.raises(CaseError, match="2 segmentations or structure sets are about it"):
        label_of((plain.folder, tmp_path))


def test_a_label_in_two_versions_is_refused(tmp_path: Path, plain: Written) -> None:
    """Under one UID: nothing says which is meant. The same file twice is one label."""
    slices = plain.slices
    path = write_seg(tmp_path / "a" / "seg.dcm", slices, masks())
    (tmp_path / "b").mkdir()
    shutil.copy(path, tmp_path / "b" / "seg.dcm")
    assert label_of((plain.folder, tmp_path)).notes == ()
    changed = dcmread(path)
    changed.PixelData = bytes(len(changed.PixelData))
    changed.save_as(tmp_path / "b" / "seg.dcm")
    with pytest.raises(CaseError, match="2 segmentations or structure sets are about it"):
        label_of((plain.folder, tmp_path))


def test_structures_that_exclude_each_other_must_not_overlap(tmp_path: Path, plain: Written) -> None:
    slices, wanted = plain.slices, masks(overlapping=True)
    write_seg(tmp_path / "seg.dcm", slices, wanted)
    with pytest.raises(CaseError, match=f"overlap in {(wanted[0] & wanted[1]).sum()} voxels"):
        label_of((plain.folder, tmp_path))


def test_nested_regions_become_a_label_map(tmp_path: Path, plain: Written) -> None:
    """The tumour with its core inside: values 2 where only the tumour is, 1 in the core; a stray voxel is said."""
    task = Task(
        name="tumour",
        modalities=("MRI",),
        structures=(Structure("tumour", (1, 2)), Structure("core", (1,))),
        label_values=(0, 1, 2),
        activation="sigmoid",
        model=replace(get_task("phantom").model, in_channels=1, num_classes=2),
    )
    slices, wanted = plain.slices, masks(overlapping=True)
    path = write_seg(tmp_path / "seg.dcm", slices, wanted, ["tumour", "core"])
    label = label_of((plain.folder, tmp_path), task)
    assert np.array_equal(label.values, np.where(wanted[1], 1, 2 * wanted[0]))
    assert label.notes == ()
    wanted[:, 4, 4, 2] = (False, True)
    write_seg(path, slices, wanted, ["tumour", "core"])
    assert label_of((plain.folder, tmp_path), task).notes == (
        "inner regions of the label reach beyond outer ones in 1 voxels: the outer ones were enlarged",
    )


# --- Structure sets --------------------------------------------------------------------------------------------------


def test_a_structure_set_becomes_the_label_map(tmp_path: Path, plain: Written) -> None:
    slices = plain.slices
    front, back = rectangle((0.5, 0.5), (3.5, 3.5), 1), rectangle((4.5, 2.5), (7.5, 5.5), 2)
    write_structure_set(tmp_path / "plan.dcm", slices, {"BODY": [front], "Posterior": [back], "anterior": [front]})
    label = label_of((plain.folder, tmp_path))
    expected = np.zeros(SHAPE, np.int16)
    expected[1:4, 1:4, 1] = 1
    expected[5:8, 3:6, 2] = 2
    assert np.array_equal(label.values, expected)
    assert label.source.modality == "RTSTRUCT"


def test_an_empty_label_is_said(tmp_path: Path, plain: Written) -> None:
    write_structure_set(tmp_path / "plan.dcm", plain.slices, {"anterior": [], "posterior": []})
    assert label_of((plain.folder, tmp_path)).notes == ("the label has no voxel of any structure",)


def test_pydicom_s_structure_set_is_about_another_series(tmp_path: Path, plain: Written) -> None:
    shutil.copy(get_testdata_file("rtstruct.dcm"), tmp_path / "plan.dcm")
    found = find_series([plain.folder, tmp_path])
    assert len(found.labels) == 1
    selected = select(found, Pseudonyms(b"k" * 32), (), HIPPOCAMPUS)
    assert selected.stray_labels == 1
    assert selected.cases[0].labels == ()
