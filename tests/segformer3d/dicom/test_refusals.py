"""What is no whole scan is refused in one line that says what was found and what to do. Each fault is made in files."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.pixels import get_decoder
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEGLosslessSV1,
    SecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from segformer3d.dicom.checks import check_series
from segformer3d.dicom.pixels import read_voxels
from segformer3d.dicom.series import find_series
from segformer3d.errors import CaseError, DataError

from .writing import (
    BIRTH,
    DATE,
    LPS,
    NAME,
    PATIENT_ID,
    Change,
    Study,
    complete_for_conversion,
    noise,
    oblique_affine,
    save,
    save_as_enhanced,
    slices_of,
    write_series,
)


def refusal(folder: Path, modality: str | None = None) -> str:
    """The one line with which the folder's only series is refused; it holds no identifier."""
    (series,) = find_series([folder]).series
    with pytest.raises(CaseError) as refused:
        read_voxels(check_series(series, modality))
    text = str(refused.value)
    assert "\n" not in text
    for secret in (NAME, "Doe", PATIENT_ID, BIRTH, DATE, series.uid, str(folder)):
        assert secret not in text
    return text


def moved(dataset: Dataset, millimetres: np.ndarray) -> None:
    dataset.ImagePositionPatient = list(np.array(dataset.ImagePositionPatient, float) + millimetres)


def set_on(k: int, **values: object) -> Change:
    """Set elements of slice k; of every slice with k = -1."""

    def change(dataset: Dataset, number: int) -> None:
        for keyword, value in values.items():
            if k in (number, -1):
                setattr(dataset, keyword, value)

    return change


def without(keyword: str, k: int = -1) -> Change:
    return lambda dataset, number: dataset.pop(keyword) if k in (number, -1) else None


NORMAL = np.cross((LPS @ oblique_affine())[:3, 0], (LPS @ oblique_affine())[:3, 1])
NORMAL /= np.linalg.norm(NORMAL)
ALONG_ROWS = (LPS @ oblique_affine())[:3, 0] / 0.7


# --- Where slices lie ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("missing", "count"), [((2,), 1), ((2, 3), 2), ((1, 5), 2)], ids=str)
def test_missing_slices(tmp_path: Path, missing: tuple[int, ...], count: int) -> None:
    write_series(tmp_path, noise((9, 7, 8)), keep=lambda k: k not in missing)
    text = refusal(tmp_path)
    assert text.startswith(f"about {count} slices are missing between the others (most are 2.5 mm apart, the furthest")
    assert text.endswith("export the whole series")


@pytest.mark.parametrize("shift", [0.3, -1.0], ids=str)
def test_uneven_slices(tmp_path: Path, shift: float) -> None:
    write_series(tmp_path, change=lambda dataset, k: moved(dataset, shift * NORMAL) if k == 2 else None)
    assert "its slices are unevenly spaced" in refusal(tmp_path)


def test_distances_that_grow_slowly(tmp_path: Path) -> None:
    """Every gap is within 1 % of its neighbours, but the middle of 30 slices is half a slice away from even."""
    voxels = noise((4, 4, 30))
    write_series(tmp_path, voxels, change=lambda dataset, k: moved(dataset, 0.006 * k * k * NORMAL))
    assert "its slices are unevenly spaced" in refusal(tmp_path)


def test_positions_rounded_by_the_scanner_are_even_enough(tmp_path: Path) -> None:
    def rounded(dataset: Dataset, k: int) -> None:
        dataset.ImagePositionPatient = [round(float(mm), 2) for mm in dataset.ImagePositionPatient]
        dataset.ImageOrientationPatient = [round(float(c), 5) for c in dataset.ImageOrientationPatient]

    write_series(tmp_path, noise((9, 7, 20)), change=rounded)
    (series,) = find_series([tmp_path]).series
    assert np.abs(check_series(series).grid.affine - oblique_affine()).max() < 0.01


