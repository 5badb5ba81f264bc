"""Predictions for DICOM series: the label of the same scan as NIfTI, back in the series' own geometry."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from segformer3d.cases import CaseFiles
from segformer3d.dataset import SetAside
from segformer3d.dicom.codes import codes_of
from segformer3d.dicom.labels import read_label
from segformer3d.dicom.predicting import WAYS, find_sources
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.inference import predict_label, predict_masks
from segformer3d.model import SegFormer3D, build
from segformer3d.prediction import NIFTI, Prediction, predict_cases
from segformer3d.tasks import TASKS, Structure, Task
from segformer3d.volumes import read_case, to_source

from .writing import (
    LPS,
    NAME,
    PATIENT_ID,
    Study,
    complete_for_conversion,
    noise,
    oblique_affine,
    save_as_enhanced,
    slices_of,
    write_series,
)

CPU = torch.device("cpu")
SHAPE = (14, 12, 13)  # two patches along two axes


@pytest.fixture(scope="module")
def network(tiny_task: Task) -> SegFormer3D:
    torch.manual_seed(0)
    return build(tiny_task.model, (0.0,) * tiny_task.channels)


@pytest.fixture(scope="module")
def regions(tiny_task: Task) -> Task:
    """Two regions that overlap, as a sigmoid task."""
    structures = (Structure("whole tumour", (1, 2)), Structure("something else", (2,)))
    model = replace(tiny_task.model, num_classes=2)
    return replace(tiny_task, name="regions", activation="sigmoid", structures=structures, model=model)


def predict(
    network: SegFormer3D, task: Task, source: Path, out: Path, label_format: str, contrasts: Sequence[str] = ()
) -> tuple[list[Prediction], list[SetAside]]:
    sources = find_sources(source, task, contrasts, out)
    way = WAYS[label_format]
    return predict_cases(network, task, sources.cases, out, CPU, lambda result: None, way=way)


def as_nifti(path: Path, voxels: NDArray[np.generic]) -> CaseFiles:
    """The same scan as a NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, oblique_affine()), path)
    return CaseFiles("scan", (path,), None)


def frames_of(segmentation: Any, slices: Sequence[Dataset]) -> NDArray[np.uint8]:
    """(columns, rows, slices, segments), read by highdicom by the slices that the frames refer to."""
    pixels = segmentation.get_pixels_by_source_instance(
        [dataset.SOPInstanceUID for dataset in slices], assert_missing_frames_are_empty=True
    )
    return pixels.transpose(2, 1, 0, 3)


@dataclass(frozen=True)
class Predicted:
    """A series in a folder, and its label in both formats, the segmentation beside the series."""

    folder: Path
    voxels: NDArray[np.int16]
    slices: Sequence[Dataset]
    nifti: Path
    segmentation: Path


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory, network: SegFormer3D, tiny_task: Task) -> Predicted:
    folder, voxels = tmp_path_factory.mktemp("predicted") / "scan", noise(SHAPE)
    slices = write_series(folder, voxels)
    ((nifti,), _) = predict(network, tiny_task, folder, folder.parent / "out", "nifti")
    ((segmentation,), _) = predict(network, tiny_task, folder, folder, "dicom-seg")
    return Predicted(folder, voxels, slices, nifti.path, segmentation.path)


def test_a_series_gets_the_label_of_the_same_nifti_image(
    tmp_path: Path, predicted: Predicted, network: SegFormer3D, tiny_task: Task
) -> None:
    case = as_nifti(tmp_path / "nifti" / "scan.nii.gz", predicted.voxels)
    ((reference,), _) = predict_cases(network, tiny_task, [case], tmp_path, CPU, lambda result: None, way=NIFTI)
    found, expected = nib.load(predicted.nifti), nib.load(reference.path)
    assert np.array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    assert set(np.unique(np.asarray(found.dataobj))) == {0, 1, 2}
    assert np.abs(found.affine - oblique_affine()).max() < 1e-4


def test_a_segmentation_holds_the_label_voxel_for_voxel(
    tmp_path: Path, predicted: Predicted, network: SegFormer3D, tiny_task: Task
) -> None:
    segmentation = hd.seg.segread(predicted.segmentation)
    volume = read_case(as_nifti(tmp_path / "nifti" / "scan.nii.gz", predicted.voxels), tiny_task)
    label = to_source(predict_label(network, tiny_task, volume, CPU), volume)
    frames = frames_of(segmentation, predicted.slices)
    assert np.array_equal(frames[..., 0] + 2 * frames[..., 1], label)
    names = [item.SegmentLabel for item in segmentation.SegmentSequence]
    assert names == ["first", "second"]


