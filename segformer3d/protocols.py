"""How a benchmark is measured: what of a scan is looked at, what a missing structure scores, and which metrics count.

A protocol is one frozen value; `protocols_of` is the one place that says which a task has. Every task has `whole-scan`:
native space, every case, the metrics of `segformer3d.metrics`. The benchmarks of the SegFormer3D paper also have
`published`, which repeats what the paper's numbers were measured with, so that a result may stand beside them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from segformer3d.boxes import WHOLE, Place
from segformer3d.config import Triple
from segformer3d.errors import CaseError, ConfigurationError

TOLERANCE_MM = 1.0
METRICS = ("dice", "hd95_mm", "surface_dice")
LESION_METRICS = ("lesion_dice", "lesion_hd95_mm")
WHOLE_SCAN_NAME, PUBLISHED_NAME = "whole-scan", "published"


@dataclass(frozen=True)
class MissingScore:
    """What a structure scores where a mask of it is empty; an HD95 of NaN is excluded from means and counted."""

    dice: float
    hd95_mm: float
    surface_dice: float

    def __str__(self) -> str:
        distance = "excluded and counted" if math.isnan(self.hd95_mm) else f"{self.hd95_mm:g} mm"
        return f"Dice {self.dice:g}, surface Dice {self.surface_dice:g}, HD95 {distance}"


@dataclass(frozen=True)
class MissingRules:
    """The scores of a structure that is missing from both masks, only from the prediction, only from the truth."""

    both: MissingScore
    missed: MissingScore
    invented: MissingScore

    def __str__(self) -> str:
        return (
            f"A structure missing from prediction and truth scores {self.both}; one that was missed {self.missed}; "
            f"one that was invented {self.invented}."
        )


@dataclass(frozen=True)
class LesionRule:
    """How lesions are told apart and matched (`segformer3d.lesions`).

    Attributes:
        dilation_voxels: true voxels that meet when the truth is dilated this often (1 or more) are one lesion;
            predicted components that touch a dilated lesion belong to it.
        smallest_mm3: lesions of this volume or less are left out.
        penalty_mm: the HD95 of a lesion that was missed or invented; its Dice is 0.

    Raises:
        ConfigurationError: there is no dilation.
    """

    dilation_voxels: int
    smallest_mm3: float
    penalty_mm: float

    def __post_init__(self) -> None:
        if self.dilation_voxels < 1:
            raise ConfigurationError(f"lesions are told apart by a dilation of 1 or more, got {self.dilation_voxels}")


@dataclass(frozen=True)
class Crop:
    """A box (x, y, z from `start` up to `stop`, RAS voxels) that is defined for volumes of one shape."""

    shape: Triple
    start: Triple
    stop: Triple

    def place(self, shape: Sequence[int]) -> Place:
        """The box in a volume of this shape.

        Raises:
            CaseError: the box is not defined for it.
        """
        if tuple(shape) != self.shape:
            found, wanted = (" x ".join(map(str, sides)) for sides in (shape, self.shape))
            raise CaseError(
                f"the published crop is defined for volumes of {wanted} voxels, this one has {found}; "
                f"measure it with the protocol {WHOLE_SCAN_NAME}"
            )
        x, y, z = (slice(low, high) for low, high in zip(self.start, self.stop, strict=True))
        return (x, y, z)


@dataclass(frozen=True)
class Protocol:
    """One way to measure a task.

    Attributes:
        name: what users type.
        sentence: what it is, for the report.
        citation: where it comes from.
        missing: what a missing structure scores.
        tolerance_mm: how far a surface may lie from the other and still count as right.
        tolerance_from: whose tolerance that is.
        crop: the part of a volume that is predicted and scored, or None for all of it. Intensities are scaled over the
            whole volume all the same, as the task says: a model is fed as it was trained.
        lesions: how lesions are scored one by one, or None where they are not.
        lesions_by_name: other rules for cases whose name begins so, whatever the capitals: challenges that share a
            task and its files differ in what a lesion is.

    Raises:
        ConfigurationError: the tolerance is not a length.
    """

    name: str
    sentence: str
    citation: str
    missing: MissingRules
    tolerance_mm: float = TOLERANCE_MM
    tolerance_from: str = "a convention of segfed, of no benchmark"
    crop: Crop | None = None
    lesions: LesionRule | None = None
    lesions_by_name: tuple[tuple[str, LesionRule], ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance_mm) and self.tolerance_mm >= 0):
            raise ConfigurationError(f"the surface tolerance must be 0 mm or more, got {self.tolerance_mm}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of a structure, by the names of their columns in `cases.csv`."""
        return METRICS + (LESION_METRICS if self.lesions else ())

    @property
    def rules(self) -> str:
        """How every number comes about, in a paragraph."""
        surfaces = _SURFACES.format(tolerance=self.tolerance_mm, source=self.tolerance_from)
        return " ".join((str(self.missing), surfaces, *self._lesion_rules()))

    def _lesion_rules(self) -> tuple[str, ...]:
        if self.lesions is None:
            return ()
        rule = self.lesions
        return (
            f"Lesion-wise: true voxels that meet after {rule.dilation_voxels} dilations are one lesion; lesions up to "
            f"{rule.smallest_mm3:g} mm³ are left out; each other lesion is scored against all predicted components "
            f"(26-connected) that touch it dilated, and a missed or invented one scores Dice 0 and HD95 "
            f"{rule.penalty_mm:g} mm; a case scores their mean, and Dice 1 and HD95 0 mm without any.",
            *(f"Of cases called {name}…: dilations: {own.dilation_voxels}, left out up to {own.smallest_mm3:g} mm³."
              for name, own in self.lesions_by_name),
        )  # fmt: skip

    def for_case(self, name: str) -> "Protocol":
        """The protocol with the lesion rule of the challenge that a case's name tells."""
        own = next((rule for start, rule in self.lesions_by_name if name.lower().startswith(start.lower())), None)
        return self if own is None else replace(self, lesions=own)

    def place(self, shape: Sequence[int]) -> Place:
        """What of a volume (X, Y, Z) is predicted and scored.

        Raises:
            CaseError: the protocol's crop is not defined for this shape.
        """
        return WHOLE if self.crop is None else self.crop.place(shape)

    def to_json(self) -> dict[str, Any]:
        """The protocol as plain JSON values, null for an HD95 that is excluded."""
        told = asdict(self)
        for score in told["missing"].values():
            score["hd95_mm"] = None if math.isnan(score["hd95_mm"]) else score["hd95_mm"]
        told["lesions_by_name"] = dict(told["lesions_by_name"])
        return told


