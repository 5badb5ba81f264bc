"""Synthetic brain tumours: federations of hospitals made of arithmetic, for demonstrations and tests without patients.

A case is a head-like volume in the four contrasts of BraTS (flair, t1, t1ce, t2) with an irregular tumour in the label
values 1 necrotic core, 2 oedema, 3 enhancing. Tissues are painted one over another as soft maps, every tissue has its
brightness in each contrast, and a scanner then does to the picture what scanners do: contrast curve, blur, bias field,
Rician noise (Gudbjartsson and Patz, "The Rician distribution of noisy MRI data", 1995), a scale of its own. Sites
differ by their scanner and by the way it lays out the axes, not by their tumours.

What it promises: every case is a function of (seed, site, case) alone, so a site has the same files to the byte
whenever it is written again on the same kind of machine; the background is exactly zero and the brain is above it;
every case holds all three labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel import affines, eulerangles, orientations
from scipy import ndimage

from segformer3d.errors import ConfigurationError
from simulations.site_folders import (
    FederationFolders,
    federation_folders,
    require_empty,
    write_description,
    write_image,
)

CONTRASTS = ("flair", "t1", "t1ce", "t2")
LABELS = ("background", "necrotic core", "oedema", "enhancing")
_DESCRIPTION = {
    "name": "Phantom",
    "description": "Synthetic brain tumours in four contrasts; no patient is behind them",
    "tensorImageSize": "4D",
    "modality": {str(channel): name for channel, name in enumerate(CONTRASTS)},
    "labels": {str(value): name for value, name in enumerate(LABELS)},
}
HELD_OUT_SITE = 0  # hospitals are numbered from 1

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Relative brightness in flair, t1, t1ce, t2; healthy white matter in t1 is about 0.9. Later tissues cover earlier ones.
_BRIGHTNESS = {
    "grey": (0.71, 0.66, 0.68, 0.66),
    "white": (0.56, 0.90, 0.90, 0.46),
    "fluid": (0.18, 0.28, 0.30, 1.25),
    "gliosis": (0.98, 0.74, 0.74, 0.85),
    "vessel": (0.35, 0.45, 1.25, 0.40),
    "oedema": (0.96, 0.60, 0.62, 1.02),
    "enhancing": (0.80, 0.56, 1.22, 0.80),
    "necrosis": (0.50, 0.38, 0.42, 1.12),
}
_BRIGHTNESS_SPREAD = 0.05  # relative, from case to case, per tissue and contrast
_TEXTURE = 0.05

_SHAPE_RANGE = ((44, 52), (52, 60), (36, 44))  # voxels of 1 mm, both ends included
_GAIN = (150.0, 6000.0)
_BIAS = (0.05, 0.22)
_NOISE = (0.02, 0.07)
_GAMMA = (0.8, 1.25)
_BLUR = (0.3, 0.8)
_AXES = ("RAS", "LPS", "RAS", "PIR")
_TILT_DEGREES = (0.0, 0.0, 9.0, 0.0)
# Roberts' R5 sequence: inverse powers of the root of x^6 = x + 1 spread any number of sites evenly over five ranges.
# The gain takes the one nearest to the golden ratio, which keeps the gains of neighbouring sites furthest apart.
_STEPS = 1.1347241384015194 ** -np.array([4.0, 1.0, 2.0, 3.0, 5.0])


@dataclass(frozen=True)
class Scanner:
    """How one hospital's scanner shows the same brain.

    Args:
        gain: raw units per unit of relative brightness; above 0, at most 10000 so that int16 holds the image.
        bias: strength of the smooth bias field (natural logarithm, standard deviation); 0 or more.
        noise: standard deviation of the noise before gain, white matter in t1 being about 0.9; 0 or more.
        gamma: exponent of the contrast curve; above 0.
        blur: point spread, standard deviation in voxels; 0 or more.
        axes: direction of the stored axes, such as "RAS" or "LPS".
        tilt_degrees: oblique rotation about the left-right axis that only the affine knows of; within ±40.

    Raises:
        ConfigurationError: a value breaks its rule.
    """

    gain: float = 1000.0
    bias: float = 0.1
    noise: float = 0.04
    gamma: float = 1.0
    blur: float = 0.5
    axes: str = "RAS"
    tilt_degrees: float = 0.0

    def __post_init__(self) -> None:
        for name, rule, holds in (
            ("gain", "be above 0 and at most 10000", 0 < self.gain <= 10_000),
            ("bias", "be in [0, 1]", 0 <= self.bias <= 1),
            ("noise", "be in [0, 1]", 0 <= self.noise <= 1),
            ("gamma", "be in [0.2, 5]", 0.2 <= self.gamma <= 5),
            ("blur", "be in [0, 5] voxels", 0 <= self.blur <= 5),
            ("axes", "name one end of each axis, such as 'RAS' or 'LPS'", _names_three_axes(self.axes)),
            ("tilt_degrees", "be within 40 degrees of 0", abs(self.tilt_degrees) <= 40),
        ):
            if not holds:
                raise ConfigurationError(f"{name} of a scanner must {rule}, got {getattr(self, name)!r}")


def scanner_of_site(seed: int, site_index: int) -> Scanner:
    """The scanner of hospital `site_index` (from 1).

    Settings spread evenly over their ranges, however many sites there are.

    Raises:
        ConfigurationError: the seed is not in [0, 2**32), or the site index is below 1.
    """
    if site_index < 1:
        raise ConfigurationError(f"hospitals are numbered from 1, got site index {site_index}")
    start = _generator(seed, HELD_OUT_SITE, 0).random(5)
    gain, bias, noise, gamma, blur = (start + site_index * _STEPS) % 1.0
    return Scanner(
        gain=round(float(_GAIN[0] * (_GAIN[1] / _GAIN[0]) ** gain), 1),
        bias=_between(_BIAS, bias),
        noise=_between(_NOISE, noise),
        gamma=_between(_GAMMA, gamma),
        blur=_between(_BLUR, blur),
        axes=_AXES[(site_index - 1) % len(_AXES)],
        tilt_degrees=_TILT_DEGREES[(site_index - 1) % len(_TILT_DEGREES)],
    )


def make_phantom(generator: np.random.Generator, scanner: Scanner) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """One case with axes right, anterior, superior: the image in raw scanner units, and its label.

    Returns:
        image (X, Y, Z, 4) in the order of `CONTRASTS`, 0 outside the brain and in [1, 32767] inside; label (X, Y, Z)
        with the values of `LABELS`.
    """
    shape = tuple(int(generator.integers(low, high + 1)) for low, high in _SHAPE_RANGE)
    position = _brain_coordinates(generator, shape)
    brain = np.linalg.norm(position, axis=0) < 1
    healthy = _healthy_brain(generator, position)
    label = _tumour(generator, position, brain, healthy["white"])
    tumour = {
        tissue: _soft_edge(label == value) for value, tissue in ((2, "oedema"), (3, "enhancing"), (1, "necrosis"))
    }
    scene_CXYZ = _paint(generator, healthy | tumour)
    return _scan(generator, scene_CXYZ, brain, scanner), label


def write_phantom_site(folder: Path, cases: int, seed: int, site_index: int, prefix: str) -> None:
    """Write hospital `site_index` (from 1) as a Decathlon folder with `cases` cases named `<prefix>_001` and so on.

    Raises:
        ConfigurationError: fewer than 1 case, or a seed or site index outside its rule.
        DataError: the folder exists and is not empty.
    """
    _require_cases("cases", cases)
    _write_cases(folder, prefix, seed, site_index, [scanner_of_site(seed, site_index)] * cases)


def write_phantom_federation(folder: Path, cases: Sequence[int], held_out: int, seed: int) -> FederationFolders:
    """Write `site-1`, `site-2`, ... of so many cases each, and `held-out`, with every site's scanner in turn.

    Raises:
        ConfigurationError: a count below 1, or a seed outside [0, 2**32).
        DataError: one of the folders exists and is not empty.
    """
    sites = len(cases)
    _require_cases("held_out", held_out)
    for number, count in enumerate(cases, start=1):
        _require_cases(f"cases of site {number}", count)
    folders = federation_folders(folder, sites)
    scanners = [scanner_of_site(seed, index) for index in range(1, sites + 1)]
    mixture = [scanners[case % sites] for case in range(held_out)]
    _write_cases(folders.held_out, folders.held_out.name, seed, HELD_OUT_SITE, mixture)
    for index, (site_folder, scanner, count) in enumerate(zip(folders.sites, scanners, cases, strict=True), start=1):
        _write_cases(site_folder, site_folder.name, seed, index, [scanner] * count)
    return folders


def _write_cases(folder: Path, prefix: str, seed: int, site_index: int, scanners: Sequence[Scanner]) -> None:
    require_empty(folder)
    training = []
    for case, scanner in enumerate(scanners, start=1):
        entry = {kind: f"./{kind}sTr/{prefix}_{case:03d}.nii.gz" for kind in ("image", "label")}
        image, label = make_phantom(_generator(seed, site_index, case), scanner)
        write_image(folder / entry["image"], _stored(np.rint(image).astype(np.int16), scanner))
        write_image(folder / entry["label"], _stored(label, scanner))
        training.append(entry)
    write_description(folder, _DESCRIPTION, training)


def _require_cases(name: str, count: int) -> None:
    if count < 1:
        raise ConfigurationError(f"{name} of a phantom federation must be 1 or more, got {count}")


def _generator(seed: int, site_index: int, case: int) -> np.random.Generator:
    # Case 0 belongs to no case: NumPy pads seeds with zeros, so [seed, site] would be the stream of [seed, site, 0].
    if not 0 <= seed < 2**32:
        raise ConfigurationError(f"the seed of phantoms must be a whole number in [0, 2**32), got {seed}")
    return np.random.default_rng([seed, site_index, case])


def _between(limits: tuple[float, float], share: float) -> float:
    return round(limits[0] + (limits[1] - limits[0]) * float(share), 4)


def _names_three_axes(axes: str) -> bool:
    return len(axes) == 3 and all(len(set(axes) & set(ends)) == 1 for ends in ("LR", "PA", "IS"))


def _brain_coordinates(generator: np.random.Generator, shape: Sequence[int]) -> Floats:
    """Coordinates (3, X, Y, Z) to the right, front and top in which the brain is the unit ball, if a lumpy one."""
    steps = [
        (np.arange(n) - (n - 1) / 2 + generator.uniform(-1, 1)) / (n * generator.uniform(0.43, 0.46)) for n in shape
    ]
    right, front, top = np.meshgrid(*steps, indexing="ij")
    right = right * (1.08 + 0.13 * front)  # narrower at the front
    lumps = 1 + 0.03 * _smooth_noise(generator, shape, 5.0)
    return np.stack([right, front, top]).astype(np.float32) * lumps


def _healthy_brain(generator: np.random.Generator, position: Floats) -> dict[str, Floats]:
    """Soft maps of the healthy tissues in painting order: ventricles and nuclei inside, folded cortex outside."""
    shape = position.shape[1:]
    right, front, top = position
    depth = 1 - np.linalg.norm(position, axis=0)
    folds = _smooth_noise(generator, shape, 1.6)
    side = np.abs(right)
    bend = side - 0.17 + 0.16 * front  # the two ventricles diverge towards the back
    size = generator.uniform(0.8, 1.2)
    ventricles = np.hypot(np.hypot(bend / 0.1, front / 0.45), (top - 0.1) / 0.2) / size
    nuclei = np.hypot(np.hypot((side - 0.3) / 0.14, (front + 0.05) / 0.25), (top + 0.12) / 0.2)
    sulci = _step(0.05 + 0.05 * folds - depth, 0.02)
    fissure = _step(0.035 - side, 0.015) * _step(np.abs(top - 0.1) + np.abs(front) - 0.55, 0.05)
    vessels = _step(0.05 - side, 0.02) * _step(0.12 - depth, 0.02) * _step(top + 0.1, 0.1)
    spots = _step(_smooth_noise(generator, shape, 2.0) - 2.5, 0.2)  # old lesions, no part of the tumour
    return {
        "grey": np.ones(shape, np.float32),
        "white": _step(depth - 0.2 + 0.1 * folds, 0.03) * (1 - _step(1 - nuclei, 0.1)),
        "gliosis": np.float32(generator.uniform(0, 1)) * np.maximum(_step(1.35 - ventricles, 0.1), spots),
        "fluid": np.maximum(np.maximum(sulci, fissure), _step(1 - ventricles, 0.1)),
        "vessel": vessels,
    }


def _tumour(generator: np.random.Generator, position: Floats, brain: Mask, white: Floats) -> npt.NDArray[np.uint8]:
    """A ragged core with a necrotic middle and an enhancing rim, in oedema that prefers to spread in white matter."""
    shape = brain.shape
    distance = _distance_from(generator, _tumour_centre(generator, position), shape)
    core_radius = generator.uniform(5.5, 8.5)
    rim = core_radius * generator.uniform(0.42, 0.52)
    margin = generator.uniform(2.5, 5.0)
    ragged = distance + 0.8 * _smooth_noise(generator, shape, 2.5)
    core = (ragged < core_radius) & brain
    necrosis = core & (ragged + 0.5 * _smooth_noise(generator, shape, 2.0) < core_radius - rim)
    spread = distance + 1.6 * _smooth_noise(generator, shape, 3.0) + 2.5 * (1 - white)
    oedema = (spread < core_radius + margin + 1) & brain
    label = np.where(oedema, 2, 0)
    label[core] = 3
    label[necrosis] = 1
    return label.astype(np.uint8)


def _tumour_centre(generator: np.random.Generator, position: Floats) -> tuple[int, ...]:
    radius = np.linalg.norm(position, axis=0)
    places = np.argwhere((radius > 0.3) & (radius < 0.65) & (np.abs(position[0]) > 0.2))
    return tuple(int(index) for index in places[generator.integers(len(places))])


def _distance_from(generator: np.random.Generator, centre: Sequence[int], shape: Sequence[int]) -> Floats:
    """Distance in voxels from the centre, along axes that are stretched as in an ellipsoid, (X, Y, Z)."""
    axes = [(np.arange(n) - c) / generator.uniform(0.85, 1.2) for n, c in zip(shape, centre, strict=True)]
    distance: Floats = np.linalg.norm(np.meshgrid(*axes, indexing="ij"), axis=0).astype(np.float32)
    return distance


def _paint(generator: np.random.Generator, layers: dict[str, Floats]) -> Floats:
    """Lay soft tissue maps over one another, each with this case's brightness and grain: (contrast, X, Y, Z)."""
    shape = layers["grey"].shape
    scene_CXYZ: Floats = np.zeros((len(CONTRASTS), *shape), np.float32)
    for tissue, cover in layers.items():
        spread = 1 + _BRIGHTNESS_SPREAD * generator.standard_normal(len(CONTRASTS))
        brightness_C = (np.array(_BRIGHTNESS[tissue]) * spread).astype(np.float32)
        scene_CXYZ += cover * (brightness_C[:, None, None, None] - scene_CXYZ)
    grain_CXYZ = np.stack([_smooth_noise(generator, shape, 1.2) for _ in CONTRASTS])
    return scene_CXYZ * (1 + _TEXTURE * grain_CXYZ)


