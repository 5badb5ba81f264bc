"""The pictures of a run: a case with its contours, the curves of a federation, and who gained what.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which readers with a colour-vision deficiency tell
apart. Promises: each PNG is written whole or not at all and without matplotlib's global state, so several threads may
draw; the same data gives the same picture; no name of a case or patient appears unless the caller puts it in the title.
"""

import io
from collections.abc import Mapping, Sequence
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
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from segformer3d.files import write_bytes
from segformer3d.metrics import Mask, Spacing, bounding_box
from segformer3d.statistics import Summary

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
STRUCTURE_COLOURS = (ORANGE, SKY, PURPLE, GREEN, YELLOW, VERMILLION, BLUE)  # on a dark image
SITE_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, "#888888")  # on white paper
SITE_MARKERS = "os^Dv"  # five markers and seven colours: the first 35 sites all look different
BAR_COLOURS = {"federated": BLUE, "pooled": GREEN, "alone": "#AAAAAA"}
DARK, INK, FAINT = "#111111", "#222222", "#DDDDDD"
DPI = 150
WINDOW_PERCENTILES = (1.0, 99.5)
MARGIN_VOXELS = 3

Image = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class RoundPoint:
    """What is known of one round; a number that was not measured or is withheld is absent or None.

    Attributes:
        round: the number of the round.
        losses: training loss by site.
        dice: validation Dice in [0, 1] by site.
        mean_loss: the loss over the sites, weighted as the round weighted them.
        mean_dice: the Dice over the sites, weighted likewise.
    """

    round: int
    losses: Mapping[str, float | None]
    dice: Mapping[str, float | None]
    mean_loss: float | None = None
    mean_dice: float | None = None


@dataclass(frozen=True)
class Bar:
    """One bar: its label, how the model was trained, and its Dice over the test cases."""

    label: str
    training: Literal["federated", "pooled", "alone"]
    dice: Summary


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
    path: Path, image: Image, truth: Mask, predicted: Mask, spacing: Spacing, title: str, names: Sequence[str]
) -> None:
    """Draw a case in three planes, the outlines of truth solid and of the prediction dashed, one colour a structure.

    The planes cut where the truth is largest; without truth where the prediction is; without either in the middle.

    Args:
        path: the PNG to write.
        image: one contrast (X, Y, Z) in RAS orientation.
        truth: boolean masks (S, X, Y, Z).
        predicted: boolean masks (S, X, Y, Z).
        spacing: voxel size along X, Y and Z in mm.
        title: the line above the picture.
        names: names of the S structures.
    """
    inside = image != image[0, 0, 0]  # leaves out the empty margin of a skull-stripped scan, where there is one
    window = np.percentile(image[inside] if inside.any() else image, WINDOW_PERCENTILES)
    box = bounding_box(inside | truth.any(axis=0) | predicted.any(axis=0), MARGIN_VOXELS)
    image, truth, predicted = image[box], truth[:, *box], predicted[:, *box]
    figure, centre = Figure(facecolor=DARK), _centre(truth, predicted)
    for axes, plane in zip(_panels(figure, image.shape, spacing), PLANES, strict=True):
        _show(axes, plane, _slice(image, plane, centre), spacing, window)
        for true, found, colour in zip(truth, predicted, cycle(STRUCTURE_COLOURS), strict=False):
            _outline(axes, _slice(true, plane, centre), spacing, plane, colour, dashed=False)
            _outline(axes, _slice(found, plane, centre), spacing, plane, colour, dashed=True)
    figure.suptitle(title, color="white", fontsize=12, y=1 - 0.1 / figure.get_figheight(), va="top")
    _overlay_legend(figure, names)
    _save(figure, path)


def _centre(truth: Mask, predicted: Mask) -> tuple[int, int, int]:
    """On each axis the slice with most voxels of any structure, the truth's if it has any."""
    masks = truth if truth.any() else predicted
    mask = masks.any(axis=0)
    if not mask.any():
        x, y, z = (size // 2 for size in mask.shape)
        return x, y, z
    x, y, z = (int(mask.sum(axis=others).argmax()) for others in ((1, 2), (0, 2), (0, 1)))
    return x, y, z


def _panels(figure: Figure, shape: tuple[int, ...], spacing: Spacing) -> list[Axes]:
    """Three axes side by side at one scale, in a figure that is just large enough for them."""
    extent_mm = [size * side for size, side in zip(shape, spacing, strict=True)]
    wide = sum(extent_mm[plane.leftwards] for plane in PLANES)
    high = max(extent_mm[plane.up] for plane in PLANES)
    inches = min(9.6 / wide, 6.0 / high)  # inches per mm
    gap, foot, head = 0.2, 0.55, 0.7
    width, height = max(wide * inches, 4.0) + 4 * gap, high * inches + foot + head
    figure.set_size_inches(width, height)
    left = (width - wide * inches - 2 * gap) / 2
    panels = []
    for plane in PLANES:
        w, h = extent_mm[plane.leftwards] * inches, extent_mm[plane.up] * inches
        bottom = foot + (high * inches - h) / 2
        panels.append(figure.add_axes((left / width, bottom / height, w / width, h / height)))
        left += w + gap
    return panels


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
        lines, labels, loc="lower center", ncols=min(len(labels), 6), frameon=False, labelcolor="white", fontsize=9
    )