_SURFACES = (
    "The surface is the voxels with a 6-neighbour outside the structure; surface Dice is the share of them, in "
    "prediction and truth, within {tolerance:g} mm ({source}) of the other surface. HD95 is the larger of the two "
    "directed 95th percentiles. low and high bound the 95 % percentile bootstrap interval of the mean over cases."
)

_EXCLUDED = MissingRules(MissingScore(1, math.nan, 1), MissingScore(0, math.nan, 0), MissingScore(0, math.nan, 0))


def _penalised(millimetres: float) -> MissingRules:
    """The rules of the BraTS challenges: rightly missing is perfect, anything else the worst that there is."""
    worst = MissingScore(0, millimetres, 0)
    return MissingRules(MissingScore(1, 0, 1), worst, worst)


WHOLE_SCAN = Protocol(
    name=WHOLE_SCAN_NAME,
    sentence="Every case in its native space, whole; the mean over cases of each case's score.",
    citation="MONAI metrics (Cardoso et al., arXiv:2211.02701); surface Dice: Nikolov et al., JMIR 2021",
    missing=_EXCLUDED,
)

_HIPPOCAMPUS = replace(WHOLE_SCAN, tolerance_from="that of the Medical Segmentation Decathlon for this task")
_BRATS_2017 = replace(
    WHOLE_SCAN,
    sentence="Every case in its native space, whole, with the BraTS challenges' rules of 2017 to 2022 for regions "
    "that are missing; the mean over cases of each case's score.",
    citation="BraTS 2017-2022 (Menze et al., IEEE TMI 2015; Bakas et al., arXiv:1811.02629)",
    missing=_penalised(373.1287),  # the diagonal of 240 x 240 x 155 mm
)
_BRATS_2023 = replace(
    WHOLE_SCAN,
    sentence="Every case in its native space, whole, with the rules of BraTS 2023 and later for regions that are "
    "missing, and its scores lesion by lesion, by the rule of the challenge that a case's name tells (BraTS-MEN-, "
    "BraTS-MET-; else that of gliomas, BraTS-GLI).",
    citation="BraTS 2023 lesion-wise metrics (github.com/rachitsaluja/BraTS-2023-Metrics)",
    missing=_penalised(374.0),
    lesions=LesionRule(dilation_voxels=3, smallest_mm3=50, penalty_mm=374.0),  # gliomas, sub-Saharan, paediatric
    lesions_by_name=(
        ("BraTS-MEN-", LesionRule(dilation_voxels=1, smallest_mm3=50, penalty_mm=374.0)),
        ("BraTS-MET-", LesionRule(dilation_voxels=1, smallest_mm3=2, penalty_mm=374.0)),
    ),
)

