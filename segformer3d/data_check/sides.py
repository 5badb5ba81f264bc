"""Patients that are on two sides: to train on and to validate with, or here and in a folder that is held out."""

from collections.abc import Iterator, Sequence

from segformer3d.data_check.facts import CaseFacts
from segformer3d.data_check.rules import ALIKE, BOTH_SIDES, HELD_OUT, Finding
from segformer3d.dataset import DEFAULT_VALIDATION_SHARE, split
from segformer3d.layouts.files import CaseFiles


def validation_names(files: Sequence[CaseFiles]) -> set[str]:
    """The cases that a site validates with, as training divides them."""
    return {case.name for case in split(files, DEFAULT_VALIDATION_SHARE)[1]}


def check_sides(cases: Sequence[CaseFacts], validation: set[str]) -> Iterator[Finding]:
    """Patients of whom some cases are to train on and some, those named by `validation`, to validate with."""
    by_patient: dict[str, list[str]] = {}
    for case in cases:
        by_patient.setdefault(case.patient, []).append(case.name)
    for patient, names in by_patient.items():
        kept = [name for name in names if name in validation]
        if 0 < len(kept) < len(names):
            trained = [name for name in names if name not in validation]
            found = f"patient {patient}: {', '.join(trained)} to train on, {', '.join(kept)} to validate with"
            yield Finding(BOTH_SIDES, None, found)


def check_patients(ours: Sequence[tuple[CaseFacts, CaseFiles]], theirs: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Patients of the folder who are in the other folder, too.

    Where nobody says whose a case is, its name stands for the patient, and another hospital may have chosen the same.
    """
    held_out = {case.patient: case.name for case in theirs}
    for case, files in ours:
        if case.patient in held_out:
            rule, what = (ALIKE, "name") if files.patient is None else (HELD_OUT, "patient")
            yield Finding(rule, case.name, f"its {what} is in the other folder ({held_out[case.patient]})")
