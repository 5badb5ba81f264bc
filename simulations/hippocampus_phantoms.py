"""Synthetic hippocampi: MRI crops made of textbook anatomy and chance, to warm a model up before it meets patients.

A case is a crop of about 35 x 50 x 35 mm around one hippocampus, as in the hippocampus task of the Medical Segmentation
Decathlon (Antonelli et al., Nature Communications 2022): label 1 the head (anterior), 2 the body and tail (posterior).
The structure is a bent, tapering tube of about 40 mm and 3 ml whose head is thick and lies low in front, and whose tail
is thin, rises and turns to the midline; around it lie what anatomy puts there: the temporal horn above and to the side,
cistern and brainstem towards the midline, the amygdala above the head, a band of white matter and folded cortex below.

Everything else is left to chance, in the spirit of domain randomisation (Billot et al., "SynthSeg", Medical Image
Analysis 2023): pose, shape, smooth deformation, the brightness of every tissue within the order that T1 weighting gives
(fluid, grey, white), bias field, blur, noise and scale. No number is fitted to patients' images: sizes are those of
textbooks and of the dataset's description. Shapes were compared by eye with pictures of held-out cases.

What it promises: every case is a function of (seed, case) alone, the same to the byte on the same kind of machine, and
holds both labels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage, spatial

from segformer3d.errors import ConfigurationError
from simulations.site_folders import require_empty, write_description, write_image

ANTERIOR, POSTERIOR = 1, 2
_DESCRIPTION = {
    "name": "hippocampus",
    "description": "Synthetic hippocampi; no patient is behind them",
    "tensorImageSize": "3D",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
}

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_SHAPE_RANGE = ((32, 40), (44, 56), (30, 42))  # voxels of 1 mm, both ends included
_ROTATION = 0.2  # radians to either side about each axis
_LOG_SCALE = 0.12
_SHIFT_MM = 2.0  # of the structure from the middle of the crop
_WARPS = ((1.2, 6.0), (0.5, 2.5))  # smooth displacement: standard deviation and smoothness, mm
# Half width (to the sides) and half height of the structure along its way from the tip of the head to that of the tail.
_WAY = (0.0, 0.04, 0.12, 0.22, 0.34, 0.45, 0.65, 0.85, 0.95, 1.0)
_HALF_WIDTH_MM = (0.0, 4.5, 7.8, 8.8, 8.0, 6.9, 6.2, 4.8, 3.2, 0.0)
_HALF_HEIGHT_MM = (0.0, 2.8, 4.5, 5.0, 4.5, 3.8, 3.4, 3.1, 2.3, 0.0)
_HEAD_SHARE = (0.33, 0.5)  # of the length
_GAIN = (50.0, 1e5)


@dataclass(frozen=True)
class _Structure:
    """The hippocampus of one case, on the case's grid.

    Attributes:
        label: 0, 1 head, 2 body and tail.
        outside: mm from the surface, negative inside.
        way: 0 at the tip of the head, 1 at the tip of the tail.
        medial, above: mm from the structure's axis towards the midline and upwards.
        height: half the height of the structure there, mm.
    """

    label: npt.NDArray[np.uint8]
    outside: Floats
    way: Floats
    medial: Floats
    above: Floats
    height: Floats


def write_hippocampus_phantoms(folder: Path, cases: int, seed: int) -> None:
    """Write a Decathlon folder with `cases` cases named `phantom_001` and so on.

    Raises:
        ConfigurationError: fewer than 1 case, or a seed outside [0, 2**32).
        DataError: the folder exists and is not empty.
        StorageError: the disk is full or the folder cannot be written.
    """
    if cases < 1:
        raise ConfigurationError(f"cases of hippocampus phantoms must be 1 or more, got {cases}")
    if not 0 <= seed < 2**32:
        raise ConfigurationError(f"the seed of phantoms must be a whole number in [0, 2**32), got {seed}")
    require_empty(folder)
    training = []
    for case in range(1, cases + 1):
        entry = {kind: f"./{kind}sTr/phantom_{case:03d}.nii.gz" for kind in ("image", "label")}
        image, label = make_hippocampus_phantom(np.random.default_rng([seed, case]))
        write_image(folder / entry["image"], nib.Nifti1Image(image, np.eye(4)))
        write_image(folder / entry["label"], nib.Nifti1Image(label, np.eye(4)))
        training.append(entry)
    write_description(folder, _DESCRIPTION, training)


def make_hippocampus_phantom(generator: np.random.Generator) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """One case with axes right, anterior, superior, 1 mm a voxel.

    Returns:
        image (X, Y, Z) in raw units, 0 or more; label (X, Y, Z), 0, 1 head, 2 body and tail.
    """
    position = _position(generator)
    structure = _structure(generator, position)
    scene = _paint(generator, structure, position)
    return _scan(generator, scene), structure.label


def _position(generator: np.random.Generator) -> Floats:
    """Where each voxel lies in the pose that anatomy describes: mm towards the midline, front and top (3, X, Y, Z)."""
    shape = tuple(int(generator.integers(low, high + 1)) for low, high in _SHAPE_RANGE)
    axes = [np.arange(n) - (n - 1) / 2 + generator.uniform(-_SHIFT_MM, _SHIFT_MM) for n in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    turn = spatial.transform.Rotation.from_euler("xyz", generator.uniform(-_ROTATION, _ROTATION, 3)).as_matrix()
    turn = turn * np.exp(generator.uniform(-_LOG_SCALE, _LOG_SCALE, 3))
    if generator.random() < 0.5:  # the other hemisphere
        turn[0] = -turn[0]
    position = np.tensordot(turn, grid, axes=1)
    for size, smoothness in _WARPS:
        strength = size * generator.uniform(0.3, 1.0)
        position += strength * np.stack([_smooth_noise(generator, shape, smoothness) for _ in range(3)])
    return position.astype(np.float32)


def _structure(generator: np.random.Generator, position: Floats) -> _Structure:
    medial, front, top = position
    length, size = generator.uniform(36, 44), generator.uniform(0.85, 1.12)
    way = 0.5 - front / length
    inside_way = np.clip(way, 0, 1)
    # The axis climbs towards the back, steeper at the tail, and bulges away from the midline in the middle.
    rise, turn_up, bulge = generator.uniform(14, 24), generator.uniform(0, 5), generator.uniform(3, 8)
    above = top - rise * (inside_way - 0.45) - turn_up * np.maximum(inside_way - 0.6, 0) ** 2 * 6
    towards = medial - bulge * ((2 * inside_way - 0.9) ** 2 - 0.35)
    width, height = (np.interp(way, _WAY, table) * size for table in (_HALF_WIDTH_MM, _HALF_HEIGHT_MM))
    roll = generator.uniform(-0.3, 0.5)
    across = np.cos(roll) * towards + np.sin(roll) * above
    upright = np.cos(roll) * above - np.sin(roll) * towards
    upright = upright + generator.uniform(0, 0.03) * across**2 - 0.7  # both edges hang a little, like a saddle
    mask = np.hypot(across / np.maximum(width, 1e-3), upright / np.maximum(height, 1e-3)) < 1
    border = length * (0.5 - generator.uniform(*_HEAD_SHARE)) + generator.uniform(-0.25, 0.25) * above
    label = np.where(mask, np.where(front > border, ANTERIOR, POSTERIOR), 0).astype(np.uint8)
    outside = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
    fields = (outside, way, towards, above, np.maximum(height, 2.0))
    return _Structure(label, *(field.astype(np.float32) for field in fields))


def _paint(generator: np.random.Generator, structure: _Structure, position: Floats) -> Floats:
    """Lay the soft maps of the tissues over one another in T1-like brightness, white matter about 1: (X, Y, Z)."""
    fluid = generator.uniform(0.05, 0.4)
    grey = generator.uniform(0.45, 0.72)
    white = grey + generator.uniform(0.15, 0.45)
    own = grey + generator.uniform(-0.06, 0.08)
    mixed = grey + generator.uniform(0.4, 1.0) * (white - grey)  # thalamus and brainstem
    shape = structure.label.shape
    scene = np.full(shape, white, np.float32)
    folds, fissures = _cortex(generator, structure)
    layers = [
        (folds, grey),
        (fissures, fluid),
        (_cistern(generator, structure), fluid),
        (_ball(generator, position, (14, -8, 12), (8, 12, 8)), mixed),  # thalamus
        (_ball(generator, position, (19, -3, -8), (8, 11, 12)), mixed),  # brainstem
        (_ball(generator, position, (4, 18, 2), (10, 8, 7)), grey + generator.uniform(-0.05, 0.06)),  # amygdala
        (_ball(generator, position, (-5, -24, 12), (5, 7, 6)), generator.choice([fluid, white])),  # atrium
        (_shell(generator, structure, 1.5, 3.5) * _step(-structure.above, 1.0), white),  # below the structure
        (_horn(generator, structure), fluid),
        (_shell(generator, structure, 0.5, 1.3) * _step(structure.above, 1.0), white),  # alveus and fimbria
        (_step(-structure.outside, 0.35), own),
        (_stripe(generator, structure), generator.uniform(fluid, white)),
    ]
    for cover, brightness in layers:
        scene += cover * (np.float32(brightness) - scene)
    vessels = _step(_smooth_noise(generator, shape, 1.0) - 2.6, 0.2) * _step(structure.outside - 1, 0.5)
    scene += vessels * np.float32(generator.uniform(-0.5, 0.9))
    return scene + np.float32(generator.uniform(0.01, 0.06)) * _smooth_noise(generator, shape, 1.2)


def _cortex(generator: np.random.Generator, structure: _Structure) -> tuple[Floats, Floats]:
    """Folded cortex below and to the side of the structure, and the fluid in its fissures."""
    shape = structure.label.shape
    edge = 1.5 * _smooth_noise(generator, shape, 4.0)
    below = -structure.above - structure.height - generator.uniform(2, 4.5) + edge
    aside = -structure.medial - generator.uniform(11, 20) + edge
    region = np.maximum(_step(below, 0.5), _step(aside, 0.5))
    # Gyri are layers below one another where they run alongside the structure, and winding ribbons elsewhere.
    layers = 2 * np.abs((below / generator.uniform(8, 12) + 0.12 * edge) % 1.0 - 0.5) * generator.uniform(1.5, 2.2)
    ribbons = np.abs(_smooth_noise(generator, shape, generator.uniform(2.2, 4.0)))
    waves = ribbons if generator.random() < 0.4 else np.minimum(layers, 1.3 * ribbons + 0.3)
    grey = _step(generator.uniform(0.7, 1.1) - waves, 0.1)
    fluid = _step(generator.uniform(-0.1, 0.18) - waves, 0.06)
    return region * grey, region * fluid


def _cistern(generator: np.random.Generator, structure: _Structure) -> Floats:
    """Fluid between the structure and the brainstem, and in the fissure that runs over the structure."""
    ragged = 1.2 * _smooth_noise(generator, structure.label.shape, 3.0)
    start, thick = generator.uniform(5, 11), generator.uniform(1, 7)
    wall = _step(structure.medial - start + ragged, 0.6) * _step(start + thick - structure.medial + ragged, 0.6)
    low, high = generator.uniform(-14, -2), generator.uniform(2, 12)
    return wall * _step(structure.above - low, 1.0) * _step(high - structure.above, 1.0)


def _horn(generator: np.random.Generator, structure: _Structure) -> Floats:
    """The temporal horn of the ventricle: a crescent of fluid on the structure's upper outer side."""
    ragged = 0.7 * _smooth_noise(generator, structure.label.shape, 3.0)
    thick = _step(generator.uniform(0, 3.5) - structure.outside + ragged, 0.4)
    above = _step(structure.above + generator.uniform(-2, 2), 0.8)
    aside = _step(generator.uniform(-3, 8) - structure.medial, 1.0)
    return thick * above * aside * _step(generator.uniform(0.4, 1.1) - structure.way, 0.04)