def _scan(generator: np.random.Generator, scene_CXYZ: Floats, brain: Mask, scanner: Scanner) -> Floats:
    """What the scanner makes of the scene, 0 outside the brain: (X, Y, Z, contrast)."""
    seen_CXYZ = np.maximum(scene_CXYZ, 0) ** np.float32(scanner.gamma)
    seen_CXYZ = ndimage.gaussian_filter(seen_CXYZ, (0, scanner.blur, scanner.blur, scanner.blur))
    seen_CXYZ *= np.exp(scanner.bias * _smooth_noise(generator, brain.shape, 12.0))
    real, imaginary = scanner.noise * generator.standard_normal((2, *seen_CXYZ.shape), dtype=np.float32)
    raw_CXYZ = np.hypot(seen_CXYZ + real, imaginary) * np.float32(scanner.gain)
    image_CXYZ = np.where(brain, np.clip(raw_CXYZ, 1, np.iinfo(np.int16).max), np.float32(0))
    return np.ascontiguousarray(np.moveaxis(image_CXYZ, 0, -1))


def _smooth_noise(generator: np.random.Generator, shape: Sequence[int], sigma: float) -> Floats:
    """Gaussian noise smoothed over `sigma` voxels and brought to mean 0 and standard deviation 1."""
    noise = generator.standard_normal(shape, dtype=np.float32)
    smooth: Floats = ndimage.gaussian_filter(noise, sigma, mode="nearest", truncate=3.0)
    return cast(Floats, (smooth - smooth.mean()) / smooth.std())


def _step(x: Floats, width: float) -> Floats:
    """A soft step from 0 to 1 where `x` crosses 0."""
    return np.asarray(0.5 + 0.5 * np.tanh(x / (2 * width)), np.float32)


def _soft_edge(mask: Mask) -> Floats:
    edge: Floats = ndimage.gaussian_filter(mask.astype(np.float32), 0.6)
    return edge


def _stored(array: npt.NDArray[Any], scanner: Scanner) -> nib.Nifti1Image:
    """The array as the scanner lays it out on disk; the affine leads back to right, anterior, superior."""
    tilt = affines.from_matvec(eulerangles.euler2mat(x=np.deg2rad(scanner.tilt_degrees)))
    image = nib.Nifti1Image(array, tilt @ affines.from_matvec(np.eye(3), -np.array(array.shape[:3]) / 2))
    turn = orientations.ornt_transform(orientations.io_orientation(np.eye(4)), orientations.axcodes2ornt(scanner.axes))
    return image.as_reoriented(turn)
