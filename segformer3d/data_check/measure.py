"""Measuring one case for the data gate: its files are read once, and what cannot be read is said."""

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from nibabel.affines import obliquity
from numpy.typing import NDArray

from segformer3d.boxes import nonzero_box
from segformer3d.data_check.facts import CaseFacts, ChannelFacts, Geometry, Picture, Refused
from segformer3d.data_check.fingerprint import cell_size, make_fingerprint
from segformer3d.data_check.intensities import measure_channels, measure_relations, take_sample
from segformer3d.data_check.structures import measure_structures
from segformer3d.errors import CaseError
from segformer3d.layouts.files import CaseFiles
from segformer3d.nifti import Affine
from segformer3d.patients import patient_of
from segformer3d.task import Task
from segformer3d.volumes import StoredCase, read_stored, spacing_of

_PICTURE_SIDE = 160  # pixels


def measure_case(files: CaseFiles, *, task: Task) -> CaseFacts | Refused:
    """Everything that the rules look at."""
    patient = patient_of(files)
    try:
        stored = read_stored(files, task)
    except CaseError as error:
        return Refused(files.name, patient, str(error))
    sample = take_sample(stored)
    channels = measure_channels(stored, sample, task)
    geometry = measure_geometry(stored)
    cell_mm = cell_size(geometry.field_mm)
    pictures, outline = _take_pictures(stored, channels)
    return CaseFacts(
        name=files.name,
        patient=patient,
        geometry=geometry,
        channels=channels,
        relations=measure_relations(sample),
        structures=measure_structures(stored, sample.backgrounds, task),
        cell_mm=cell_mm,
        fingerprint=make_fingerprint(stored, channels[0], sample.backgrounds[0], cell_mm),
        pictures=pictures,
        outline=outline,
    )


def measure_geometry(stored: StoredCase) -> Geometry:
    """Where the voxels of a case lie."""
    axes = stored.affine[:3, :3] / np.asarray(spacing_of(stored.affine))
    cosines = np.abs(axes.T @ axes)[np.triu_indices(3, 1)]
    return Geometry(
        shape=stored.shape,
        spacing_mm=spacing_of(stored.affine),
        axes="".join(nib.aff2axcodes(stored.images[0].source_affine)),
        tilt_degrees=_tilt(stored.affine),
        shear_degrees=float(np.degrees(np.arcsin(cosines.max().clip(0, 1)))),
    )


def _tilt(affine: Affine) -> float:
    return float(np.degrees(obliquity(affine)).max())


def _take_pictures(stored: StoredCase, facts: Sequence[ChannelFacts]) -> tuple[tuple[Picture, ...], Picture | None]:
    """The axial slice through the middle of the label, or of the image: each contrast, and the label; all [Y, X]."""
    middle = _middle_slice(stored)
    step = -(-max(stored.shape[:2]) // _PICTURE_SIDE)
    pictures = []
    for channel, told in zip(stored.channels, facts, strict=True):
        low, high = told.percentiles[0], told.percentiles[-1]
        pixels = _slice(channel, middle, step).astype(np.float32)
        pictures.append(((pixels - low) / max(high - low, 1e-20) * 255).clip(0, 255).astype(np.uint8))
    return tuple(pictures), None if stored.label is None else _slice(stored.label, middle, step).astype(np.uint8)


def _middle_slice(stored: StoredCase) -> int:
    if stored.label is not None:
        along_z = nonzero_box(stored.label)[2]
        if along_z.start < along_z.stop:
            return int(along_z.start + along_z.stop) // 2
    return stored.shape[2] // 2


def _slice(array_XYZ: NDArray[np.generic], z: int, step: int) -> NDArray[np.generic]:
    return array_XYZ[::step, ::step, z].T
