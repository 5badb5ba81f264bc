"""Series back to the volumes that they were written from: same voxels, same affine, whatever the files look like."""

import shutil
import tracemalloc
import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from segformer3d.dicom.checks import Scan, check_series
from segformer3d.dicom.manifest import digest_of
from segformer3d.dicom.pixels import read_voxels, voxel_type
from segformer3d.dicom.series import find_series

from .writing import (
    LPS,
    complete_for_conversion,
    noise,
    oblique_affine,
    save,
    save_as_enhanced,
    slices_of,
    write_series,
)

AFFINE_MM = 1e-4  # what is asked of the affine


def read(folder: Path) -> tuple[Scan, NDArray[np.generic]]:
    (series,) = find_series([folder]).series
    scan = check_series(series)
    return scan, read_voxels(scan)


@pytest.mark.parametrize("flip", [(), (0,), (1,), (0, 1)], ids=str)
def test_an_oblique_volume_comes_back_voxel_for_voxel(tmp_path: Path, flip: tuple[int, ...]) -> None:
    """Slices are put in the order of rows x columns; two of these volumes are written along it, two against it."""
    affine = oblique_affine()
    for axis in flip:
        affine[:3, axis] *= -1
    voxels = noise()
    write_series(tmp_path, voxels, affine)
    scan, found = read(tmp_path)
    if np.linalg.det((LPS @ affine)[:3, :3]) < 0:
        voxels = voxels[:, :, ::-1]
        affine[:3, 3] += affine[:3, 2] * (voxels.shape[2] - 1)
        affine[:3, 2] *= -1
    assert np.array_equal(found, voxels)
    assert np.abs(scan.grid.affine - affine).max() < AFFINE_MM
    assert scan.grid.spacing == pytest.approx((0.7, 0.9, 2.5), abs=1e-6)


def test_highdicom_computes_the_same_affine(tmp_path: Path) -> None:
    slices = write_series(tmp_path)
    scan, voxels = read(tmp_path)
    volume = hd.get_volume_from_series(slices)
    for index in ((0, 0, 0), (4, 6, 8), (2, 1, 5)):  # slice, row, column
        point = volume.map_indices_to_reference(np.array([index]))
        ijk = np.rint(scan.grid.indices(point)).astype(int)[0]
        assert np.abs(scan.grid.indices(point) - ijk).max() < 1e-5
        assert voxels[tuple(ijk)] == volume.array[index]


def test_simpleitk_and_dcm2niix_agreed_on_the_real_series(shared: Path) -> None:
    """The digest and the affine are of SimpleITK 2.5 (equal to dcm2niix 1.0.20250506): identity but for LPS to RAS."""
    scan, voxels = read(shared / "data" / "dicom" / "hippocampus-crop")
    assert voxels.shape == (35, 51, 32)
    assert np.array_equal(scan.grid.affine, [[-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]])
    assert digest_of(voxels) == "f97212acea1a5a305aec9b1509e7738bf048fa75f56673d913d8aa4e5078605e"


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda uid: uid.name
)
def test_uncompressed_encodings(tmp_path: Path, syntax: str) -> None:
    voxels = noise()
    for k, dataset in enumerate(slices_of(voxels, oblique_affine())):
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = voxels[:, :, k].T.astype(">i2").tobytes()
        save(dataset, tmp_path / f"{k}.dcm", syntax)
    assert np.array_equal(read(tmp_path)[1], voxels)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_lossless_compression(tmp_path: Path, syntax: str) -> None:
    """Compressed by highdicom's encoder."""
    voxels = noise((40, 36, 4)).astype(np.uint16)
    for k, dataset in enumerate(slices_of(voxels, oblique_affine())):
        frame = hd.frame.encode_frame(
            np.ascontiguousarray(voxels[:, :, k].T), syntax, bits_allocated=16, bits_stored=16,
            photometric_interpretation="MONOCHROME2", pixel_representation=0,
        )  # fmt: skip
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        save(dataset, tmp_path / f"{k}.dcm", syntax)
    assert np.array_equal(read(tmp_path)[1], voxels)


def test_jpeg_2000(tmp_path: Path) -> None:
    """pydicom's own test image, compressed and not."""
    compressed, plain = (dcmread(get_testdata_file(name)) for name in ("MR_small_jp2klossless.dcm", "MR_small.dcm"))
    for k in range(3):
        compressed.SOPInstanceUID, compressed.ImagePositionPatient = generate_uid(), [0, 0, k]
        compressed.ImageOrientationPatient, compressed.PixelSpacing = [1, 0, 0, 0, 1, 0], [1, 1]
        save(compressed, tmp_path / f"{k}.dcm", JPEG2000Lossless)
    scan, found = read(tmp_path)
    assert scan.planes[0].encoding == JPEG2000Lossless
    assert np.array_equal(found[:, :, 1], plain.pixel_array.T)


