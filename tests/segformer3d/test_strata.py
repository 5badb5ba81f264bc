"""Oracles: groups worked by hand; files written and refused one by one."""

import math
from pathlib import Path

import pytest

from segformer3d.cases import CaseFiles
from segformer3d.errors import DataError
from segformer3d.metrics import StructureScore
from segformer3d.results import CaseResult
from segformer3d.statistics import not_over_read, summarise
from segformer3d.strata import MOST_GROUPS, read_facts, stratify, ungrouped, with_facts

NAMES = ("tumour", "core")


def case(name, dice, volume, scanner=None):
    facts = () if scanner is None else (("scanner", scanner),)
    scores = (StructureScore(dice, 2.0, dice), StructureScore(1.0, math.nan, 1.0))
    return CaseResult(name, scores, (volume, 0.0), (volume, 0.0), facts)


def chosen(strata, **wanted):
    return [s for s in strata if all(getattr(s, name) == value for name, value in wanted.items())]


def test_cases_are_grouped_by_what_is_known_of_them():
    cases = [case(f"ge{n}", 0.5 + n / 10, 1.0, "GE") for n in range(5)]
    cases += [case("s0", 0.9, 1.0, "Siemens"), case("s1", 0.7, 1.0, "Siemens"), case("u", 0.4, 1.0)]
    strata = chosen(stratify(cases, NAMES, seed=0), by="scanner")
    assert [(s.group, s.structure, s.count) for s in strata if s.structure != "core"] == [
        ("GE", "mean", 5),
        ("GE", "tumour", 5),
        ("Siemens", "mean", 2),
        ("Siemens", "tumour", 2),
        ("not known", "mean", 1),
        ("not known", "tumour", 1),
    ]
    (ge,) = chosen(strata, group="GE", structure="tumour")
    assert (ge.enough, ge.dice.mean, ge.hd95_mm.mean) == (True, pytest.approx(0.7), 2.0)


def test_few_cases_are_not_over_read():
    cases = [case("a", 0.9, 1.0, "GE"), case("b", 0.7, 1.0, "GE"), case("c", 0.4, 1.0, "Siemens")]
    strata = chosen(stratify(cases, NAMES, seed=0), structure="tumour", by="scanner")
    two, one = strata
    assert (two.enough, two.dice.mean, two.dice.low, two.dice.high) == (False, None, 0.7, 0.9)
    assert (one.dice.mean, one.dice.low, one.dice.count) == (None, None, 1)
    assert two.to_json()["dice"]["standard_deviation"] is None
    enough = summarise([0.1, 0.2, 0.3, 0.4, 0.5], seed=0)
    assert not_over_read(enough) == enough


def test_sizes_are_thirds_of_the_cases_that_have_the_structure():
    cases = [case(str(n), n / 10, float(n)) for n in range(10)]  # volumes 0, 1, ..., 9 ml
    by_size = chosen(stratify(cases, NAMES, seed=0), by="size", structure="tumour")
    assert [(s.group, s.count, s.volume_ml) for s in by_size] == [
        ("small", 3, (1.0, 3.0)),
        ("medium", 3, (4.0, 6.0)),
        ("large", 3, (7.0, 9.0)),
        ("absent", 1, (0.0, 0.0)),
    ]
    (absent,) = chosen(stratify(cases, NAMES, seed=0), by="size", structure="core")
    assert (absent.group, absent.count, absent.hd95_mm.excluded) == ("absent", 10, 10)


def test_alike_volumes_are_one_group_and_none_is_lost():
    cases = [case(str(n), 0.5, 2.0) for n in range(6)]
    assert [s.count for s in chosen(stratify(cases, NAMES, seed=0), by="size", structure="tumour")] == [6]


def test_a_fact_that_differs_from_case_to_case_makes_no_groups():
    cases = [case(str(n), 0.5, 1.0, f"scanner {n}") for n in range(MOST_GROUPS + 1)]
    assert not chosen(stratify(cases, NAMES, seed=0), by="scanner")
    assert ungrouped(cases) == ("scanner has 13 different values, and 12 at most make readable groups",)
    assert ungrouped(cases[:MOST_GROUPS]) == ()
    assert chosen(stratify(cases[1:], NAMES, seed=0), by="scanner")


FILES = (CaseFiles("a", (Path("a.nii"),), None, facts=(("site", "north"),)), CaseFiles("b", (Path("b.nii"),), None))


def write(tmp_path, text):
    path = tmp_path / "strata.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_file_adds_facts_to_cases(tmp_path):
    path = write(tmp_path, "\ufeffcase, scanner,field\nb, GE ,\na,Siemens,3 T\nc,GE,1.5 T\n\n")
    a, b = with_facts(FILES, path)
    assert a.facts == (("site", "north"), ("scanner", "Siemens"), ("field", "3 T"))
    assert b.facts == (("scanner", "GE"), ("field", ""))
    assert set(read_facts(path)) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "first line"),
        ("case\na\n", "first line"),
        ("name,scanner\na,GE\n", "first line"),
        ("case,scanner,scanner\na,GE,GE\n", "first line"),
        ("case,,scanner\na,GE,GE\n", "first line"),
        ("case,scanner\na,GE\nb\n", r"row 3 .* has 1 cells"),
        ("case,scanner\na,GE\na,GE\n", "lists case a twice"),
        ("case,scanner\na,GE\n", "no row of case b"),
        ("case,scanner\nc,GE\n", "no row of case a and of 1 more"),
        ("case,site\na,GE\nb,GE\n", "'site' .* is known"),
        ("case,size\na,GE\nb,GE\n", "'size' .* is known"),
        ('case,scanner\n"a,GE\n', "not a CSV file"),
        (b"case,scanner\na,\xff\xfe\n", "not a CSV file"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, text, said):
    with pytest.raises(DataError, match=said) as caught:
        with_facts(FILES, write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "strata.csv" in str(caught.value)


def test_a_missing_file_and_a_folder_are_one_clear_line(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match="cannot read"):
            with_facts(FILES, path)


def test_too_many_values_of_a_column_are_refused(tmp_path):
    files = [CaseFiles(str(n), (Path("x.nii"),), None) for n in range(MOST_GROUPS + 1)]
    path = write(tmp_path, "case,age\n" + "".join(f"{n},{20 + n}\n" for n in range(MOST_GROUPS + 1)))
    with pytest.raises(DataError, match=r"'age' .* 13 different values"):
        with_facts(files, path)
