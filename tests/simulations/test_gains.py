"""Oracles: differences and exact p-values worked by hand (all of n pairs in one direction: 2 / 2^n)."""

import math
from pathlib import Path

import pytest

from segformer3d.report.words import NOTHING
from simulations.comparison import Compared, rivals_of
from simulations.gains import ALONE, MATRIX_SITES, cross_site, gains_of
from simulations.gains_report import matrix_section


def cases(count: int, dice: float, *, spread: float = 0.0) -> dict[str, float]:
    return {f"case-{number}": dice + spread * number for number in range(count)}


def only_gain(alone: dict[str, float], federated: dict[str, float]):
    (site,) = gains_of({ALONE: {"a": alone}, "federated": {"a": federated}}, seed=0)
    (gain,) = site.gains
    return site, gain


def test_the_gain_is_paired_by_case_whatever_the_order():
    alone = cases(6, 0.5, spread=0.05)
    federated = {name: dice + 0.1 for name, dice in reversed(alone.items())}
    site, gain = only_gain(alone, federated)
    assert site.cases == 6
    assert gain.difference.difference.mean == pytest.approx(0.1)
    assert (gain.difference.difference.low, gain.difference.difference.high) == pytest.approx((0.1, 0.1))
    assert gain.difference.p_value == pytest.approx(2 / 2**6)
    assert gain.dice.mean == pytest.approx(0.5 + 0.05 * 2.5 + 0.1)
    assert gain.verdict == "gained"


def test_a_loss_is_called_one():
    _, gain = only_gain(cases(8, 0.5), cases(8, 0.4))
    assert gain.verdict == "lost"


def test_five_cases_in_one_direction_prove_nothing_yet():
    """The interval is without nought, but p is 2 / 2^5 = 0.0625."""
    _, gain = only_gain(cases(5, 0.5), cases(5, 0.6))
    assert gain.difference.p_value == pytest.approx(0.0625)
    assert gain.verdict == "no difference shown"


def test_equal_models_show_no_difference():
    _, gain = only_gain(cases(9, 0.5), cases(9, 0.5))
    assert gain.difference.p_value == 1.0
    assert gain.verdict == "no difference shown"


def test_a_case_whose_label_tells_nothing_is_no_case():
    site, gain = only_gain({**cases(6, 0.5), "none": math.nan}, {**cases(6, 0.6), "none": math.nan})
    assert site.cases == site.alone.count == gain.difference.difference.count == 6
    assert gain.verdict == "gained"


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_small_cohorts_are_not_over_read(count):
    site, gain = only_gain(cases(count, 0.5, spread=0.1), cases(count, 0.7, spread=0.05))
    assert gain.verdict == "too few cases"
    assert gain.difference.p_value is None
    assert site.alone.mean is gain.dice.mean is None
    assert (gain.dice.low is None) == (count < 2)
    told = site.to_json()
    assert told["cases"] == count
    gained = told["against_alone"]["federated"]
    assert gained["verdict"] == "too few cases"
    for summary in (told["alone"], gained["mean_dice"], gained["difference"]):
        assert summary["count"] == count
        assert summary["mean"] is summary["standard_deviation"] is None
        assert (summary["low"] is None) == (count < 2)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_matrix_does_not_over_read_either(count):
    """In the JSON, the table and the heat map alike."""
    few, enough = cases(count, 0.5, spread=0.1), cases(5, 0.75)
    matrix = cross_site({"a": {"a": few, "b": enough}, "b": {"a": few, "b": enough}}, ["a", "b"], seed=0)
    for row in matrix.to_json()["mean_dice"]:
        assert (row[0]["count"], row[0]["mean"], row[1]["mean"]) == (count, None, pytest.approx(0.75))
        assert (row[0]["low"] is None) == (count < 2)
    _, gallery, table = matrix_section(matrix, 2).blocks
    assert all(cells[1].text == NOTHING for cells in table.rows)
    assert len(gallery.pictures) == 1


