"""The pictures of a data check: how the cases are spread, their histograms, and the cases that should be looked at.

They show patients' images and name cases; they stay at the site.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segformer3d.data_check.check import Checked
from segformer3d.data_check.cohort_rules import SAME_SPACING
from segformer3d.data_check.facts import CaseFacts
from segformer3d.data_check.intensities import MEDIAN, SHAPE_PERCENTILES
from segformer3d.data_check.rules import (
    ANOTHER_CONTRAST,
    FIELD,
    HISTOGRAM,
    INTENSITY,
    SAME_CONTRAST,
    SPACING,
    SWAPPED,
    VOLUME,
    Rule,
    Severity,
)
from segformer3d.figures import BLUE, DARK, STRUCTURE_COLOURS, VERMILLION, to_png
from segformer3d.files import write_bytes
from segformer3d.report.charts import ON_PAPER
from segformer3d.task import Task

DISTRIBUTIONS_FILE, HISTOGRAMS_FILE, SUSPECTS_FILE = "distributions.png", "histograms.png", "suspects.png"
MOST_PICTURES = 24
_ACROSS = 6
_NAMED = 4  # cases that a panel names
_OF_CONTRASTS = (SAME_CONTRAST, HISTOGRAM, ANOTHER_CONTRAST, SWAPPED)
_AXES = ("left-right", "front-back", "top-bottom")


def draw(checked: Checked, out: Path) -> list[Path]:
    """Draw what there is to draw, and say where.

    Raises:
        StorageError: a picture cannot be written.
    """
    drawn = {
        DISTRIBUTIONS_FILE: _distributions(checked),
        HISTOGRAMS_FILE: _histograms(checked),
        SUSPECTS_FILE: _suspects(checked),
    }
    for name, figure in drawn.items():
        if figure is None:
            (out / name).unlink(missing_ok=True)  # of an earlier check
        else:
            write_bytes(out / name, to_png(figure))
    return [out / name for name, figure in drawn.items() if figure is not None]


@dataclass(frozen=True)
class _Panel:
    """One number of every case; `flagged` are the cases that a rule found."""

    title: str
    values: list[float]
    names: list[str]
    flagged: set[str]


def _distributions(checked: Checked) -> Figure | None:
    panels = [panel for panel in _panels(checked) if panel.values]
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), facecolor="white", layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _spread(axes, panel)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.supylabel("share of the cases below", fontsize=9, color=ON_PAPER.ink)
    return figure


def _panels(checked: Checked) -> Iterator[_Panel]:
    cases = checked.cases
    names = [case.name for case in cases]
    for axis, name in enumerate(_AXES if cases else ()):
        values = [case.geometry.spacing_mm[axis] for case in cases]
        usual = float(np.median(values))
        apart = {case.name for case, mm in zip(cases, values, strict=True) if abs(mm / usual - 1) > SAME_SPACING}
        if apart:  # else there is nothing to see
            yield _Panel(f"spacing {name}, mm", values, names, apart & _flagged(checked, SPACING))
    for axis, name in enumerate(_AXES):
        values = [case.geometry.field_mm[axis] for case in cases]
        yield _Panel(f"field of view {name}, mm", values, names, _flagged(checked, FIELD, name))
    for number, name in enumerate(checked.task.modalities):
        values = [case.channels[number].percentiles[MEDIAN] for case in cases]
        yield _Panel(f"median of {name}, stored values", values, names, _flagged(checked, INTENSITY))
    for number, structure in enumerate(checked.task.structures):
        having = [case for case in cases if case.structures and case.structures[number].volume_ml > 0]
        values = [case.structures[number].volume_ml for case in having if case.structures]
        flagged = _flagged(checked, VOLUME, structure.name)
        yield _Panel(f"{structure.name}, ml", values, [case.name for case in having], flagged)


def _flagged(checked: Checked, rule: Rule, about: str = "") -> set[str]:
    found = (finding for finding in checked.findings if finding.rule is rule and about in finding.found)
    return {finding.case for finding in found if finding.case is not None}


def _spread(axes: Axes, panel: _Panel) -> None:
    """The values in order: a step where many agree, a lone dot far from the others where one does not."""
    order = np.argsort(panel.values, kind="stable")
    values = np.array(panel.values)[order]
    shares = (np.arange(len(values)) + 0.5) / len(values)
    axes.plot(values, shares, "o", ms=3, color=BLUE, alpha=0.6, mew=0)
    flagged = [place for place, index in enumerate(order) if panel.names[index] in panel.flagged]
    axes.plot(values[flagged], shares[flagged], "o", ms=6, color=VERMILLION, mew=0)
    for place in flagged[:_NAMED]:
        side = "right" if shares[place] > 0.5 else "left"
        spot = (values[place], shares[place])
        axes.annotate(panel.names[order[place]], spot, (0, 7), textcoords="offset points", size=7, ha=side)
    if values[0] > 0 and values[-1] > 20 * values[0]:
        axes.set_xscale("log")
    _paper(axes, panel.title)
    axes.set(ylim=(-0.05, 1.15), yticks=(0, 0.5, 1))


def _paper(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=ON_PAPER.ink)
    axes.grid(color=ON_PAPER.faint, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=ON_PAPER.ink)


def _histograms(checked: Checked) -> Figure | None:
    """Shares below each intensity, whatever the scanner's scale: one line a case, those that a rule found in colour."""
    if not checked.cases:
        return None
    task = checked.task
    flagged = {name for rule in _OF_CONTRASTS for name in _flagged(checked, rule)}
    figure = Figure(figsize=(3.6 * len(task.modalities) + 1.6, 3.4), facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(task.modalities), squeeze=False)[0]
    for number, (axes, name) in enumerate(zip(panels, task.modalities, strict=True)):
        colours = cycle(STRUCTURE_COLOURS)
        for case in sorted(checked.cases, key=lambda case: case.name in flagged):
            told = case.name in flagged
            look = (
                {"color": next(colours), "lw": 1.8, "label": case.name}
                if told
                else {"color": ON_PAPER.ink, "alpha": 0.25}
            )
            axes.plot(case.channels[number].standardised, np.array(SHAPE_PERCENTILES) / 100, **{"lw": 0.7, **look})
        _paper(axes, name)
        axes.set_xlabel("intensity, in standard deviations", fontsize=8)
    panels[0].set_ylabel("share of the voxels below", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles[:12], labels[:12], loc="outside right upper", frameon=False, fontsize=7)
    return figure


