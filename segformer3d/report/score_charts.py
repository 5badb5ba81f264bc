"""The charts of scores: box plots with every case, differences with intervals, heat maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from segformer3d.calibration import StructureCalibration
from segformer3d.report.charts import Theme, chart, style_axes
from segformer3d.report.document import Picture
from segformer3d.report.words import fixed, signed
from segformer3d.statistics import Summary

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Line:
    """One line of a chart of means: whose, and the mean with its interval."""

    label: str
    summary: Summary


def boxes(
    name: str, title: str, labels: Sequence[str], columns: Sequence[Sequence[float]], top: float | None, caption: str
) -> Picture:
    """One box plot a label, from top to bottom: quartiles, median, and every value as a point; NaN is left out.

    Args:
        name: of the picture's file.
        title: the line above, with the unit.
        labels: what each column is of.
        columns: the values of each label.
        top: the largest value that there can be, or None where there is no such limit.
        caption: the line below.
    """
    kept = [np.array([v for v in column if not np.isnan(v)], dtype=np.float64) for column in columns]

    def draw(axes: Axes, theme: Theme) -> None:
        for row, values in enumerate(kept):
            _box(axes, row, values, theme)
        style_axes(axes, title, theme, grid="x")
        axes.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
        axes.tick_params(axis="y", length=0)
        _limit(axes, np.concatenate([*kept, np.empty(0)]), top)

    medians = ", ".join(f"{label} {_median(values)}" for label, values in zip(labels, kept, strict=True))
    return chart(name, draw, 1.0 + 0.62 * len(labels), f"Box plots of {title}; medians: {medians}", caption)


def _box(axes: Axes, row: int, values: NDArray[np.float64], theme: Theme) -> None:
    if not values.size:
        return
    line = {"color": theme.ink, "linewidth": 1.1}
    axes.boxplot(
        values, positions=[row], orientation="horizontal", widths=0.5, showfliers=False, patch_artist=True,
        manage_ticks=False, medianprops={**line, "linewidth": 2.2}, whiskerprops=line, capprops=line,
        boxprops={"facecolor": theme.fill, "edgecolor": theme.ink, "linewidth": 1.1},
    )  # fmt: skip
    # Steps of the golden section spread any number of points evenly, the same each time.
    offsets = ((np.arange(values.size) * _GOLDEN) % 1 - 0.5) * 0.4
    axes.plot(values, row + offsets, "o", color=theme.accent, ms=3.2, mew=0, alpha=0.75)


def _limit(axes: Axes, values: NDArray[np.float64], top: float | None) -> None:
    if top is None:
        axes.set_xlim(0, max(1.0, float(values.max(initial=0.0)) * 1.06))
        return
    low = max(0.0, np.floor(10 * float(values.min(initial=top)) - 0.3) / 10)
    axes.set_xlim(low - (top - low) * 0.02, top * 1.005)


def _median(values: NDArray[np.float64]) -> str:
    return f"{np.median(values):.3f}" if values.size else "none"


def means(name: str, title: str, rows: Sequence[Line], caption: str) -> Picture:
    """Means as points on their intervals, from top to bottom; what is unknown of one is left out."""
    said = ", ".join(f"{row.label} {fixed(row.summary.mean)}" for row in rows)
    return chart(name, partial(_means, title, rows), 1.0 + 0.42 * len(rows), f"{title}: {said}", caption)


def differences(name: str, title: str, rows: Sequence[Line], caption: str) -> Picture:
    """The same for mean differences, around a line at nought."""

    def draw(axes: Axes, theme: Theme) -> None:
        axes.axvline(0, color=theme.ink, lw=1)
        _means(title, rows, axes, theme)
        widest = max((abs(v) for r in rows for v in (r.summary.low, r.summary.high) if v is not None), default=0.0)
        axes.set_xlim(-max(widest, 0.005) * 1.15, max(widest, 0.005) * 1.15)

    said = ", ".join(f"{row.label} {signed(row.summary.mean)}" for row in rows)
    return chart(name, draw, 1.0 + 0.42 * len(rows), f"{title}: {said}", caption)


def _means(title: str, rows: Sequence[Line], axes: Axes, theme: Theme) -> None:
    for row, item in enumerate(rows):
        summary = item.summary
        if summary.low is not None and summary.high is not None:
            axes.plot([summary.low, summary.high], [row, row], color=theme.accent, lw=2.4, solid_capstyle="butt")
        if summary.mean is not None:
            axes.plot([summary.mean], [row], "o", color=theme.accent, ms=7, mec=theme.paper, mew=1.2)
    style_axes(axes, title, theme, grid="x")
    axes.set(yticks=range(len(rows)), yticklabels=[row.label for row in rows], ylim=(len(rows) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def heat_map(
    name: str,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    caption: str,
) -> Picture:
    """A value in [0, 1] for each row and column, the higher the more colour; unknown ones stay empty."""
    numbers = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=np.float64)

    def draw(axes: Axes, theme: Theme) -> None:
        colours = LinearSegmentedColormap.from_list("report", [theme.paper, theme.accent])
        low, high = (float(f(numbers)) if np.isfinite(numbers).any() else 0.0 for f in (np.nanmin, np.nanmax))
        span = max(high - low, 0.05)
        axes.imshow(numbers, cmap=colours, vmin=high - 1.15 * span, vmax=high + 0.6 * span, aspect="auto")
        for (row, column), value in np.ndenumerate(numbers):
            text = "–" if np.isnan(value) else f"{value:.3f}"
            axes.text(column, row, text, ha="center", va="center", size=9, color=theme.ink)
        style_axes(axes, title, theme)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        slanted = sum(map(len, columns)) > 30
        axes.set_xticks(
            range(len(columns)), columns, rotation=40 if slanted else 0, ha="right" if slanted else "center"
        )
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)

    return chart(name, draw, 1.1 + 0.38 * len(rows), f"{title}; the table beside it has the values", caption)


def reliability_diagram(name: str, structure: StructureCalibration) -> Picture:
    """Observed frequency against predicted probability, and the share of the voxels in each bin as bars."""
    bins = [entry for entry in structure.bins if entry.mean_probability is not None and entry.observed is not None]
    total = max(1, sum(entry.voxels for entry in bins))

    def draw(axes: Axes, theme: Theme) -> None:
        for entry in structure.bins:
            edges = (entry.low, entry.voxels / total)
            axes.bar(edges[0], edges[1], entry.high - entry.low, align="edge", color=theme.fill, edgecolor=theme.paper)
        axes.plot([0, 1], [0, 1], color=theme.quiet, lw=1, ls=(0, (4, 3)))
        points = [(entry.mean_probability, entry.observed) for entry in bins]
        if points:
            axes.plot(*zip(*points, strict=True), "-o", color=theme.accent, lw=1.6, ms=4.5)
        style_axes(axes, structure.name, theme)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_xlabel("predicted probability", color=theme.ink, fontsize=9)
        axes.set_ylabel("observed frequency", color=theme.ink, fontsize=9)

    caption = "The line is the model, the dashed one a model that keeps what it promises; bars: share of the voxels."
    error = f"expected calibration error {fixed(structure.expected_error)}"
    return chart(name, draw, 3.4, f"Reliability of {structure.name}: {error}", caption)
