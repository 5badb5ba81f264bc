"""Scans that are there twice: in the folder, on both sides of the split, or here and in a folder that is held out."""

import itertools
from collections.abc import Iterator, Sequence

from segformer3d.data_check.candidates import find_candidates
from segformer3d.data_check.facts import CaseFacts
from segformer3d.data_check.rules import ALIKE, DUPLICATE, HELD_OUT, Finding
from segformer3d.data_check.twins import Twins, compare_scans
from segformer3d.layouts.files import CaseFiles


def find_twins(cases: Sequence[tuple[CaseFacts, CaseFiles]], first_of_others: int) -> list[Twins]:
    """Pairs that are one scan or look like it.

    Args:
        cases: those of the folder, and then those of the other folder.
        first_of_others: where the other folder begins; pairs within it are not looked for.
    """
    found = []
    for candidate in find_candidates([facts for facts, _ in cases], first_of_others):
        (one, its_files), (other, others_files) = cases[candidate.one], cases[candidate.other]
        found.append(compare_scans(candidate, its_files, others_files, max(one.cell_mm, other.cell_mm)))
    return [twins for twins in found if twins is not None]


def check_twins(
    cases: Sequence[CaseFacts], twins: Sequence[Twins], first_of_others: int, validation: set[str]
) -> Iterator[Finding]:
    """What follows from the pairs, once for each case: the later of two names in the folder is the duplicate.

    `validation` are the names of the cases that are validated with.
    """
    here = [pair for pair in twins if pair.other < first_of_others]
    for pair in twins:
        if pair.other >= first_of_others:
            found = f"{_verb(pair)} {cases[pair.other].name} of the other folder ({pair.how})"
            yield Finding(HELD_OUT if pair.same else ALIKE, cases[pair.one].name, found)
    for other, group in itertools.groupby(sorted(here, key=lambda pair: (pair.other, not pair.same)), key=_other):
        pairs = list(group)
        first, name = pairs[0], cases[other].name
        if not first.same and cases[first.one].patient == cases[other].patient:
            continue  # two visits
        sides = {cases[index].name in validation for index in (other, *(pair.one for pair in pairs if pair.same))}
        split = "; one is to train on, the other to validate with" if len(sides) == 2 else ""
        found = f"{_verb(first)} {cases[first.one].name} ({first.how}){split}"
        yield Finding(DUPLICATE if first.same else ALIKE, name, found)


def _other(pair: Twins) -> int:
    return pair.other


def _verb(pair: Twins) -> str:
    return "it is the scan of" if pair.same else "it looks like the scan of"