_SEGFORMER3D = "Perera, Navard, Yilmaz: SegFormer3D, CVPR workshops 2024 (arXiv:2404.10156)"
# The published code averages with MONAI's DiceMetric over batches of one case, which gives a region without truth 0
# whatever was predicted. The paper has no HD95 and no surface Dice.
_BRATS_2017_PUBLISHED = Protocol(
    name=PUBLISHED_NAME,
    sentence="The SegFormer3D paper's: a fixed box of 128³ voxels (56:184, 56:184, 13:141) of each volume, and the "
    "mean over cases of the mean Dice of the three regions, where a region without truth scores 0.",
    citation=_SEGFORMER3D,
    missing=MissingRules(MissingScore(0, math.nan, 1), MissingScore(0, math.nan, 0), MissingScore(0, math.nan, 0)),
    crop=Crop((240, 240, 155), (56, 56, 13), (184, 184, 141)),
)
# nnFormer's published scoring, which the SegFormer3D paper used on both: HD95 counts as 0 unless both masks are there.
_NNFORMER = Protocol(
    name=PUBLISHED_NAME,
    sentence="nnFormer's, which the SegFormer3D paper follows: whole volumes in native space, and the mean over "
    "structures of their mean Dice over cases; a missed or invented structure scores Dice 0 and HD95 0.",
    citation=f"Zhou et al.: nnFormer, IEEE TIP 2023 (arXiv:2109.03201); {_SEGFORMER3D}",
    missing=_penalised(0.0),
)

_OF_TASKS: Mapping[str, tuple[Protocol, ...]] = {
    "hippocampus": (_HIPPOCAMPUS,),
    "brats2017": (_BRATS_2017, _BRATS_2017_PUBLISHED),
    "brats2021": (_BRATS_2017,),
    "brats2023": (_BRATS_2023,),
    "synapse": (WHOLE_SCAN, _NNFORMER),
    "acdc": (WHOLE_SCAN, _NNFORMER),
}


def protocols_of(task_name: str) -> tuple[Protocol, ...]:
    """The protocols of a task, the default one first."""
    return _OF_TASKS.get(task_name, (WHOLE_SCAN,))


def choose_protocol(task_name: str, name: str | None = None) -> Protocol:
    """The protocol of this name for a task; without a name, its default.

    Raises:
        ConfigurationError: the task has none of this name.
    """
    known = protocols_of(task_name)
    found = known[:1] if name is None else [protocol for protocol in known if protocol.name == name]
    if not found:
        names = ", ".join(protocol.name for protocol in known)
        raise ConfigurationError(f"task {task_name} has no protocol {name!r}; it has {names}")
    return found[0]
