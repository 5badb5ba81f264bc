"""Mixed-up contrasts, on made-up brains in four contrasts as one hospital's scanner shows them."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segformer3d.cases import find_cases
from segformer3d.data_check.contrasts import check_contrasts, find_others, find_swapped
from segformer3d.data_check.facts import CaseFacts
from segformer3d.data_check.measure import measure_case
from segformer3d.data_check.outliers import LEAST_CASES
from segformer3d.data_check.profiles import features_of
from segformer3d.task import Task
from segformer3d.tasks import get_task
from simulations.phantoms import write_phantom_site
from tests.segformer3d.data_check.conftest import found, read, write

SITES, CASES = (1, 3), 10


@pytest.fixture(scope="module")
def task() -> Task:
    return get_task("phantom")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two hospitals with scanners of their own, one of which tilts the head."""
    folder = tmp_path_factory.mktemp("phantoms")
    for site in SITES:
        write_phantom_site(folder / str(site), CASES, 3, site, f"site-{site}")
    return {site: folder / str(site) for site in SITES}


@pytest.fixture(scope="module")
def cases(sites: dict[int, Path], task: Task) -> dict[int, list[CaseFacts]]:
    measured = {site: [measure_case(files, task=task) for files in find_cases(sites[site])] for site in SITES}
    return {site: [case for case in facts if isinstance(case, CaseFacts)] for site, facts in measured.items()}


def swapped(case: CaseFacts, one: int, other: int) -> CaseFacts:
    """The facts of the case with two contrasts in each other's place."""
    order = list(range(len(case.channels)))
    order[one], order[other] = other, one
    relations = features_of(case).relations[np.ix_(order, order)]
    pairs = itertools.combinations(range(len(order)), 2)
    return replace(
        case,
        channels=tuple(case.channels[place] for place in order),
        relations=tuple(float(relations[i, j]) for i, j in pairs),
    )


@pytest.mark.parametrize("site", SITES)
def test_sound_cases_are_left_alone(cases: dict[int, list[CaseFacts]], task: Task, site: int) -> None:
    assert len(cases[site]) == CASES
    assert list(check_contrasts(cases[site], task)) == []


def test_cases_of_several_scanners_are_left_alone(cases: dict[int, list[CaseFacts]], task: Task) -> None:
    assert list(check_contrasts([case for site in SITES for case in cases[site]], task)) == []


@pytest.mark.parametrize("pair", list(itertools.combinations(range(4), 2)), ids=str)
def test_two_contrasts_in_each_others_place_are_found(cases: dict[int, list[CaseFacts]], pair: tuple[int, int]) -> None:
    """Nine of ten at least, whichever the case, and never is another case blamed."""
    order = list(range(4))
    order[pair[0]], order[pair[1]] = pair[1], pair[0]
    places = [(site, index) for site, first in zip(SITES, (0, 1), strict=True) for index in range(first, CASES, 3)]
    hits = 0
    for site, index in places:
        changed = [swapped(case, *pair) if n == index else case for n, case in enumerate(cases[site])]
        result = find_swapped([features_of(case) for case in changed])
        assert set(result) <= {index}
        hits += result.get(index) == tuple(order)
    assert hits >= 0.85 * len(places)


def test_a_swapped_file_is_said_in_words(sites: dict[int, Path], task: Task, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sites[1], tmp_path / "data"))
    path = folder / "imagesTr" / "site-1_004.nii.gz"
    write(path, read(path)[..., [3, 1, 2, 0]])
    words = "flair looks like t2, t2 looks like flair"
    assert found(folder, task) == [("swapped-contrasts", "site-1_004", words)]


@pytest.mark.parametrize("pair", list(itertools.permutations(range(4), 2)), ids=str)
def test_a_contrast_in_anothers_place_is_found(
    cases: dict[int, list[CaseFacts]], task: Task, pair: tuple[int, int]
) -> None:
    """Another patient's series of another contrast: no order can mend it. Most are found, and never in another case."""
    hits, places = 0, range(0, CASES, 2)
    for index in places:
        facts = list(cases[1])
        channels = list(facts[index].channels)
        channels[pair[0]] = facts[index - 1].channels[pair[1]]
        facts[index] = replace(facts[index], channels=tuple(channels))
        result = find_others([features_of(case) for case in facts])
        assert set(result) <= {(index, pair[0])}
        hits += result.get((index, pair[0])) == pair[1]
    assert hits >= 0.7 * len(places)


def test_another_contrast_is_said_in_words(cases: dict[int, list[CaseFacts]], task: Task) -> None:
    facts = list(cases[1])
    facts[5] = replace(facts[5], channels=(facts[5].channels[0], facts[4].channels[3], *facts[5].channels[2:]))
    (finding,) = check_contrasts(facts, task)
    assert (finding.rule.name, finding.case) == ("another-contrast", facts[5].name)
    assert finding.found == "t1 looks like t2"


def test_few_cases_tell_nothing(cases: dict[int, list[CaseFacts]], task: Task) -> None:
    few = cases[1][: LEAST_CASES - 1]
    assert list(check_contrasts([swapped(few[0], 0, 3), *few[1:]], task)) == []


def test_structures_that_some_cases_lack_do_not_matter(cases: dict[int, list[CaseFacts]], task: Task) -> None:
    facts = list(cases[1])
    for index in range(4):
        blind = tuple(replace(c, in_structures=(c.in_structures[0], np.nan, np.nan)) for c in facts[index].channels)
        facts[index] = replace(facts[index], channels=blind)
    assert list(check_contrasts(facts, task)) == []
    facts[2] = swapped(facts[2], 1, 3)
    assert [finding.rule.name for finding in check_contrasts(facts, task)] == ["swapped-contrasts"]
