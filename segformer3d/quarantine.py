"""The quarantine list: cases that nobody may train on or measure with, and why. One CSV file, "case,reason" on top.

It takes effect in two places: as `quarantine.csv` in the dataset folder, where every command finds it, and where a
command or a site file names one, for datasets that cannot be written to. Both hold. A name that no case has does no
harm: one list may serve the folders that a dataset was divided into. The list names patients' files and stays with
them.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segformer3d.errors import DataError
from segformer3d.files import write_csv

if TYPE_CHECKING:
    from segformer3d.layouts.files import CaseFiles

QUARANTINE_FILE = "quarantine.csv"
_COLUMNS = ("case", "reason")
_RULE = "must hold a case and a reason, divided by a comma; a reason that holds a comma stands in quotes"


def read_quarantine(path: Path) -> dict[str, str]:
    """Reasons by case.

    Raises:
        DataError: the file cannot be read, or is no list of cases and reasons.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the quarantine list {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"the quarantine list {path} is no UTF-8 text; save it as CSV in UTF-8") from error
    listed: dict[str, str] = {}
    for number, case, reason in _rows(path, text):
        if case in listed:
            raise DataError(
                f"line {number} of the quarantine list {path} names a case again; each may stand there once"
            )
        listed[case] = reason
    return listed


def _rows(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, case and reason of each entry."""
    # Spreadsheets of many countries separate by semicolons.
    rows = csv.reader(io.StringIO(text), delimiter=";" if text.startswith(";".join(_COLUMNS)) else ",")
    try:
        if tuple(cell.strip() for cell in next(rows, ())) != _COLUMNS:
            raise DataError(f"the quarantine list {path} must begin with the line {','.join(_COLUMNS)}")
        for cells in rows:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(_COLUMNS) or not cells[0].strip():
                    raise DataError(f"line {rows.line_num} of the quarantine list {path} {_RULE}")
                yield rows.line_num, cells[0].strip(), " ".join(cells[1].split()) or "no reason is given"
    except csv.Error as error:
        raise DataError(f"line {rows.line_num} of the quarantine list {path} is no CSV ({error})") from error


def write_quarantine(path: Path, listed: Mapping[str, str]) -> None:
    """Write a list that `read_quarantine` reads, by name.

    Raises:
        StorageError: it cannot be written.
    """
    write_csv(path, _COLUMNS, sorted(listed.items()))


def with_quarantine(cases: "Iterable[CaseFiles]", path: Path | None) -> "tuple[CaseFiles, ...]":
    """The cases, those on the list marked; None is no list.

    Raises:
        DataError: the list cannot be read.
    """
    listed = {} if path is None else read_quarantine(path)
    return tuple(replace(case, quarantined=listed[case.name]) if case.name in listed else case for case in cases)