def test_any_way_of_training_is_compared_with_alone():
    """A personalised model is another one at each site, as alone is."""
    sites = {"a": cases(6, 0.5), "b": cases(7, 0.6)}
    better = {site: {name: dice + 0.2 for name, dice in scores.items()} for site, scores in sites.items()}
    found = gains_of({ALONE: sites, "federated": sites, "personalised": better}, seed=0)
    assert [(site.site, [gain.way for gain in site.gains]) for site in found] == [
        ("a", ["federated", "personalised"]),
        ("b", ["federated", "personalised"]),
    ]
    assert [gain.verdict for gain in found[1].gains] == ["no difference shown", "gained"]


def test_the_models_of_single_sites_are_one_way():
    scores = {"x": 0.5}
    everywhere = {"site-1": scores, "site-2": {"y": 0.25}}
    other = {"site-1": {"x": 0.75}, "site-2": {"y": 1.0}}
    compared = Compared({}, {"pooled": everywhere, "site-1": everywhere, "site-2": other, "federated": other})
    assert compared.ways == {
        ALONE: {"site-1": {"x": 0.5}, "site-2": {"y": 1.0}},
        "federated": other,
        "pooled": everywhere,
    }


def test_the_matrix_has_a_row_for_each_model_and_a_column_for_each_site():
    models = {
        "a": {"a": cases(5, 0.25, spread=0.25), "b": cases(6, 0.25)},
        "b": {"a": cases(5, 0.05, spread=0.1), "b": cases(6, 0.75)},
    }
    matrix = cross_site({**models, "elsewhere": {"b": cases(6, 0.1)}}, ["a", "b"], seed=0)
    assert matrix.models == ("a", "b")
    assert [[cell.mean for cell in row] for row in matrix.dice] == [
        pytest.approx([0.75, 0.25]),
        pytest.approx([0.25, 0.75]),
    ]
    assert matrix.to_json()["mean_dice"][0][0]["count"] == 5


def test_of_many_sites_only_the_first_see_each_others_models(tmp_path):
    sites = [tmp_path / f"site-{number}" for number in range(1, 14)]
    rivals = {rival.name: rival for rival in rivals_of(sites, tmp_path / "out", tmp_path / "last", kept=True)}
    assert rivals["pooled"].measured_at == rivals["federated"].measured_at == tuple(sites)
    assert rivals["site-10"].measured_at == tuple(sites[:MATRIX_SITES])
    assert rivals["site-11"].measured_at == (sites[10],)
    measurements = sum(len(rival.measured_at) for rival in rivals.values())
    assert measurements == MATRIX_SITES**2 + 3 + 2 * 13


def test_where_sites_keep_no_case_nothing_is_measured_there():
    rivals = rivals_of([Path("site-1"), Path("site-2")], Path("out"), Path("last"), kept=False)
    assert [rival.name for rival in rivals] == ["pooled", "site-1", "site-2"]
    assert {rival.measured_at for rival in rivals} == {()}


def test_personal_models_are_one_way_each_at_its_own_site() -> None:
    sites = {
        "site-1": {"site-1": {"a": 0.5}, "site-2": {"b": 0.4}},
        "site-2": {"site-2": {"b": 0.6}},
        "federated": {"site-1": {"a": 0.7}, "site-2": {"b": 0.7}},
        "pooled": {"site-1": {"a": 0.8}, "site-2": {"b": 0.8}},
        "personal site-1": {"site-1": {"a": 0.75}},
        "personal site-2": {"site-2": {"b": 0.72}},
    }
    ways = Compared({}, sites).ways
    assert list(ways) == ["alone", "federated", "pooled", "personal"]
    assert ways["personal"] == {"site-1": {"a": 0.75}, "site-2": {"b": 0.72}}
    assert ways["alone"] == {"site-1": {"a": 0.5}, "site-2": {"b": 0.6}}
    without = {name: scores for name, scores in sites.items() if not name.startswith("personal")}
    assert "personal" not in Compared({}, without).ways
