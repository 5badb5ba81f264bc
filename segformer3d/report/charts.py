"""The charts of a report, each drawn twice, for white paper and for dark screens, and those of a run folder.

Those of a report are as wide as a telephone is, so that their letters stay readable there; a page sets several beside
each other. The same data gives the same picture, without matplotlib's global state, so that several threads may draw.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from segformer3d.figures import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, YELLOW, to_png
from segformer3d.files import write_bytes
from segformer3d.report.document import Picture
from segformer3d.statistics import Summary

WIDTH = 4.8  # inches
SITE_MARKERS = "os^Dv"  # five markers and seven colours: the first 35 sites all look different
BAR_COLOURS = {"federated": BLUE, "pooled": GREEN, "alone": "#AAAAAA"}


@dataclass(frozen=True)
class Theme:
    """The colours of a chart: background, text, lesser text, grid, areas, the one accent, and those of sites."""

    paper: str
    ink: str
    quiet: str
    faint: str
    fill: str
    accent: str
    sites: tuple[str, ...]


ON_PAPER = Theme(
    paper="#FFFFFF", ink="#222222", quiet="#777777", faint="#DDDDDD", fill="#DCE8F0", accent=BLUE,
    sites=(BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, "#888888"),
)  # fmt: skip
ON_SCREEN = Theme(  # a dark one
    paper="#14181C", ink="#E4E8EC", quiet="#9AA5B1", faint="#323A43", fill="#21384A", accent=SKY,
    sites=(SKY, ORANGE, GREEN, PURPLE, YELLOW, VERMILLION, "#AAAAAA"),
)  # fmt: skip

Draw = Callable[[Axes, Theme], None]


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


def chart(name: str, draw: Draw, height: float, alternative: str, caption: str) -> Picture:
    """A picture of one set of axes, `height` inches high, drawn in both themes: what differs are colours only."""
    place = None  # of the axes; working it out takes longer than drawing
    pngs = []
    for theme in (ON_PAPER, ON_SCREEN):
        figure = Figure(figsize=(WIDTH, height), facecolor=theme.paper, layout=None if place else "constrained")
        axes = figure.subplots()
        if place:
            axes.set_position(place)
        draw(axes, theme)
        pngs.append(to_png(figure))
        place = axes.get_position()
    light, dark = pngs
    return Picture(name, light, alternative, caption, dark)


def round_curves(path: Path, rounds: Sequence[RoundPoint]) -> None:
    """Draw training loss and validation Dice against the round: one line a site, the weighted mean in bold.

    Args:
        path: the PNG to write.
        rounds: the rounds, in order; gaps stay gaps.
    """
    figure = Figure(figsize=(11, 4.2), facecolor="white", layout="constrained")
    loss, dice = figure.subplots(1, 2)
    draw_losses(loss, rounds)
    draw_dice(dice, rounds)
    handles, labels = dice.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    write_bytes(path, to_png(figure))


def draw_losses(axes: Axes, rounds: Sequence[RoundPoint], theme: Theme = ON_PAPER) -> None:
    """The training loss of every site and their weighted mean, against the round."""
    _curves(axes, _sites(rounds), [(p.round, p.losses, p.mean_loss) for p in rounds], "training loss", theme)


def draw_dice(axes: Axes, rounds: Sequence[RoundPoint], theme: Theme = ON_PAPER) -> None:
    """The validation Dice of every site and their weighted mean, against the round."""
    _curves(axes, _sites(rounds), [(p.round, p.dice, p.mean_dice) for p in rounds], "validation Dice", theme)


def _sites(rounds: Sequence[RoundPoint]) -> list[str]:
    return sorted({site for point in rounds for site in (*point.losses, *point.dice)})


_Values = Sequence[tuple[int, Mapping[str, float | None], float | None]]


def _curves(axes: Axes, sites: Sequence[str], points: _Values, name: str, theme: Theme) -> None:
    numbers = [number for number, _, _ in points]
    size = 4.5 if len(points) <= 15 else 3
    for index, site in enumerate(sites):
        colour, marker = theme.sites[index % len(theme.sites)], SITE_MARKERS[index % len(SITE_MARKERS)]
        values = _gapped([by_site.get(site) for _, by_site, _ in points])
        style = "-" if index < len(theme.sites) else "--"
        axes.plot(numbers, values, style, color=colour, marker=marker, ms=size, lw=1.2, alpha=0.85, label=site)
    means = _gapped([mean for _, _, mean in points])
    if not np.isnan(means).all():
        axes.plot(numbers, means, color=theme.ink, lw=3, marker="o", ms=size, label="weighted mean")
    elif not any(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any() for line in axes.lines):
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not reported", color=theme.quiet, ha="center", va="center", transform=axes.transAxes)
    style_axes(axes, name, theme)
    axes.set_xlabel("round", color=theme.ink)
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
    style_axes(axes, title, ON_PAPER, grid="x")
    axes.set(yticks=range(len(bars)), yticklabels=[bar.label for bar in bars], xlim=(0, 1.12), xlabel="Dice")
    axes.set(xticks=np.linspace(0, 1, 6), ylim=(len(bars) - 0.5, -0.5))
    write_bytes(path, to_png(figure))


def _bar(axes: Axes, row: int, bar: Bar) -> None:
    dice = bar.dice
    if dice.mean is None or dice.low is None or dice.high is None:
        axes.text(0.01, row, "no value", color=ON_PAPER.quiet, va="center", fontsize=9)
        return
    axes.barh(row, dice.mean, height=0.68, color=BAR_COLOURS[bar.training])
    axes.plot([dice.low, dice.high], [row, row], color=ON_PAPER.ink, lw=1.6, marker="|", ms=9)
    axes.text(dice.high + 0.012, row, f"{dice.mean:.3f}", va="center", fontsize=9, color=ON_PAPER.ink)


def style_axes(axes: Axes, title: str, theme: Theme, grid: Literal["x", "y"] = "y") -> None:
    """A chart's plain look: a title flush left, a faint grid across the values, no frame."""
    axes.set_title(title, loc="left", fontsize=11, color=theme.ink)
    axes.set_facecolor(theme.paper)
    axes.grid(axis=grid, color=theme.faint, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(theme.ink)
    axes.tick_params(labelsize=9, colors=theme.ink)


def round_charts(rounds: Sequence[RoundPoint]) -> tuple[Picture, Picture]:
    """Training loss, and validation Dice, against the round."""

    def loss(axes: Axes, theme: Theme) -> None:
        draw_losses(axes, rounds, theme)

    def dice(axes: Axes, theme: Theme) -> None:
        draw_dice(axes, rounds, theme)
        handles, labels = axes.get_legend_handles_labels()
        if handles and len(handles) <= _LEGEND_AT_MOST:
            axes.legend(handles, labels, frameon=False, fontsize=8, labelcolor=theme.ink, loc="lower right")

    said = "Training loss of every site.", "Dice of the global model on every site's validation cases."
    return (
        chart("rounds-loss", loss, 3.2, "Training loss against the round, one line a site", said[0]),
        chart("rounds-dice", dice, 3.2, "Validation Dice against the round, one line a site", said[1]),
    )


_LEGEND_AT_MOST = 12  # lines; more would hide the curves