@pytest.mark.parametrize(("keyword", "said"), [("TemporalPositionIdentifier", "time point"), ("EchoTime", "echo time")])
def test_several_time_points_or_echoes(tmp_path: Path, keyword: str, said: str) -> None:
    """Three scans in one series, as cine and multi-echo sequences are often sent."""
    uid, study = generate_uid(), Study()
    for phase in range(3):
        change = set_on(-1, SeriesInstanceUID=uid, **{keyword: phase + 1})
        write_series(tmp_path / str(phase), noise(seed=phase), study=study, change=change)
    text = refusal(tmp_path)
    assert f"10 of its 15 slices lie where another one lies (they differ in {said})" in text


def test_two_slices_at_one_place(tmp_path: Path) -> None:
    write_series(tmp_path, change=lambda dataset, k: moved(dataset, -2.5 * NORMAL) if k == 2 else None)
    assert refusal(tmp_path).startswith("1 of its 5 slices lie where another one lies; export each")


@pytest.mark.parametrize("degrees", [0.5, -20.0])
def test_gantry_tilt(tmp_path: Path, degrees: float) -> None:
    shear = np.tan(np.radians(degrees)) * 2.5
    write_series(tmp_path, change=lambda dataset, k: moved(dataset, k * shear * ALONG_ROWS))
    assert f"shifted sideways as with a gantry tilt of {abs(degrees):.1f} degrees" in refusal(tmp_path)