def test_its_geometry_is_that_of_the_series(predicted: Predicted) -> None:
    """Asked by mm: every voxel of the label lies where highdicom finds it in the segmentation."""
    segmentation = hd.seg.segread(predicted.segmentation)
    frames = frames_of(segmentation, predicted.slices)
    label = frames[..., 0] + 2 * frames[..., 1]
    voxels = np.argwhere(label)
    points = voxels @ (LPS @ oblique_affine())[:3, :3].T + (LPS @ oblique_affine())[:3, 3]
    volume = segmentation.get_volume(combine_segments=True)
    places = volume.map_reference_to_indices(points)
    assert np.abs(places - np.rint(places)).max() < 1e-3
    assert np.array_equal(volume.array[tuple(np.rint(places).astype(int).T)], label[tuple(voxels.T)])
    assert (volume.array > 0).sum() == len(voxels)


def test_overlapping_regions_are_segments_of_their_own(tmp_path: Path, regions: Task) -> None:
    torch.manual_seed(1)
    network = build(regions.model, (0.0, 0.0))
    voxels = noise(SHAPE)
    slices = write_series(tmp_path / "scan", voxels)
    ((done,), _) = predict(network, regions, tmp_path / "scan", tmp_path / "out", "dicom-seg")
    volume = read_case(as_nifti(tmp_path / "nifti" / "scan.nii.gz", voxels), regions)
    masks = [to_source(mask, volume) for mask in predict_masks(network, regions, volume, CPU)]
    assert (masks[0] & masks[1]).any()
    assert (masks[0] ^ masks[1]).any()
    assert np.array_equal(frames_of(hd.seg.segread(done.path), slices), np.stack(masks, axis=-1))


def test_an_enhanced_series_gets_a_segmentation(tmp_path: Path, network: SegFormer3D, tiny_task: Task) -> None:
    voxels = noise(SHAPE)
    slices = slices_of(voxels, oblique_affine(), change=complete_for_conversion)
    path = save_as_enhanced(slices, tmp_path / "scan.dcm")
    ((done,), _) = predict(network, tiny_task, path, tmp_path / "out", "dicom-seg")
    source, segmentation = dcmread(path), hd.seg.segread(done.path)
    frames = segmentation.get_pixels_by_source_frame(
        source.SOPInstanceUID, list(range(1, len(slices) + 1)), assert_missing_frames_are_empty=True
    )
    found = (frames[..., 0] + 2 * frames[..., 1]).transpose(2, 1, 0)
    volume = read_case(as_nifti(tmp_path / "nifti" / "scan.nii.gz", voxels), tiny_task)
    label = to_source(predict_label(network, tiny_task, volume, CPU), volume)
    order = [
        int(np.flatnonzero((voxels.transpose(2, 1, 0) == frame).all(axis=(1, 2)))[0]) for frame in source.pixel_array
    ]
    assert sorted(order) == list(range(len(slices)))
    assert order != sorted(order)
    assert np.array_equal(found, label[:, :, order])


def test_our_segmentation_can_be_imported_as_a_label(tmp_path: Path, predicted: Predicted, tiny_task: Task) -> None:
    (case,) = find_sources(predicted.folder, tiny_task, (), tmp_path).cases
    label = read_label(case, tiny_task, ())
    assert label is not None
    assert np.array_equal(label.values, np.asarray(nib.load(predicted.nifti).dataobj))


def test_a_segmentation_says_what_it_is(predicted: Predicted) -> None:
    slices = predicted.slices
    written, first = dcmread(predicted.segmentation), slices[0]
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert written[keyword] == first[keyword]
    assert written.SeriesInstanceUID != first.SeriesInstanceUID
    assert (written.Modality, written.Manufacturer, written.SeriesDescription) == ("SEG", "segfed", "segfed tiny")
    assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID
    referenced = written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in referenced} == {dataset.SOPInstanceUID for dataset in slices}
    assert written.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    assert PATIENT_ID not in predicted.segmentation.name
    assert NAME not in predicted.segmentation.name


def test_a_label_without_a_voxel_is_written_too(tmp_path: Path, tiny_task: Task) -> None:
    network = build(tiny_task.model, (100.0, 0.0, 0.0))
    slices = write_series(tmp_path / "scan", noise(SHAPE))
    ((done,), _) = predict(network, tiny_task, tmp_path / "scan", tmp_path / "out", "dicom-seg")
    assert not frames_of(hd.seg.segread(done.path), slices).any()


