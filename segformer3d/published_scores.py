"""What papers report on the benchmarks, to stand beside a measured row: mean Dice in percent, as printed there.

A row's structures average to its mean, within one unit of the last digit that the paper prints. Where only the average
could be confirmed, there are no structures. None has an interval: papers give none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        method: the network.
        mean_dice: the average of the table, in percent.
        dice: mean Dice by the name of the structure, in percent; empty where only the average is known.
        source: where the row is printed.
    """

    method: str
    mean_dice: float
    dice: Mapping[str, float]
    source: str

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON values, marked as published."""
        return {"published": True, **vars(self), "dice": dict(self.dice)}


_SEGFORMER3D = "SegFormer3D, CVPR workshops 2024 (arXiv:2404.10156)"
_TRANSUNET = "TransUNet (arXiv:2102.04306)"

_REGIONS = ("whole tumour", "enhancing tumour", "tumour core")
_ORGANS = ("aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach")
_HEART = ("right ventricle", "myocardium", "left ventricle")


def _row(method: str, mean: float, names: tuple[str, ...], dice: tuple[float, ...], source: str) -> PublishedRow:
    return PublishedRow(method, mean, dict(zip(names, dice, strict=True)) if dice else {}, source)


_ROWS: Mapping[str, tuple[PublishedRow, ...]] = {
    "brats2017": (
        _row("SegFormer3D", 82.1, _REGIONS, (89.9, 74.2, 82.2), _SEGFORMER3D),
        _row("nnFormer", 86.4, _REGIONS, (91.3, 81.8, 86.0), _SEGFORMER3D),
        _row("UNETR", 71.1, _REGIONS, (78.9, 58.5, 76.1), _SEGFORMER3D),
        _row("TransUNet", 64.4, _REGIONS, (70.6, 54.2, 68.4), _SEGFORMER3D),
    ),
    "synapse": (
        _row("SegFormer3D", 82.15, _ORGANS, (90.43, 55.26, 86.53, 86.13, 95.68, 73.06, 89.02, 81.12), _SEGFORMER3D),
        _row("nnFormer", 86.57, _ORGANS, (), _SEGFORMER3D),
        _row("MISSFormer", 81.96, _ORGANS, (), _SEGFORMER3D),
        _row("UNETR", 79.56, _ORGANS, (), _SEGFORMER3D),
        _row("TransUNet", 77.48, _ORGANS, (87.23, 63.13, 81.87, 77.02, 94.08, 55.86, 85.08, 75.62), _TRANSUNET),
    ),
    "acdc": (
        _row("SegFormer3D", 90.96, _HEART, (88.50, 88.86, 95.53), _SEGFORMER3D),
        _row("nnFormer", 92.06, _HEART, (90.94, 89.58, 95.65), _SEGFORMER3D),
        _row("LeViT-UNet-384", 90.32, _HEART, (89.55, 87.64, 93.76), _SEGFORMER3D),
        _row("TransUNet", 89.71, _HEART, (88.86, 84.54, 95.73), _SEGFORMER3D),
    ),
}


def published_rows(task_name: str) -> tuple[PublishedRow, ...]:
    """The published rows of a benchmark, the SegFormer3D paper's own first; none for other tasks."""
    return _ROWS.get(task_name, ())
