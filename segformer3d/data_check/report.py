"""What the gate found, for people and for programs: a table on the screen, `check.json` and `quarantine.csv`."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segformer3d.data_check.check import Checked
from segformer3d.data_check.facts import CaseFacts
from segformer3d.data_check.rules import Finding, Rule, Severity
from segformer3d.files import write_json
from segformer3d.quarantine import QUARANTINE_FILE, write_quarantine

CHECK_FILE = "check.json"
SHOWN = 5  # findings of one rule on the screen; the file has them all
_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


def write_report(checked: Checked, out: Path) -> None:
    """Write `check.json` and `quarantine.csv`.

    Raises:
        StorageError: they cannot be written.
    """
    write_json(out / CHECK_FILE, to_json(checked))
    write_quarantine(out / QUARANTINE_FILE, checked.quarantine())


def to_json(checked: Checked) -> dict[str, Any]:
    """Everything that was found, as plain JSON values."""
    return {
        "folder": str(checked.folder),
        "task": checked.task.name,
        "looked_at": checked.looked_at,
        "usable": len(checked.usable),
        "quarantined_before": dict(checked.listed),
        "findings": [_finding_json(finding) for finding in checked.findings],
        "cases": [case.to_json() for case in checked.cases],
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    rule = finding.rule
    said = {"case": finding.case, "found": finding.found, "remedy": rule.remedy}
    return {"severity": str(rule.severity), "rule": rule.name, **said}


def print_report(checked: Checked, console: Console) -> None:
    """Say what there is, what is wrong with it, and what to do."""
    console.print(_summary(checked), soft_wrap=True)
    for line in _facts(checked):
        console.print(f"  {line}", soft_wrap=True)
    if not checked.findings:
        console.print("Nothing stands out.")
        return
    table = Table(box=None, pad_edge=False)
    for header in ("", "rule", "case", "found", "what to do"):
        table.add_column(header, overflow="fold")
    for rule, group in itertools.groupby(checked.findings, key=lambda finding: finding.rule):
        for row in _rows(rule, list(group)):
            table.add_row(*row, style=_STYLES[rule.severity] if rule.severity is Severity.NOTE else "")
    console.print(table)


def _rows(rule: Rule, findings: Sequence[Finding]) -> Iterator[tuple[Text, ...]]:
    """One line for each finding, rule and remedy on the first; many findings of a rule are cut short."""
    for number, finding in enumerate(findings[:SHOWN]):
        head = (str(rule.severity), rule.name, rule.remedy) if number == 0 else ("", "", "")
        cells = (head[0], head[1], finding.case or "", finding.found, head[2])
        yield tuple(Text(cell, style=_STYLES[rule.severity] if place < 2 else "") for place, cell in enumerate(cells))
    if len(findings) > SHOWN:
        yield tuple(map(Text, ("", "", "", f"and {len(findings) - SHOWN} more, see {CHECK_FILE}", "")))


def _summary(checked: Checked) -> str:
    warned = {finding.case for finding in checked.having(Severity.WARNING) if finding.case is not None}
    errors = checked.looked_at - len(checked.usable)
    told = f"{checked.looked_at} cases of task {checked.task.name} looked at in {checked.folder}: "
    return told + f"{errors} must not be used, {len(warned)} should be looked at"


def _facts(checked: Checked) -> Iterator[str]:
    """The dataset in a few lines."""
    if not checked.cases:
        return
    spacings = np.array([case.geometry.spacing_mm for case in checked.cases])
    shapes = np.array([case.geometry.shape for case in checked.cases])
    yield f"spacing {_ranges(spacings)} mm, {_ranges(shapes)} voxels"
    for name, volumes in volumes_of(checked.cases):
        if volumes:
            yield f"{name}: {_range(volumes)} ml, median {np.median(volumes):.3g} ml, in {len(volumes)} cases"


def volumes_of(cases: Sequence[CaseFacts]) -> list[tuple[str, list[float]]]:
    """The volumes in ml of each structure, of the cases that have it."""
    labelled = [case.structures for case in cases if case.structures is not None]
    columns = zip(*labelled, strict=True)
    return [(column[0].name, [fact.volume_ml for fact in column if fact.volume_ml > 0]) for column in columns]


def _ranges(values: np.ndarray[Any, Any]) -> str:
    return " x ".join(_range(column) for column in values.T)


def _range(values: Iterable[float]) -> str:
    known = list(values)
    low, high = f"{min(known):.3g}", f"{max(known):.3g}"
    return low if low == high else f"{low}-{high}"
