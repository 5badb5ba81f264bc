"""DICOM files for the tests, written with pydicom from volumes whose voxels and affine are known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from highdicom.legacy import LegacyConvertedEnhancedMRImage
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    generate_uid,
)

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SOP_CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage, "PT": PositronEmissionTomographyImageStorage}
NAME, PATIENT_ID, BIRTH, DATE = "Doe^Jonathan", "HOSP-4711", "19610203", "20240517"

Change = Callable[[Dataset, int], object]


def oblique_affine() -> NDArray[np.float64]:
    """A scan that is turned about all three axes, 0.7 x 0.9 x 2.5 mm, far from the origin (RAS)."""
    a, b, c = np.radians([17.0, -23.0, 41.0])
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = z @ y @ x @ np.diag([0.7, 0.9, 2.5])
    affine[:3, 3] = (-81.25, 112.5, -432.125)
    return affine


def noise(shape: tuple[int, int, int] = (9, 7, 5), seed: int = 0) -> NDArray[np.int16]:
    """A volume in which every voxel, axis and direction can be told apart."""
    return np.random.default_rng(seed).integers(0, 4000, shape, dtype=np.int16)


@dataclass(frozen=True)
class Study:
    """What the series of one visit share."""

    patient: str = PATIENT_ID
    name: str = NAME
    uid: str = field(default_factory=generate_uid)
    frame_of_reference: str = field(default_factory=generate_uid)


def slices_of(
    voxels_IJK: NDArray[np.integer],
    affine: NDArray[np.float64],
    *,
    study: Study | None = None,
    modality: str = "MR",
    description: str = "T1 sagittal",
    change: Change | None = None,
) -> list[Dataset]:
    """One dataset a slice: column i, row j, slice k of the volume, in the order of k.

    `change(dataset, k)` is called on each before anything is written.
    """
    study = study or Study()
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    series, slices = generate_uid(), []
    for k in range(voxels_IJK.shape[2]):
        dataset = _dataset(study, modality, SOP_CLASSES[modality])
        dataset.SeriesInstanceUID, dataset.SeriesDescription = series, description
        dataset.InstanceNumber = voxels_IJK.shape[2] - k
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImageOrientationPatient = [*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])]
        dataset.ImagePositionPatient = list(lps[:3, 3] + k * lps[:3, 2])
        dataset.PixelSpacing = [spacing[1], spacing[0]]
        dataset.SliceThickness = 3.5  # another number than the distance between slices, as on many scanners
        dataset.Rows, dataset.Columns = voxels_IJK.shape[1], voxels_IJK.shape[0]
        _set_pixels(dataset, voxels_IJK[:, :, k].T)
        if change is not None:
            change(dataset, k)
        slices.append(dataset)
    return slices


def _set_pixels(dataset: Dataset, pixels: NDArray[np.integer]) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    dataset["PixelData"].VR = "OW"


def _dataset(study: Study, modality: str, sop_class: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = study.uid, study.frame_of_reference
    dataset.PatientID, dataset.PatientName = study.patient, study.name
    dataset.PatientBirthDate, dataset.PatientSex = BIRTH, "M"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = DATE
    dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "101112", "77", "ACC-99"
    dataset.ReferringPhysicianName, dataset.InstitutionName = "House^Gregory", "St. Elsewhere"
    dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName = modality, "ACME", "Spin 3000"
    dataset.MagneticFieldStrength, dataset.DeviceSerialNumber = 3.0, "SN-123"
    return dataset


def save(dataset: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    voxels_IJK: NDArray[np.integer] | None = None,
    affine: NDArray[np.float64] | None = None,
    *,
    study: Study | None = None,
    modality: str = "MR",
    description: str = "T1 sagittal",
    change: Change | None = None,
    keep: Callable[[int], bool] = lambda k: True,
) -> list[Dataset]:
    """A series in a folder, in files whose names say nothing about the order; the datasets are in the order of k.

    `keep(k)` says which slices are written.
    """
    voxels_IJK = noise() if voxels_IJK is None else voxels_IJK
    affine = oblique_affine() if affine is None else affine
    slices = slices_of(voxels_IJK, affine, study=study, modality=modality, description=description, change=change)
    names = np.random.default_rng(1).permutation(len(slices))
    for k, dataset in enumerate(slices):
        if keep(k):
            save(dataset, folder / f"IM{names[k]:04d}")
    return slices


def complete_for_conversion(dataset: Dataset, k: int) -> None:
    """Elements that highdicom's converter to enhanced files insists on."""
    dataset.AcquisitionTime = dataset.ContentTime = "101112"
    dataset.ContentDate, dataset.SeriesNumber, dataset.SeriesTime = DATE, 1, "101112"
    dataset.PatientPosition, dataset.PositionReferenceIndicator, dataset.SoftwareVersions = "HFS", "", "1"
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, 0, "US"


def save_as_enhanced(slices: Sequence[Dataset], path: Path) -> Path:
    """The slices as frames of one file, in a random order, by highdicom."""
    order = np.random.default_rng(3).permutation(len(slices))
    shuffled = [slices[index] for index in order]
    for number, dataset in enumerate(shuffled, start=1):
        dataset.InstanceNumber = number
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    converted = LegacyConvertedEnhancedMRImage(
        legacy_datasets=shuffled,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
    )
    converted.save_as(path)
    return path


def write_structure_set(
    path: Path,
    slices: Sequence[Dataset],
    structures: dict[str, Sequence[NDArray[np.float64]]],
    *,
    kind: str = "CLOSED_PLANAR",
) -> Path:
    """Contours by structure, each (n, 3) in mm, LPS."""
    first = slices[0]
    study = Study(first.PatientID, str(first.PatientName), first.StudyInstanceUID, first.FrameOfReferenceUID)
    dataset = _dataset(study, "RTSTRUCT", RTStructureSetStorage)
    dataset.SeriesInstanceUID, dataset.StructureSetLabel = generate_uid(), "plan"
    referenced = _item(ReferencedSOPClassUID=first.SOPClassUID, ReferencedSOPInstanceUID=study.uid)
    referenced.RTReferencedSeriesSequence = Items([_item(SeriesInstanceUID=first.SeriesInstanceUID)])
    frame = _item(FrameOfReferenceUID=study.frame_of_reference, RTReferencedStudySequence=Items([referenced]))
    dataset.ReferencedFrameOfReferenceSequence = Items([frame])
    rois, contours = [], []
    for number, (name, polygons) in enumerate(structures.items(), start=11):
        rois.append(_item(ROINumber=number, ROIName=name))
        items = [
            _item(ContourGeometricType=kind, NumberOfContourPoints=len(p), ContourData=[round(v, 6) for v in p.ravel()])
            for p in polygons
        ]
        contours.append(_item(ReferencedROINumber=number, ContourSequence=Items(items)))
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Items(rois), Items(contours)
    return save(dataset, path)


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
