"""The picture of a case: three planes with the contours of truth and prediction.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which readers with a colour-vision deficiency tell
apart. Promises: each PNG is written whole or not at all and without matplotlib's global state, so several threads may
draw; the same data gives the same picture; no name of a case or patient appears unless the caller puts it in the title.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray

from segformer3d.boxes import bounding_box
from segformer3d.files import write_bytes
from segformer3d.surfaces import Mask, Spacing

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
STRUCTURE_COLOURS = (ORANGE, SKY, PURPLE, GREEN, YELLOW, VERMILLION, BLUE)  # on a dark image
DARK = "#111111"
DPI = 150
SIDE = 6.6  # inches that the planes of an overlay may take together
WINDOW_PERCENTILES = (1.0, 99.5)
MARGIN_VOXELS = 3

Image = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class _Plane:
    """How a plane of a RAS volume is shown: the axis it cuts, those that run leftwards and up, the edge letters."""

    name: str
    cut: int
    leftwards: int
    up: int
    letters: tuple[str, str, str, str]  # left, right, bottom, top


# As radiologists hang them: the patient's right on the viewer's left, the face to the left, superior (or anterior) up.
PLANES = (
    _Plane("sagittal", cut=0, leftwards=1, up=2, letters=("A", "P", "I", "S")),
    _Plane("coronal", cut=1, leftwards=0, up=2, letters=("R", "L", "I", "S")),
    _Plane("axial", cut=2, leftwards=0, up=1, letters=("R", "L", "P", "A")),
)


def overlay(
    path: Path,
    image: Image,
    truth: Mask,
    predicted: Mask,
    spacing: Spacing,
    title: str,
    names: Sequence[str],
    at: Literal["structure", "error"] = "structure",
) -> None:
    """Draw a case in three planes, the outlines of truth solid and of the prediction dashed, one colour a structure.

    The planes cut where the truth is largest; without truth where the prediction is; without either in the middle. At
    the error they cut where most voxels are wrong, if any is.

    Args:
        path: the PNG to write.
        image: one contrast (X, Y, Z) in RAS orientation.
        truth: boolean masks (S, X, Y, Z).
        predicted: boolean masks (S, X, Y, Z).
        spacing: voxel size along X, Y and Z in mm.
        title: the line above the picture.
        names: names of the S structures.
        at: what the planes are to show.
    """
    inside = image != image[0, 0, 0]  # leaves out the empty margin of a skull-stripped scan, where there is one
    window = np.percentile(image[inside] if inside.any() else image, WINDOW_PERCENTILES)
    box = bounding_box(inside | truth.any(axis=0) | predicted.any(axis=0), MARGIN_VOXELS)
    image, truth, predicted = image[box], truth[:, *box], predicted[:, *box]
    figure, centre = Figure(facecolor=DARK), _centre(truth, predicted, at)
    for axes, plane in zip(_panels(figure, image.shape, spacing), PLANES, strict=True):
        _show(axes, plane, _slice(image, plane, centre), spacing, window)
        for true, found, colour in zip(truth, predicted, cycle(STRUCTURE_COLOURS), strict=False):
            _outline(axes, _slice(true, plane, centre), spacing, plane, colour, dashed=False)
            _outline(axes, _slice(found, plane, centre), spacing, plane, colour, dashed=True)
    figure.suptitle(title, color="white", fontsize=12, y=1 - 0.1 / figure.get_figheight(), va="top")
    _overlay_legend(figure, names)
    _save(figure, path)


def _centre(truth: Mask, predicted: Mask, at: Literal["structure", "error"]) -> tuple[int, int, int]:
    """On each axis the slice with most voxels of what is to be shown."""
    candidates = (truth ^ predicted, truth, predicted) if at == "error" else (truth, predicted)
    mask = next((masks for masks in candidates if masks.any()), truth).any(axis=0)
    if not mask.any():
        x, y, z = (size // 2 for size in mask.shape)
        return x, y, z
    x, y, z = (int(mask.sum(axis=others).argmax()) for others in ((1, 2), (0, 2), (0, 1)))
    return x, y, z


def _panels(figure: Figure, shape: tuple[int, ...], spacing: Spacing) -> list[Axes]:
    """Three axes at one scale, in a figure that is just large enough for them.

    Coronal is beside sagittal, with the same heights, and axial below coronal, with the same sides: what is at one
    place in two planes stands in one line. The corner that is left holds the legend.
    """
    x, y, z = (size * side for size, side in zip(shape, spacing, strict=True))
    scale = min(SIDE / (x + y), SIDE / (y + z))  # inches per mm
    x, y, z = x * scale, y * scale, z * scale
    gap, head, between = 0.15, 0.65, 0.3  # inches; above each plane stands its name
    width, height = max(x + y, 4.0) + 3 * gap, y + z + gap + head + between
    figure.set_size_inches(width, height)
    left, right = gap, width - gap - x
    places = ((left, gap + y + between, y, z), (right, gap + y + between, x, z), (right, gap, x, y))
    return [figure.add_axes((a / width, b / height, w / width, h / height)) for a, b, w, h in places]


def _slice(volume: NDArray[Any], plane: _Plane, centre: tuple[int, int, int]) -> NDArray[Any]:
    """The plane as rows upwards and columns leftwards in anatomy, which `_show` turns into a picture."""
    kept: NDArray[Any] = volume.take(centre[plane.cut], axis=plane.cut)
    return kept.T if plane.leftwards < plane.up else kept


def _show(axes: Axes, plane: _Plane, pixels: Image, spacing: Spacing, window: NDArray[np.floating[Any]]) -> None:
    rows, columns = pixels.shape
    width, height = columns * spacing[plane.leftwards], rows * spacing[plane.up]
    extent = (0.0, width, 0.0, height)
    axes.imshow(
        pixels, cmap="gray", vmin=window[0], vmax=window[1], origin="lower", extent=extent, interpolation="bilinear"
    )
    axes.set(xlim=(width, 0), ylim=(0, height), xticks=[], yticks=[])
    axes.set_title(plane.name, color="white", fontsize=10, pad=4)
    for side in axes.spines.values():
        side.set_visible(False)
    places = ((0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"))
    places_up = ((0.5, 0.015, "center", "bottom"), (0.5, 0.985, "center", "top"))
    for letter, (x, y, ha, va) in zip(plane.letters, (*places, *places_up), strict=True):
        halo = [Stroke(linewidth=2, foreground=DARK), Normal()]
        axes.text(x, y, letter, ha=ha, va=va, color="white", size=8, path_effects=halo, transform=axes.transAxes)


def _outline(axes: Axes, mask: Mask, spacing: Spacing, plane: _Plane, colour: str, *, dashed: bool) -> None:
    if not mask.any():
        return
    # The rim of zeros closes outlines at the image's edge; a voxel's centre lies half a voxel into it.
    padded = np.pad(mask, 1).astype(np.float32)
    rows, columns = padded.shape
    across = (np.arange(columns) - 0.5) * spacing[plane.leftwards]
    up = (np.arange(rows) - 0.5) * spacing[plane.up]
    drawn = axes.contour(across, up, padded, levels=[0.5], colors=[colour], linewidths=1.6)
    if dashed:
        drawn.set(
            linestyle=(0, (2.5, 1.5)), linewidth=1.6, path_effects=[Stroke(linewidth=3, foreground=DARK), Normal()]
        )


def _overlay_legend(figure: Figure, names: Sequence[str]) -> None:
    lines = [Line2D([], [], color=colour, lw=2) for _, colour in zip(names, cycle(STRUCTURE_COLOURS), strict=False)]
    lines += [Line2D([], [], color="white", lw=1.6), Line2D([], [], color="white", lw=1.6, linestyle=(0, (2.5, 1.5)))]
    labels = [*names, "truth", "prediction"]
    figure.legend(
        lines, labels, loc="lower left", ncols=1 + len(labels) // 9, frameon=False, labelcolor="white", fontsize=11
    )


def _save(figure: Figure, path: Path) -> None:
    write_bytes(path, to_png(figure))


def to_png(figure: Figure) -> bytes:
    """The picture as the bytes of a PNG.

    Without the software's version in it, the same picture is the same file after an upgrade that draws it alike.
    """
    content = io.BytesIO()
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    # `print_figure` would draw a figure that has a layout twice.
    canvas.print_png(content, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return content.getvalue()