def round_curves(path: Path, rounds: Sequence[RoundPoint]) -> None:
    """Draw training loss and validation Dice against the round: one line a site, the weighted mean in bold.

    Args:
        path: the PNG to write.
        rounds: the rounds, in order; gaps stay gaps.
    """
    figure = Figure(figsize=(11, 4.2), facecolor="white", layout="constrained")
    loss, dice = figure.subplots(1, 2)
    sites = sorted({site for point in rounds for site in (*point.losses, *point.dice)})
    _curves(loss, sites, [(p.round, p.losses, p.mean_loss) for p in rounds], "training loss")
    _curves(dice, sites, [(p.round, p.dice, p.mean_dice) for p in rounds], "validation Dice")
    handles, labels = dice.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    _save(figure, path)


_Values = Sequence[tuple[int, Mapping[str, float | None], float | None]]


def _curves(axes: Axes, sites: Sequence[str], points: _Values, name: str) -> None:
    numbers = [number for number, _, _ in points]
    size = 4.5 if len(points) <= 15 else 3
    for index, site in enumerate(sites):
        colour, marker = SITE_COLOURS[index % len(SITE_COLOURS)], SITE_MARKERS[index % len(SITE_MARKERS)]
        values = _gapped([by_site.get(site) for _, by_site, _ in points])
        style = "-" if index < len(SITE_COLOURS) else "--"
        axes.plot(numbers, values, style, color=colour, marker=marker, ms=size, lw=1.2, alpha=0.85, label=site)
    means = _gapped([mean for _, _, mean in points])
    if not np.isnan(means).all():
        axes.plot(numbers, means, color=INK, lw=3, marker="o", ms=size, label="weighted mean")
    elif not any(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any() for line in axes.lines):
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not reported", color="#777777", ha="center", va="center", transform=axes.transAxes)
    _paper(axes, name)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if numbers:
        axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)


def _gapped(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def comparison_bars(path: Path, bars: Sequence[Bar], title: str = "Mean Dice on the test cases") -> None:
    """Draw the mean Dice of each way of training as a bar, its 95 % interval as a whisker and its value beside it.

    Args:
        path: the PNG to write.
        bars: from top to bottom; one without a mean is drawn as "no value".
        title: the line above the bars.
    """
    figure = Figure(figsize=(8, 1.4 + 0.42 * len(bars)), facecolor="white", layout="constrained")
    axes = figure.subplots()
    for row, bar in enumerate(bars):
        _bar(axes, row, bar)
    _paper(axes, title, grid="x")
    axes.set(yticks=range(len(bars)), yticklabels=[bar.label for bar in bars], xlim=(0, 1.12), xlabel="Dice")
    axes.set(xticks=np.linspace(0, 1, 6), ylim=(len(bars) - 0.5, -0.5))
    _save(figure, path)


def _bar(axes: Axes, row: int, bar: Bar) -> None:
    dice = bar.dice
    if dice.mean is None or dice.low is None or dice.high is None:
        axes.text(0.01, row, "no value", color="#777777", va="center", fontsize=9)
        return
    axes.barh(row, dice.mean, height=0.68, color=BAR_COLOURS[bar.training])
    axes.plot([dice.low, dice.high], [row, row], color=INK, lw=1.6, marker="|", ms=9)
    axes.text(dice.high + 0.012, row, f"{dice.mean:.3f}", va="center", fontsize=9, color=INK)


def _paper(axes: Axes, title: str, grid: Literal["x", "y"] = "y") -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.grid(axis=grid, color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=INK)


def _save(figure: Figure, path: Path) -> None:
    write_bytes(path, to_png(figure))


def to_png(figure: Figure) -> bytes:
    """The picture as the bytes of a PNG.

    Without the software's version in it, the same picture is the same file after an upgrade that draws it alike.
    """
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(content, format="png", dpi=DPI, metadata={"Software": None})
    return content.getvalue()