@dataclass(frozen=True)
class _Tile:
    """A slice of one contrast of a case, and the words above it."""

    case: CaseFacts
    contrast: int
    words: str


def _suspects(checked: Checked) -> Figure | None:
    """A slice of each case with an error or a warning, gravest first; twins stand beside one another."""
    tiles = list(_tiles(checked))[:MOST_PICTURES]
    if not tiles:
        return None
    columns = min(_ACROSS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    figure = Figure(figsize=(2.3 * columns, 2.7 * rows), facecolor=DARK, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, tile in zip(grid.flat, tiles, strict=False):
        _slice(axes, tile, checked.task)
    return figure


def _tiles(checked: Checked) -> Iterator[_Tile]:
    """The first contrast of each case, and all of them where it is the contrasts that are in doubt."""
    by_name = {case.name: case for case in checked.cases}
    for name, rules in _words(checked, set(by_name)).items():
        doubted = not {rule.name for rule in _OF_CONTRASTS}.isdisjoint(rules)
        for number, contrast in enumerate(checked.task.modalities if doubted else checked.task.modalities[:1]):
            words = [*dict.fromkeys(rules)] or ["the other one"]
            yield _Tile(by_name[name], number, ", ".join([contrast, *words] if doubted else words))


def _words(checked: Checked, known: set[str]) -> dict[str, list[str]]:
    """The rules that each case breaks; a twin that is kept stands before the other one."""
    kept = {}
    for pair in reversed(checked.twins):
        if pair.other < len(checked.cases):
            kept[checked.cases[pair.other].name] = checked.cases[pair.one].name
    words: dict[str, list[str]] = {}
    for finding in checked.findings:
        if finding.case in known and finding.rule.severity is not Severity.NOTE:
            words.setdefault(kept.get(finding.case, finding.case), [])
            words.setdefault(finding.case, []).append(finding.rule.name)
    return words


def _slice(axes: Axes, tile: _Tile, task: Task) -> None:
    case, (x_mm, y_mm, _) = tile.case, tile.case.geometry.spacing_mm
    # As radiologists hang it: the patient's right on the viewer's left, the face up.
    axes.imshow(case.pictures[tile.contrast], cmap="gray", vmin=0, vmax=255, origin="lower", aspect=y_mm / x_mm)
    axes.invert_xaxis()
    if case.outline is not None:
        for structure, colour in zip(task.structures, cycle(STRUCTURE_COLOURS), strict=False):
            mask = np.isin(case.outline, structure.labels)
            if mask.any() and min(mask.shape) > 1:
                axes.contour(mask.astype(np.float32), levels=[0.5], colors=[colour], linewidths=1)
    axes.set_title(f"{case.name}\n{tile.words}", fontsize=7, color="white")