def _shell(generator: np.random.Generator, structure: _Structure, thinnest: float, thickest: float) -> Floats:
    ragged = 0.3 * _smooth_noise(generator, structure.label.shape, 3.0)
    cover = _step(generator.uniform(thinnest, thickest) - structure.outside + ragged, 0.35)
    return np.float32(generator.uniform(0, 1) > 0.25) * cover


def _stripe(generator: np.random.Generator, structure: _Structure) -> Floats:
    """The layers inside the structure, which high resolution shows as a stripe of another brightness."""
    middle = -generator.uniform(1.2, 2.5) + 0.5 * _smooth_noise(generator, structure.label.shape, 2.0)
    return np.float32(generator.uniform(0, 0.5)) * _step(0.5 - np.abs(structure.outside - middle), 0.2)


def _ball(
    generator: np.random.Generator, position: Floats, centre: tuple[int, int, int], radii: tuple[int, int, int]
) -> Floats:
    """An ellipsoid near a place (mm towards the midline, front and top)."""
    middle = np.array(centre) + generator.uniform(-4, 4, 3)
    size = np.array(radii) * generator.uniform(0.7, 1.3, 3)
    scaled = (position - middle[:, None, None, None]) / size[:, None, None, None]
    return _step((1 - np.linalg.norm(scaled, axis=0)) * float(size.min()), 0.6)


