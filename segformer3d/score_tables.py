"""The tables of an evaluation: CSV for programs, and what a terminal shows."""

import csv
import io
import math
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segformer3d.paired import MEAN, spoken_p
from segformer3d.protocols import Protocol
from segformer3d.published_scores import PublishedRow
from segformer3d.report.words import counted
from segformer3d.results import CaseResult, Comparison, Evaluation, SetAside, Stratum, StructureSummary
from segformer3d.statistics import MINIMUM_COUNT, Summary
from segformer3d.strata import SIZE

VOLUMES = ("truth_ml", "predicted_ml")
LESION_COUNTS = ("lesions_found", "lesions_missed", "lesions_invented")


def case_table(cases: Sequence[CaseResult], names: Sequence[str], protocol: Protocol) -> str:
    """`cases.csv`: a row per case and structure, with the protocol's metrics, volumes in ml, and the case's facts."""
    facts = tuple(dict.fromkeys(fact for case in cases for fact, _ in case.facts))
    counts = LESION_COUNTS if protocol.lesions else ()
    header = ("case", "structure", *protocol.metrics, *VOLUMES, *counts, *facts)
    rows = []
    for case in cases:
        known = dict(case.facts)
        columns = zip(names, case.scores, case.truth_ml, case.predicted_ml, strict=True)
        for name, score, truth_ml, predicted_ml in columns:
            numbers = (*(getattr(score, metric) for metric in protocol.metrics), truth_ml, predicted_ml)
            lesions = score.lesions
            counted = (lesions.found, lesions.missed, lesions.invented) if lesions else ()
            cells = (*map(_cell, numbers), *map(str, counted), *(known.get(fact, "") for fact in facts))
            rows.append((case.name, name, *cells))
    return _csv(header, rows)


def set_aside_table(set_aside: Sequence[SetAside]) -> str:
    """`set_aside.csv`: every case that could not be used, and why."""
    return _csv(("case", "reason"), ((case.name, case.reason) for case in set_aside))


def _cell(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.6f}"


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def print_table(evaluation: Evaluation, console: Console) -> None:
    """Print a line per structure and the mean, published rows, the second model, and how many cases were used."""
    console.print(_scores(evaluation))
    if evaluation.published:
        console.print(_published(evaluation))
    if evaluation.comparison is not None:
        console.print(_comparison(evaluation.comparison))
    used = len(evaluation.cases)
    console.print(f"{counted(used, 'case')} used, {len(evaluation.set_aside)} set aside", highlight=False)


def _scores(evaluation: Evaluation) -> Table:
    protocol = evaluation.protocol
    table = Table("structure", title=f"mean over the cases (protocol {protocol.name})")
    lesions = ("lesion Dice", "lesion HD95 (mm)") if protocol.lesions else ()
    for name in ("Dice [95 % interval]", "HD95 (mm)", f"surface Dice ({protocol.tolerance_mm:g} mm)", *lesions):
        table.add_column(name, justify="right")
    for structure in evaluation.structures:
        table.add_row(escape(structure.name), *_cells(structure))
    table.add_section()
    table.add_row("mean", _interval(evaluation.mean_dice))
    return table


def _cells(structure: StructureSummary) -> Iterable[str]:
    yield _interval(structure.dice)
    yield _spoken(structure.hd95_mm, ".2f")
    yield _spoken(structure.surface_dice, ".3f")
    if structure.lesion_dice is not None and structure.lesion_hd95_mm is not None:
        yield _spoken(structure.lesion_dice, ".3f")
        yield _spoken(structure.lesion_hd95_mm, ".2f")


def print_groups(strata: Sequence[Stratum], console: Console) -> None:
    """Print a line per group of cases: those with a fact in common, and the sizes of each structure.

    Where every group is too small for a mean, there is nothing to print.
    """
    if not any(stratum.enough for stratum in strata):
        return
    table = Table(
        "cases by", "group", "of", title=f"Dice of groups (of fewer than {MINIMUM_COUNT}, the interval alone)"
    )
    for name in ("cases", "Dice [95 % interval]"):
        table.add_column(name, justify="right")
    for stratum in strata:
        if stratum.structure == MEAN or stratum.by == SIZE:
            by, group, structure = (escape(text) for text in (stratum.by, stratum.group, stratum.structure))
            table.add_row(by, group, structure, str(stratum.count), _interval(stratum.dice))
    console.print(table)


def _published(evaluation: Evaluation) -> Table:
    why = evaluation.not_comparable
    table = Table(
        "method", title="published mean Dice" + (f"; this model is not comparable: {escape(why)}" if why else "")
    )
    names = [structure.name for structure in evaluation.structures]
    for name in (*names, "mean"):
        table.add_column(escape(name), justify="right")
    ours = [*(structure.dice for structure in evaluation.structures), evaluation.mean_dice]
    table.add_row("this model (measured)", *(_spoken(dice, ".3f") for dice in ours))
    table.add_section()
    for row in evaluation.published:
        table.add_row(f"{row.method} (published)", *_percentages(row, names))
    return table


def _percentages(row: PublishedRow, names: Sequence[str]) -> Iterable[str]:
    for value in (*(row.dice.get(name) for name in names), row.mean_dice):
        yield "-" if value is None else f"{value / 100:.3f}"


def _comparison(comparison: Comparison) -> Table:
    table = Table("structure", "metric", title=f"compared with {escape(comparison.against)} on the same cases")
    for name in ("difference [95 % interval]", "won / lost / tied", "p", "p (Holm)"):
        table.add_column(name, justify="right")
    for paired in comparison.differences:
        counts = f"{paired.wins} / {paired.losses} / {paired.ties}"
        tests = (spoken_p(paired.p_value), spoken_p(paired.p_holm))
        table.add_row(escape(paired.structure), paired.metric, _interval(paired.difference, "+.3f"), counts, *tests)
    return table


def _interval(summary: Summary, digits: str = ".3f") -> str:
    if summary.low is None or summary.high is None:
        return _spoken(summary, digits)
    return f"{_spoken(summary, digits)} [{summary.low:{digits}}, {summary.high:{digits}}]"


def _spoken(summary: Summary, digits: str) -> str:
    excluded = f" ({summary.excluded} undefined)" if summary.excluded else ""
    return ("-" if summary.mean is None else format(summary.mean, digits)) + excluded
