"""Oracles: the values that were drawn, read back from the figures; both themes; equal bytes."""

import math

import numpy as np
import pytest

from segformer3d.report import charts
from segformer3d.report.charts import Bar, RoundPoint, comparison_bars, round_charts, round_curves
from segformer3d.report.score_charts import Line, boxes, differences, heat_map, means
from segformer3d.statistics import Summary, summarise

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, besides being turned into files."""
    kept = []
    to_png = charts.to_png

    def keep(figure):
        kept.append(figure)
        return to_png(figure)

    monkeypatch.setattr(charts, "to_png", keep)
    return kept


def rounds(sites):
    names = [f"site-{i}" for i in range(sites)]
    return [
        RoundPoint(n, dict.fromkeys(names, 1 / n), dict.fromkeys(names, 0.5 + n / 20), 1 / n, 0.5 + n / 20)
        for n in range(1, 6)
    ]


def test_curves_show_every_site_and_the_mean_in_bold(tmp_path, drawn):
    round_curves(tmp_path / "r.png", rounds(8))
    for axes in drawn[0].axes:
        assert len(axes.lines) == 9
        assert axes.lines[-1].get_linewidth() > 2 * axes.lines[0].get_linewidth()
        looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
        assert len(looks) == 9
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()][-1] == "weighted mean"


def test_what_is_withheld_stays_a_gap(tmp_path, drawn):
    points = [RoundPoint(1, {"a": 1.0}, {"a": None}), RoundPoint(2, {}, {}), RoundPoint(3, {"a": 0.5}, {"a": None})]
    round_curves(tmp_path / "r.png", points)
    loss, dice = drawn[0].axes
    np.testing.assert_equal(loss.lines[0].get_ydata(), [1.0, math.nan, 0.5])
    assert [text.get_text() for text in dice.texts] == ["not reported"]


@pytest.mark.parametrize("points", [[], rounds(1)[:1], rounds(40)])
def test_no_round_one_round_and_many_sites_draw(tmp_path, points):
    round_curves(tmp_path / "r.png", points)
    assert (tmp_path / "r.png").read_bytes().startswith(PNG)


def test_bars_show_mean_and_interval(tmp_path, drawn):
    bars = [
        Bar("federated", "federated", Summary(0.87, 0.05, 0.84, 0.9, 12, 0)),
        Bar("pooled", "pooled", Summary(0.88, 0.05, 0.85, 0.91, 12, 0)),
        Bar("site-a alone", "alone", summarise([], seed=0)),
    ]
    comparison_bars(tmp_path / "b.png", bars)
    (axes,) = drawn[0].axes
    assert [patch.get_width() for patch in axes.patches] == [0.87, 0.88]
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.84, 0.9], [0.85, 0.91]]
    assert [text.get_text() for text in axes.texts] == ["0.870", "0.880", "no value"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["federated", "pooled", "site-a alone"]


def test_boxes_show_every_case_quartiles_and_median(drawn):
    """Of 1 to 5 the quartiles are 2 and 4; NaN is left out."""
    values = [0.1, 0.2, 0.3, 0.4, 0.5, math.nan]
    picture = boxes("b", "Dice", ["a", "nothing"], [values, [math.nan]], 1.0, "every point is a case")
    (axes,) = drawn[0].axes
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in points] == [values[:5]]
    (box,) = axes.patches
    assert box.get_path().get_extents().intervalx == pytest.approx((0.2, 0.4))
    assert "a 0.300, nothing none" in picture.alternative
    assert axes.get_xlim()[1] >= 1.0


def test_differences_stand_around_nought(drawn):
    rows = [
        Line("a", Summary(0.02, 0.01, 0.01, 0.03, 9, 0)),
        Line("b", Summary(None, None, -0.04, 0.01, 3, 0)),
        Line("c", summarise([], seed=0)),
    ]
    picture = differences("d", "gain", rows, "caption")
    (axes,) = drawn[0].axes
    drawn_lines = [list(line.get_xdata()) for line in axes.lines]
    assert drawn_lines == [[0, 0], [0.01, 0.03], [0.02], [-0.04, 0.01]]
    low, high = axes.get_xlim()
    assert low == -high < -0.04
    assert "a +0.020, b –, c –" in picture.alternative


def test_means_stand_on_their_intervals(drawn):
    picture = means("m", "Dice", [Line("a", Summary(0.8, 0.1, 0.7, 0.9, 9, 0)), Line("b", summarise([], 0))], "caption")
    (axes,) = drawn[0].axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.7, 0.9], [0.8]]
    assert picture.alternative == "Dice: a 0.800, b –"


def test_a_heat_map_writes_its_values(drawn):
    heat_map("h", "Dice", ["one", "two"], ["x", "y", "z"], [[0.5, 0.75, None], [1.0, 0.25, 0.0]], "caption")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["0.500", "0.750", "–", "1.000", "0.250", "0.000"]
    heat_map("h", "Dice", ["one"], ["x"], [[None]], "nothing is known")


def test_every_chart_is_drawn_for_paper_and_for_dark_screens(drawn):
    loss, _ = round_charts(rounds(3))
    papers = [figure.get_facecolor() for figure in drawn]
    assert len(set(papers)) == 2
    assert loss.dark is not None
    assert loss.content.startswith(PNG)
    assert loss.dark.startswith(PNG)


def test_the_same_values_give_the_same_bytes():
    one, two = (boxes("b", "Dice", ["a"], [[0.1, 0.2, 0.7]], 1.0, "c") for _ in range(2))
    assert one == two