def _scan(generator: np.random.Generator, scene: Floats) -> Floats:
    """What a scanner makes of the scene: contrast curve, blur, bias field, Rician noise, a scale of its own."""
    seen = np.maximum(scene, 0) ** np.float32(np.exp(generator.uniform(-0.3, 0.3)))
    seen = ndimage.gaussian_filter(seen, generator.uniform(0.2, 0.8, 3))
    seen = seen * np.exp(generator.uniform(0, 0.2) * _smooth_noise(generator, scene.shape, 12.0))
    noise = generator.uniform(0.01, 0.07) * generator.standard_normal((2, *scene.shape), dtype=np.float32)
    low, high = np.log(_GAIN)
    image: Floats = np.hypot(seen + noise[0], noise[1]) * np.float32(np.exp(generator.uniform(low, high)))
    return np.asarray(image, np.float32)


def _smooth_noise(generator: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Floats:
    """Gaussian noise smoothed over `sigma` voxels and brought to mean 0 and standard deviation 1."""
    noise = generator.standard_normal(shape, dtype=np.float32)
    smooth: Floats = ndimage.gaussian_filter(noise, sigma, mode="nearest", truncate=3.0)
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)


def _step(x: npt.NDArray[np.floating[Any]], width: float) -> Floats:
    """A soft step from 0 to 1 where `x` crosses 0."""
    return np.asarray(0.5 + 0.5 * np.tanh(x / (2 * width)), np.float32)