def test_files_without_preamble_and_meta_information(tmp_path: Path) -> None:
    voxels = noise()
    for k, dataset in enumerate(slices_of(voxels, oblique_affine())):
        dcmwrite(tmp_path / f"{k}", dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert (tmp_path / f"{k}").read_bytes()[:2] == b"\x08\x00"
    assert np.array_equal(read(tmp_path)[1], voxels)


def test_an_enhanced_file_holds_the_same_scan(tmp_path: Path) -> None:
    """Converted by highdicom from the same slices."""
    voxels = noise()
    slices = slices_of(voxels, oblique_affine(), change=complete_for_conversion)
    save_as_enhanced(slices, tmp_path / "scan.dcm")
    scan, found = read(tmp_path)
    assert len(scan.series.instances) == 1
    assert np.array_equal(found, voxels)
    assert np.abs(scan.grid.affine - oblique_affine()).max() < AFFINE_MM


# --- Values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "expected"),
    [
        (np.int16, 1, 0, np.int16),
        (np.uint16, 1, 0, np.uint16),
        (np.int16, 1, -1024, np.int32),
        (np.uint8, 2, -100, np.int16),
        (np.uint16, 1, 100, np.int32),
        (np.int16, 0.5, 0, np.float32),
        (np.uint16, 1, 0.25, np.float32),
    ],
)
def test_values_have_the_smallest_type_that_holds_them(
    tmp_path: Path, stored: type, slope: float, intercept: float, expected: type
) -> None:
    limits = np.iinfo(stored)
    voxels = np.random.default_rng(2).integers(limits.min, limits.max, (4, 5, 3), dtype=stored, endpoint=True)
    voxels[0, 0, 0], voxels[-1, -1, -1] = limits.min, limits.max

    def rescale(dataset: Dataset, k: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept

    write_series(tmp_path, voxels, change=rescale)
    scan, found = read(tmp_path)
    assert found.dtype == voxel_type(scan) == expected
    assert np.array_equal(found, (voxels.astype(np.float64) * slope + intercept).astype(expected))


def test_a_ct_of_twelve_bits_is_int16(tmp_path: Path) -> None:
    def twelve_bits(dataset: Dataset, k: int) -> None:
        dataset.BitsStored, dataset.HighBit, dataset.RescaleIntercept = 12, 11, -1024

    voxels = noise().astype(np.uint16)
    write_series(tmp_path, voxels, modality="CT", change=twelve_bits)
    _, found = read(tmp_path)
    assert found.dtype == np.int16
    assert np.array_equal(found, voxels.astype(np.int32) - 1024)


def test_slices_may_have_slopes_of_their_own(tmp_path: Path) -> None:
    """As PET series do: each slice is scaled to its own largest value."""

    def scale(dataset: Dataset, k: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.125 * (k + 1), 0

    voxels = noise()
    write_series(tmp_path, voxels, modality="PT", change=scale)
    _, found = read(tmp_path)
    assert np.array_equal(found, voxels * (0.125 * np.arange(1, 6, dtype=np.float32)))


# --- What lies in a folder -------------------------------------------------------------------------------------------


def test_what_is_no_image_is_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    (tmp_path / "scan" / "README.txt").write_text("exported at night")
    (tmp_path / "scan" / ".hidden").touch()
    shutil.copy(get_testdata_file("test-SR.dcm"), tmp_path / "report.dcm")
    shutil.copy(get_testdata_file("DICOMDIR"), tmp_path / "DICOMDIR")
    found = find_series([tmp_path])
    assert (found.files, found.not_dicom, found.damaged, found.copies) == (8, 1, 0, 0)
    assert dict(found.others) == {"Comprehensive SR": 1, "Media Storage Directory": 1}
    assert len(found.series) == 1


def test_objects_of_unknown_kinds_are_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    (thing,) = slices_of(noise((4, 4, 1)), oblique_affine())
    for keyword in ("PixelData", "PhotometricInterpretation"):
        del thing[keyword]
    path = save(thing, tmp_path / "thing")
    kind = str(thing.SOPClassUID).encode()
    path.write_bytes(path.read_bytes().replace(kind, b"Doe" + kind[3:]))
    assert dict(find_series([tmp_path]).others) == {"of an unknown kind": 1}


def test_copies_count_once(tmp_path: Path) -> None:
    write_series(tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    found = find_series([tmp_path])
    assert found.copies == 5
    assert len(found.series) == 1
    assert np.array_equal(read_voxels(check_series(found.series[0])), noise())


def test_a_series_may_lie_in_several_folders_and_a_folder_hold_several_series(tmp_path: Path) -> None:
    for k, dataset in enumerate(slices_of(noise(), oblique_affine())):
        save(dataset, tmp_path / f"disc{k % 2}" / f"a{k}")
    write_series(tmp_path / "disc0", noise(seed=1))
    series = find_series([tmp_path / "disc0", tmp_path / "disc1"]).series
    assert sorted(len(one.instances) for one in series) == [5, 5]
    volumes = [read_voxels(check_series(one)) for one in series]
    assert np.array_equal(volumes[0], noise(seed=1))
    assert np.array_equal(volumes[1], noise())


def test_the_order_of_series_is_that_of_the_files(tmp_path: Path) -> None:
    uids = [write_series(tmp_path / name)[0].SeriesInstanceUID for name in ("c", "a", "b")]
    assert [one.uid for one in find_series([tmp_path]).series] == [uids[1], uids[2], uids[0]]


def test_nothing_of_the_libraries_is_printed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """pydicom would quote the value: 'Invalid value for VR UI: ...'."""

    def break_rules(dataset: Dataset, k: int) -> None:
        dataset.add_new("StudyInstanceUID", "UI", "not a uid of Doe^Jonathan")
        dataset.add_new("SeriesDescription", "LO", "x" * 200)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_series(tmp_path, change=break_rules)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        caplog.clear()
        read(tmp_path)
    assert warned == []
    assert caplog.records == []


def test_memory_holds_one_volume_and_little_more(tmp_path: Path) -> None:
    voxels = np.zeros((256, 256, 20), np.int16)
    write_series(tmp_path, voxels)
    (series,) = find_series([tmp_path]).series
    scan = check_series(series)
    tracemalloc.start()
    read_voxels(scan)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.35 * voxels.nbytes
