"""Scans that are there twice: in the folder, on both sides of the split, or here and in a folder that is held out."""

from collections.abc import Iterator, Sequence

from segformer3d.data_check.candidates import find_candidates
from segformer3d.data_check.facts import CaseFacts
from segformer3d.data_check.rules import ALIKE, DUPLICATE, HELD_OUT, Finding
from segformer3d.data_check.twins import Twins, compare_scans
from segformer3d.layouts.files import CaseFiles


def find_twins(cases: Sequence[CaseFacts], files: Sequence[CaseFiles], first_of_others: int) -> list[Twins]:
    """Pairs that are one scan or look like it.

    Args:
        cases: those of the folder, and then those of the other folder.
        files: theirs, in the same order.
        first_of_others: where the other folder begins; pairs within it are not looked for.
    """
    found = []
    for candidate in find_candidates(cases, first_of_others):
        reach_mm = max(cases[candidate.one].cell_mm, cases[candidate.other].cell_mm)
        found.append(compare_scans(candidate, files[candidate.one], files[candidate.other], reach_mm))
    return [twins for twins in found if twins is not None]


def check_twins(
    cases: Sequence[CaseFacts], twins: Sequence[Twins], first_of_others: int, validation: set[str]
) -> Iterator[Finding]:
    """What follows from the pairs: the later of two names in the folder is the duplicate."""
    for pair in twins:
        one, other = cases[pair.one], cases[pair.other]
        if pair.other >= first_of_others:
            rule, found = HELD_OUT if pair.same else ALIKE, f"{other.name} of the other folder"
            yield Finding(rule, one.name, f"{_verb(pair)} {found} ({pair.how})")
            continue
        if not pair.same and one.patient == other.patient:
            continue  # two visits
        sides = {name in validation for name in (one.name, other.name)}
        split = "; one is to train on, the other to validate with" if len(sides) == 2 else ""
        found = f"{_verb(pair)} {one.name} ({pair.how}){split}"
        yield Finding(DUPLICATE if pair.same else ALIKE, other.name, found)


def _verb(pair: Twins) -> str:
    return "it is the scan of" if pair.same else "it looks like the scan of"
