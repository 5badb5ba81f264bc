"""Scanners: each site's images as if a scanner of its own had made them, within what MRI scanners do.

Upon an image (X, Y, Z) of magnitude m in arbitrary units, its scale s the 99th percentile of what is not 0:

    contrast       s (m / s)^gamma: another weighting of the same tissues
    resolution     blur within the slice (point spread), thicker slices along one axis (Gaussian slice profile, its
                   width at half maximum the thickness), sampled at the centres of the new slices
    bias field     times exp(b), b a polynomial of order 2 over the volume (Van Leemput et al., "Automated model-based
                   bias field correction of MR images of the brain", 1999), its standard deviation the site's
    noise          Rician: |m + n1 + i n2| with Gaussian n1, n2 (Gudbjartsson and Patz, 1995)
    orientation    axes flipped and permuted in the file, with the affine that says so

Voxels that are exactly 0 stay 0: the skull was stripped after the scan. Labels follow the geometry: every voxel of the
new grid has the label of the original voxel that its centre lies in, and no centre lies between two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel import orientations
from scipy import ndimage

from segformer3d.cases import CaseFiles
from segformer3d.contrasts import contrast
from segformer3d.errors import ConfigurationError
from segformer3d.task import Task
from simulations.scenarios.rewriting import generator_of, like, rewrite_images, rewrite_labels

GAMMA = (0.65, 1.55)
BLUR = (0.0, 0.6)  # voxels, standard deviation
BIAS = (0.05, 0.3)  # natural logarithm, standard deviation
NOISE = (0.01, 0.08)  # of the scale
# Slices as multiples of the original voxel. With these no centre of a new voxel lies between two original ones.
SLICES = (1.0, 1.5, 2.25, 3.0)
# Axial, sagittal and coronal stacks as scanners store them, one of them mirrored as in radiological order.
AXES = ("LPS", "PIR", "LIP", "LAS", "ASL", "RSA")

Floats = npt.NDArray[np.float64]
_WIDTH_AT_HALF_MAXIMUM = 2.354820045  # of a Gaussian, in standard deviations
_MONOMIALS = tuple((i, j, k) for i in range(3) for j in range(3) for k in range(3) if 0 < i + j + k <= 2)


@dataclass(frozen=True)
class SiteScanner:
    """One site's scanner; for ranges see the constants.

    Attributes:
        gamma: exponent of the contrast curve.
        blur: point spread in the slice, standard deviation in voxels.
        slices: thickness of a slice in original voxels.
        across: the axis of the patient across which slices lie: 0 left-right, 1 back-front, 2 bottom-top.
        bias: strength of the bias field.
        coil: what is common to the bias fields of its cases, a coefficient for each of 9 monomials.
        noise: standard deviation of the noise, as a share of the scale.
        axes: where the axes of its files lead to, such as "LPS".
    """

    gamma: float
    blur: float
    slices: float
    across: int
    bias: float
    coil: tuple[float, ...]
    noise: float
    axes: str


def check_scanners(task: Task) -> None:
    """See that a task is of MRI.

    Raises:
        ConfigurationError: it is of CT.
    """
    if task.intensity == "window" or "ct" in map(contrast, task.modalities):
        raise ConfigurationError(f"scenario scanners is of MRI scanners, and task {task.name} of CT; choose another")


def change_scanners(sites: Sequence[Path], seed: int, task: Task) -> None:
    """Give each site a scanner of its own.

    Raises:
        DataError: a file lies outside its site's folder.
        StorageError: the disk is full or a folder cannot be written.
    """
    for number, (site, scanner) in enumerate(zip(sites, site_scanners(len(sites), seed), strict=True), start=1):
        rewrite_images(site, partial(_rescan, scanner=scanner, seed=seed, number=number))
        rewrite_labels(site, partial(_relabel, scanner=scanner))


def site_scanners(sites: int, seed: int) -> tuple[SiteScanner, ...]:
    """The scanners of so many sites: each quantity is spread evenly over its range, in an order of its own."""
    generator = np.random.default_rng([seed, sites])
    gamma, blur, bias, noise = ((generator.permutation(sites) + 0.5) / sites for _ in range(4))
    slices, axes = generator.permutation(sites), generator.permutation(sites)
    return tuple(
        SiteScanner(
            gamma=float(GAMMA[0] * (GAMMA[1] / GAMMA[0]) ** gamma[site]),
            blur=_between(BLUR, blur[site]),
            slices=SLICES[slices[site] % len(SLICES)],
            across=int(generator.integers(3)),
            bias=_between(BIAS, bias[site]),
            coil=tuple(generator.standard_normal(len(_MONOMIALS)).tolist()),
            noise=_between(NOISE, noise[site]),
            axes=AXES[axes[site] % len(AXES)],
        )
        for site in range(sites)
    )


def _between(limits: tuple[float, float], share: float) -> float:
    return float(limits[0] + (limits[1] - limits[0]) * share)


def _rescan(case: CaseFiles, path: Path, image: nib.Nifti1Image, scanner: SiteScanner, seed: int, number: int) -> Any:
    """The same patient in the site's scanner. All contrasts of a case have one bias field."""
    patient = nib.as_closest_canonical(image)
    values = np.asarray(patient.dataobj, np.float64)
    field = bias_field(generator_of(seed, number, case.name), _thick(values.shape[:3], scanner), scanner)
    noise = generator_of(seed, number, f"{case.name}/{path.name}")
    channels = values.reshape(*values.shape[:3], -1)
    seen = np.stack([scan(channel, field, noise, scanner) for channel in np.moveaxis(channels, -1, 0)], axis=-1)
    shaped = seen.reshape(*seen.shape[:3], *values.shape[3:]).astype(np.float32)
    return _stored(like(patient, shaped, _thick_affine(patient.affine, scanner)), scanner)


