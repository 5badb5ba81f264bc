"""For whom does the model fail? Scores of groups of cases: by site, scanner or whatever is known, and by lesion size.

Facts come with the cases (`CaseFiles.facts`), or from a CSV file with a column `case` and one more for each fact. Sizes
are the terciles of each structure's true volume among the cases that have it. Promises: a group of few cases is not
over-read (`segformer3d.statistics.MINIMUM_COUNT`), and what is not known of a case puts it under "not known".
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segformer3d.cases import CaseFiles
from segformer3d.errors import DataError
from segformer3d.paired import MEAN
from segformer3d.results import CaseResult, Facts, Stratum
from segformer3d.statistics import not_over_read, summarise

NOT_KNOWN = "not known"
MOST_GROUPS = 12  # of one fact; ages and dates are to be put into ranges first
SIZE, SIZES, ABSENT = "size", ("small", "medium", "large"), "absent"


def stratify(cases: Sequence[CaseResult], names: Sequence[str], seed: int) -> tuple[Stratum, ...]:
    """The scores of every group of cases, fact by fact, then by the size of each structure.

    Args:
        cases: the scores of every case.
        names: the structures.
        seed: of the bootstrap.
    """
    return (*_by_facts(cases, names, seed), *_by_sizes(cases, names, seed))


def ungrouped(cases: Sequence[CaseResult]) -> tuple[str, ...]:
    """Facts of the cases that make too many groups to be read, in words; `stratify` leaves them out."""
    counts = {fact: len(set(values)) for fact, values in _facts(cases).items()}
    return tuple(
        f"{fact} has {count} different values, and {MOST_GROUPS} at most make readable groups"
        for fact, count in counts.items()
        if count > MOST_GROUPS
    )


def _facts(cases: Sequence[CaseResult]) -> dict[str, list[str]]:
    """Each fact that is known of some case, with its value for every case."""
    facts = dict.fromkeys(name for case in cases for name, _ in case.facts)
    return {fact: [dict(case.facts).get(fact, "") or NOT_KNOWN for case in cases] for fact in facts}


def _by_facts(cases: Sequence[CaseResult], names: Sequence[str], seed: int) -> Iterator[Stratum]:
    for fact, values in _facts(cases).items():
        if len(set(values)) > MOST_GROUPS:
            continue
        for value in sorted(set(values), key=lambda value: (value == NOT_KNOWN, value)):
            group = [case for case, own in zip(cases, values, strict=True) if own == value]
            dice = not_over_read(summarise((case.mean_dice for case in group), seed))
            yield Stratum(fact, value, MEAN, len(group), dice)
            for index, name in enumerate(names):
                yield _stratum(fact, value, name, index, group, seed)


def _by_sizes(cases: Sequence[CaseResult], names: Sequence[str], seed: int) -> Iterator[Stratum]:
    for index, name in enumerate(names):
        groups: dict[str, list[CaseResult]] = {size: [] for size in (*SIZES, ABSENT)}
        size_of = _sizes([case.truth_ml[index] for case in cases])
        for case in cases:
            groups[size_of(case.truth_ml[index])].append(case)
        for size, group in groups.items():
            if group:
                volumes = [case.truth_ml[index] for case in group]
                stratum = _stratum(SIZE, size, name, index, group, seed)
                yield replace(stratum, volume_ml=(min(volumes), max(volumes)))


def _sizes(volumes_ml: Sequence[float]) -> Callable[[float], str]:
    """Which third of the volumes above 0 a volume is in."""
    present = [volume for volume in volumes_ml if volume > 0]
    bounds = np.quantile(present, (1 / 3, 2 / 3)) if present else np.zeros(2)
    return lambda volume: SIZES[int(np.searchsorted(bounds, volume))] if volume > 0 else ABSENT


def _stratum(by: str, group: str, name: str, index: int, cases: Sequence[CaseResult], seed: int) -> Stratum:
    scores = [case.scores[index] for case in cases]
    dice = not_over_read(summarise((score.dice for score in scores), seed))
    distance = not_over_read(summarise((score.hd95_mm for score in scores), seed))
    return Stratum(by, group, name, len(cases), dice, distance)


def with_facts(cases: Sequence[CaseFiles], path: Path) -> tuple[CaseFiles, ...]:
    """The cases with what a CSV file says of each; it has a column `case`, and every other column is a fact.

    Raises:
        DataError: the file cannot be read, is not such a table, or misses a case.
    """
    facts = read_facts(path)
    missing = [case.name for case in cases if case.name not in facts]
    if missing:
        rest = f" and of {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{path} has no row of case {missing[0]}{rest}; add it, with empty cells for what is not known")
    _check_groups(path, [facts[case.name] for case in cases])
    _check_new(path, cases, facts)
    return tuple(replace(case, facts=(*case.facts, *facts[case.name])) for case in cases)


def read_facts(path: Path) -> dict[str, Facts]:
    """The facts of a CSV file by case.

    Raises:
        DataError: the file cannot be read, or is not a table with a column `case` and others.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; --strata takes a CSV file") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error})") from error
    return _parse(path, rows)


def _parse(path: Path, rows: Sequence[Sequence[str]]) -> dict[str, Facts]:
    header = [name.strip() for name in rows[0]] if rows else []
    if header[:1] != ["case"] or len(header) < 2 or "" in header or len(set(header)) < len(header):
        raise DataError(f"the first line of {path} must be case,NAME,... with a different name for each column")
    facts: dict[str, Facts] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(f"row {number} of {path} has {len(row)} cells; the first line has {len(header)}")
        name, *values = (cell.strip() for cell in row)
        if name in facts:
            raise DataError(f"{path} lists case {name} twice")
        facts[name] = tuple(zip(header[1:], values, strict=True))
    return facts


def _check_groups(path: Path, facts: Sequence[Facts]) -> None:
    for column in zip(*facts, strict=True):
        different = {value for _, value in column}
        if len(different) > MOST_GROUPS:
            raise DataError(
                f"column {column[0][0]!r} of {path} has {len(different)} different values, and {MOST_GROUPS} at most "
                "make readable groups; put numbers and dates into ranges"
            )


def _check_new(path: Path, cases: Sequence[CaseFiles], facts: Mapping[str, Facts]) -> None:
    known = {name for case in cases for name, _ in case.facts} | {SIZE}
    told = {name for case in cases for name, _ in facts[case.name]}
    if known & told:
        raise DataError(f"column {min(known & told)!r} of {path} is known of the cases already; give it another name")