def test_elements_that_a_series_lacks_are_left_empty(tmp_path: Path, network: SegFormer3D, tiny_task: Task) -> None:
    lacking = ("PatientBirthDate", "PatientName", "StudyTime", "AccessionNumber", "SliceThickness")
    write_series(tmp_path / "scan", noise(SHAPE), change=lambda dataset, k: [dataset.pop(name) for name in lacking])
    ((done,), _) = predict(network, tiny_task, tmp_path / "scan", tmp_path / "out", "dicom-seg")
    written = dcmread(done.path)
    assert [name for name in lacking if written.get(name)] == []


# --- What is predicted, and what not ---------------------------------------------------------------------------------


def test_a_folder_of_series_is_predicted_but_for_what_is_no_scan(
    tmp_path: Path, network: SegFormer3D, tiny_task: Task
) -> None:
    for number in range(2):
        write_series(tmp_path / "in" / str(number), noise(SHAPE, seed=number))
    write_series(tmp_path / "in" / "ct", noise(SHAPE), modality="CT")
    write_series(tmp_path / "in" / "gap", noise(SHAPE), keep=lambda k: k != 4)
    sources = find_sources(tmp_path / "in", tiny_task, (), tmp_path / "out")
    assert sorted(item.reason.split(";")[0][:20] for item in sources.refused) == [
        "about 1 slices are m",
        "it is a CT scan",
    ]
    done, aside = predict(network, tiny_task, tmp_path / "in", tmp_path / "out", "nifti")
    assert len(done) == 2
    assert aside == []


def test_a_file_that_breaks_off_is_set_aside(tmp_path: Path, network: SegFormer3D, tiny_task: Task) -> None:
    for number in range(2):
        write_series(tmp_path / "in" / str(number), noise(SHAPE, seed=number))
    path = tmp_path / "in" / "1" / "IM0003"
    path.write_bytes(path.read_bytes()[:-9])
    done, (aside,) = predict(network, tiny_task, tmp_path / "in", tmp_path / "out", "nifti")
    assert len(done) == 1
    assert "is truncated or damaged" in aside.reason


def test_contrasts_are_gathered_by_study(tmp_path: Path, tiny_task: Task) -> None:
    model = replace(tiny_task.model, in_channels=2)
    task = replace(tiny_task, modalities=("t1", "flair"), model=model)
    study = Study()
    for number, description in enumerate(("FLAIR", "T1 mprage")):
        write_series(tmp_path / str(number), noise(SHAPE, number), study=study, description=description)
    (case,) = find_sources(tmp_path, task, ("t1=*T1*", "flair=*FLAIR*"), tmp_path / "out").cases
    volume = WAYS["nifti"].read(case, task)
    assert np.array_equal(to_source(volume.image[0], volume), noise(SHAPE, 1))
    assert np.array_equal(to_source(volume.image[1], volume), noise(SHAPE, 0))
    with pytest.raises(ConfigurationError, match="task tiny takes 2 contrasts"):
        find_sources(tmp_path, task, (), tmp_path / "out")


def test_series_without_patient_id_can_be_predicted(tmp_path: Path, network: SegFormer3D, tiny_task: Task) -> None:
    write_series(tmp_path / "in", noise(SHAPE), study=Study(patient=""))
    ((done,), _) = predict(network, tiny_task, tmp_path / "in", tmp_path / "out", "nifti")
    assert done.case.startswith("s")


def test_a_series_without_frame_of_reference(tmp_path: Path, network: SegFormer3D, tiny_task: Task) -> None:
    """A NIfTI label needs none; a segmentation cannot do without."""
    write_series(tmp_path / "in", noise(SHAPE), change=lambda dataset, k: dataset.pop("FrameOfReferenceUID"))
    assert len(predict(network, tiny_task, tmp_path / "in", tmp_path / "out", "nifti")[0]) == 1
    with pytest.raises(DataError, match=r"name no frame of reference.*use --format nifti"):
        predict(network, tiny_task, tmp_path / "in", tmp_path / "out", "dicom-seg")


def test_nothing_to_predict_is_said_with_the_first_reason(tmp_path: Path, tiny_task: Task) -> None:
    write_series(tmp_path / "in", modality="CT")
    with pytest.raises(DataError, match=r"no series can be predicted; s[0-9a-f]{12}: it is a CT scan"):
        find_sources(tmp_path / "in", tiny_task, (), tmp_path / "out")


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_structures_of_built_in_tasks_have_codes(task: Task) -> None:
    for structure in task.structures:
        category, kind = codes_of(structure.name)
        assert {category.scheme_designator, kind.scheme_designator} == {"SCT"}


def test_other_structures_have_a_code_of_ours() -> None:
    category, kind = codes_of("Left  Widget")
    assert category.meaning == "Tissue"
    assert (kind.value, kind.scheme_designator, kind.meaning) == ("left-widget", "99SEGFED", "Left  Widget")