def test_mixed_orientations(tmp_path: Path) -> None:
    """Three planes in one series: a scout without the name of one."""
    write_series(tmp_path, change=set_on(1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]))
    assert refusal(tmp_path).startswith("its slices differ in orientation")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_on(3, PixelSpacing=[0.8, 0.7]), "its slices differ in pixel spacing"),
        (set_on(-1, PixelSpacing=[0.0, 0.7]), "its slices differ in pixel spacing, or have none"),
        (set_on(-1, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "directions are not at right angles"),
        (set_on(-1, ImageOrientationPatient=[0, 0, 0, 0, 1, 0]), "directions are not at right angles"),
        (without("PixelSpacing"), "some slices do not say where they lie"),
        (without("ImagePositionPatient", 2), "some slices do not say where they lie"),
        (without("ImageOrientationPatient", 2), "some slices do not say where they lie"),
        (set_on(2, ImagePositionPatient=[1, 2]), "some slices do not say where they lie"),
        (set_on(-1, BitsStored=0), "some slices do not say where they lie or how they are stored"),
        (set_on(-1, RescaleSlope="1e999"), "some slices do not say where they lie or how they are stored"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_geometry_that_is_none(tmp_path: Path, change: Change, said: str) -> None:
    write_series(tmp_path, change=change)
    assert said in refusal(tmp_path)


def test_mixed_sizes(tmp_path: Path) -> None:
    study, change = Study(), set_on(-1, SeriesInstanceUID=generate_uid())
    write_series(tmp_path / "a", noise((9, 7, 5)), study=study, change=change)
    write_series(tmp_path / "b", noise((9, 8, 5)), study=study, change=change)
    assert refusal(tmp_path).startswith("its slices have 2 different numbers of rows and columns")


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_slices(tmp_path: Path, count: int) -> None:
    write_series(tmp_path, noise((9, 7, count)))
    assert refusal(tmp_path).startswith(f"it has {count} slices; a scan needs 3 or more")


def test_a_size_that_no_scan_has(tmp_path: Path) -> None:
    write_series(tmp_path, change=set_on(-1, Rows=65535, Columns=65535))
    assert "more than 1,000,000,000 voxels" in refusal(tmp_path)


# --- What slices show ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_on(-1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "it is a localizer; leave it out"),
        (set_on(2, BurnedInAnnotation="YES"), "text is burned into its images"),
        (set_on(-1, PhotometricInterpretation="MONOCHROME1"), "inverted (MONOCHROME1)"),
        (set_on(1, PhotometricInterpretation="RGB", SamplesPerPixel=3), "its pixels have colours"),
        (set_on(-1, PhotometricInterpretation="PALETTE COLOR"), "its pixels have colours"),
        (set_on(-1, PhotometricInterpretation="DOE JONATHAN"), "its pixels have colours"),
        (set_on(-1, SamplesPerPixel=3), "its pixels have colours"),
        (set_on(2, SOPClassUID=CTImageStorage), "it mixes CT and MR"),
        (set_on(2, FrameOfReferenceUID="1.2.3"), "its slices are in several frames of reference"),
        (without("PhotometricInterpretation", 1), "some of its files end within the header"),
        (set_on(-1, SOPClassUID=SecondaryCaptureImageStorage), "such as a screen capture"),
        (set_on(2, SOPClassUID=SecondaryCaptureImageStorage), "such as a screen capture"),
        (set_on(-1, SOPClassUID=UltrasoundMultiFrameImageStorage), "it is no CT, MR or PET scan"),
        (set_on(-1, ModalityLUTSequence=Items([Dataset()])), "look-up table"),
        (set_on(2, PatientID="HOSP-4712"), "it holds slices of several patients"),
        (set_on(2, StudyInstanceUID="1.2.3"), "it holds slices of several studies"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_that_are_no_scan(tmp_path: Path, change: Change, said: str) -> None:
    write_series(tmp_path, change=change)
    assert said in refusal(tmp_path)


@pytest.mark.parametrize(("found", "wanted"), [("MR", "CT"), ("CT", "MR"), ("PT", "CT")])
def test_another_modality_than_the_task_takes(tmp_path: Path, found: str, wanted: str) -> None:
    write_series(tmp_path, modality=found)
    assert refusal(tmp_path, wanted) == f"it is a {found} scan; the task takes {wanted}"


def test_pydicom_s_own_screen_captures_and_doses(tmp_path: Path) -> None:
    for name in ("SC_rgb_jpeg_dcmtk.dcm", "rtdose.dcm", "examples_palette.dcm"):
        (tmp_path / name).mkdir()
        shutil.copy(get_testdata_file(name), tmp_path / name / "image.dcm")
        assert "it is no CT, MR or PET scan" in refusal(tmp_path / name)


# --- Files that are not whole ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("syntax", "package"), [(JPEGLosslessSV1, "python-gdcm"), (HTJ2KLossless, "pylibjpeg-openjpeg pylibjpeg")]
)
def test_nothing_installed_decodes_it(tmp_path: Path, syntax: str, package: str) -> None:
    if get_decoder(syntax).is_available:
        pytest.skip(f"a decoder for {syntax} is installed here")
    for k, dataset in enumerate(slices_of(noise(), oblique_affine())):
        dataset.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00"
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        save(dataset, tmp_path / f"{k}", syntax)
    text = refusal(tmp_path)
    assert text.startswith("nothing installed decodes ")
    assert f"pip install {package}`" in text


@pytest.mark.parametrize("encoding", [b"1.2.840.10008.9.9.9\0", b"1.2.840 Doe \xbb.9.9.9\0"], ids=["unknown", "no uid"])
def test_an_encoding_that_nobody_knows(tmp_path: Path, encoding: bytes) -> None:
    """pydicom would warn of what is no UID, and quote it; warnings are errors here."""
    for k, dataset in enumerate(slices_of(noise(), oblique_affine())):
        path = save(dataset, tmp_path / f"{k}")
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", encoding))
    assert "encoded in an unknown way" in refusal(tmp_path)


def test_a_file_that_ends_within_its_pixels(tmp_path: Path) -> None:
    write_series(tmp_path)
    path = tmp_path / "IM0002"
    path.write_bytes(path.read_bytes()[:-20])
    assert re.match(r"slice \d of 5 is truncated or damaged; export the series again", refusal(tmp_path))


def test_a_file_without_pixels(tmp_path: Path) -> None:
    write_series(tmp_path, change=without("PixelData", 3))
    assert refusal(tmp_path).startswith("1 files among its slices are empty, damaged or without pixels")


def test_a_deflated_file_without_pixels(tmp_path: Path) -> None:
    for k, dataset in enumerate(slices_of(noise(), oblique_affine(), change=without("PixelData", 3))):
        save(dataset, tmp_path / f"{k}", DeflatedExplicitVRLittleEndian)
    assert refusal(tmp_path) == "slice 4 of 5 has no pixel data; export the series with its images"


def test_headers_alone(tmp_path: Path) -> None:
    write_series(tmp_path, change=without("PixelData"))
    with pytest.raises(DataError, match="no DICOM file that can be read: 5 files are empty, damaged or without pixels"):
        find_series([tmp_path])


@pytest.mark.parametrize("content", [b"", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL"], ids=len)
def test_an_empty_or_broken_file_beside_slices(tmp_path: Path, content: bytes) -> None:
    """The last slice of an interrupted copy: what is left looks like a whole, shorter scan."""
    write_series(tmp_path, keep=lambda k: k < 4)
    (tmp_path / "IM9999").write_bytes(content)
    assert refusal(tmp_path).startswith("1 files among its slices are empty, damaged or without pixels")


def test_one_object_in_two_versions(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "a")
    changed = slices[2]
    changed.PixelData = bytes(len(changed.PixelData))
    save(changed, tmp_path / "b" / "IM0000")
    assert refusal(tmp_path).startswith("1 slices are there twice with different contents")


def test_frames_of_an_enhanced_file_are_checked_like_slices(tmp_path: Path) -> None:
    slices = slices_of(noise((9, 7, 6)), oblique_affine(), change=complete_for_conversion)
    save_as_enhanced([*slices[:2], *slices[3:]], tmp_path / "scan.dcm")
    assert refusal(tmp_path).startswith("about 1 slices are missing")


def test_a_truncated_enhanced_file(tmp_path: Path) -> None:
    slices = slices_of(noise(), oblique_affine(), change=complete_for_conversion)
    path = save_as_enhanced(slices, tmp_path / "scan.dcm")
    path.write_bytes(path.read_bytes()[:-200])
    assert "is truncated or damaged" in refusal(tmp_path)


def test_wherever_a_file_is_cut_the_series_is_refused(tmp_path: Path) -> None:
    """A shorter file is never taken for a slice, and the series never for whole."""
    write_series(tmp_path, noise((4, 4, 3)))
    path = tmp_path / "IM0001"
    whole = path.read_bytes()
    for length in range(0, len(whole), 29):
        path.write_bytes(whole[:length])
        assert refusal(tmp_path)


def test_flipped_bytes_never_end_in_another_error(tmp_path: Path) -> None:
    """60 times some bytes of one file are replaced: the series is refused, or read."""
    write_series(tmp_path, noise((4, 4, 3)))
    path = tmp_path / "IM0001"
    whole = path.read_bytes()
    generator = np.random.default_rng(5)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(60):
        broken = bytearray(whole)
        for place in generator.integers(0, len(whole), 2):
            broken[place] = generator.integers(256)
        path.write_bytes(bytes(broken))
        try:
            for series in find_series([tmp_path]).series:
                read_voxels(check_series(series))
            outcomes["read"] += 1
        except CaseError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 3


# --- Folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "missing", "there is nothing at .*missing; give a folder of DICOM files"),
        (lambda folder: folder, "holds no DICOM file that can be read"),
        (lambda folder: Path(__file__), "holds no DICOM file that can be read"),
    ],
)
def test_folders_without_dicom(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    with pytest.raises(DataError, match=said):
        find_series([make(tmp_path)])