def _relabel(_: CaseFiles, __: Path, image: nib.Nifti1Image, scanner: SiteScanner) -> Any:
    patient = nib.as_closest_canonical(image)
    values = np.asanyarray(patient.dataobj)
    nearest = np.rint(_centres(values.shape[scanner.across], scanner)).astype(int)
    return _stored(like(patient, values.take(nearest, scanner.across), _thick_affine(patient.affine, scanner)), scanner)


def scan(magnitude: Floats, field: Floats, generator: np.random.Generator, scanner: SiteScanner) -> Floats:
    """What the scanner shows of an image (X, Y, Z), of which negative values count as 0, with this bias field.

    The result has thicker slices and is 0 or more.
    """
    magnitude = np.maximum(magnitude, 0)
    scale = float(np.percentile(magnitude[magnitude > 0], 99)) if (magnitude > 0).any() else 1.0
    seen = _slice(scale * (magnitude / scale) ** scanner.gamma, scanner) * np.exp(field)
    real, imaginary = scanner.noise * scale * generator.standard_normal((2, *seen.shape))
    nearest = np.rint(_centres(magnitude.shape[scanner.across], scanner)).astype(int)
    return np.where(magnitude.take(nearest, scanner.across) == 0, 0, np.hypot(seen + real, imaginary))


def bias_field(generator: np.random.Generator, shape: Sequence[int], scanner: SiteScanner) -> Floats:
    """The logarithm of a bias field: half the coil's, half the patient's in it; mean 0, standard deviation `bias`."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij", sparse=True)
    weights = np.array(scanner.coil) + generator.standard_normal(len(_MONOMIALS))
    field: Floats = np.zeros(tuple(shape))
    for weight, powers in zip(weights, _MONOMIALS, strict=True):
        field += weight * axes[0] ** powers[0] * axes[1] ** powers[1] * axes[2] ** powers[2]
    field -= field.mean()
    return field * (scanner.bias / (field.std() or 1.0))


def _slice(image: Floats, scanner: SiteScanner) -> Floats:
    """Blur within slices, then slices of the scanner's thickness, interpolated at their centres."""
    spread = [scanner.blur] * 3
    spread[scanner.across] = float(np.sqrt(scanner.slices**2 - 1)) / _WIDTH_AT_HALF_MAXIMUM
    blurred = ndimage.gaussian_filter(image, spread, mode="nearest")
    centres = _centres(image.shape[scanner.across], scanner)
    low = np.floor(centres).astype(int)
    high = np.minimum(low + 1, image.shape[scanner.across] - 1)
    share = np.expand_dims(centres - low, tuple(axis for axis in range(3) if axis != scanner.across))
    sliced: Floats = blurred.take(low, scanner.across) * (1 - share) + blurred.take(high, scanner.across) * share
    return sliced


def _centres(size: int, scanner: SiteScanner) -> Floats:
    """Where the centres of the slices lie, in original voxels; what would be less than a slice is cut off."""
    count = max(1, int(size / scanner.slices))
    centres: Floats = np.minimum((np.arange(count) + 0.5) * scanner.slices - 0.5, size - 1)
    return centres


def _thick(shape: Sequence[int], scanner: SiteScanner) -> list[int]:
    sizes = list(shape)
    sizes[scanner.across] = len(_centres(sizes[scanner.across], scanner))
    return sizes


def _thick_affine(affine: Floats, scanner: SiteScanner) -> Floats:
    """The grid of the slices: the outer edge of the first voxel stays where it is."""
    step = np.eye(4)
    step[scanner.across, scanner.across] = scanner.slices
    step[scanner.across, 3] = (scanner.slices - 1) / 2
    return np.asarray(affine @ step)


def _stored(image: nib.Nifti1Image, scanner: SiteScanner) -> Any:
    """The image with its axes as the site's scanner lays them out; the affine says so."""
    turn = orientations.ornt_transform(
        orientations.io_orientation(image.affine), orientations.axcodes2ornt(scanner.axes)
    )
    return image.as_reoriented(turn)
