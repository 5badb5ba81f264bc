r"""Which cases belong to one patient: the unit of privacy, of partitions and of splits.

A patient with two visits has two cases. The dataset may say whose a case is ("patient" in `dataset.json`, the folders
of ACDC, the names of BraTS 2023 and of Decathlon's hippocampi, the subjects of BIDS); else a pattern finds the patient
in the case's name ("scan-17-visit-2" with `scan-\d+`); else every case is a patient of its own.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from segformer3d.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from segformer3d.cases import CaseFiles
    from segformer3d.dataset import PreparedCase


@dataclass(frozen=True)
class Patient:
    """One patient and all of his or her cases, by name. The name never travels."""

    name: str
    cases: "tuple[PreparedCase, ...]"


def plain_id(patient: str) -> str:
    """An id as it is compared: P01 and p01 are one patient, and so are the two ways to encode an umlaut."""
    return unicodedata.normalize("NFKC", patient).casefold().strip()


def check_pattern(pattern: str) -> None:
    """See that a pattern is a regular expression.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(f"patient_pattern {pattern!r} is no regular expression: {error}") from error


def patients_of(cases: "Sequence[PreparedCase]", pattern: str | None = None) -> tuple[Patient, ...]:
    """Cases by patient, patients by name.

    Args:
        cases: of one site.
        pattern: what of a case's name is the patient: the pattern's first group, or all that it matches.

    Raises:
        ConfigurationError: the pattern is no regular expression.
        DataError: a case's name does not match it, so that its patient is not known.
    """
    if pattern is not None:
        check_pattern(pattern)
    found: dict[str, list[PreparedCase]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        found.setdefault(patient_of(case, pattern), []).append(case)
    return tuple(Patient(name, tuple(found[name])) for name in sorted(found))


def with_patients(cases: "Sequence[CaseFiles]", pattern: str | None) -> "tuple[CaseFiles, ...]":
    """The cases, each with its patient where the dataset or the pattern tells; without either, unchanged.

    Raises:
        ConfigurationError: the pattern is no regular expression.
        DataError: a case's name does not match it.
    """
    if pattern is None:
        return tuple(cases)
    check_pattern(pattern)
    return tuple(replace(case, patient=patient_of(case, pattern)) for case in cases)


def patient_of(case: "PreparedCase | CaseFiles", pattern: str | None = None) -> str:
    """Whose a case is.

    Raises:
        DataError: its name does not match the pattern.
    """
    if case.patient is not None or pattern is None:
        return case.patient or case.name
    match = re.search(pattern, case.name)
    if match is None:
        raise DataError(
            f"the name of a case does not match patient_pattern {pattern!r}, so its patient is not known; "
            'correct the pattern, or name the "patient" of every case in dataset.json'
        )
    return str(match.group(1) or match.group()) if match.re.groups else match.group()
