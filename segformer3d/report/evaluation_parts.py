"""The sections of an evaluation's report that not every one has: published rows, a rival, strata, calibration."""

from collections.abc import Sequence
from itertools import groupby

from segformer3d.calibration import FLOOR, StructureCalibration
from segformer3d.paired import MEAN, spoken_p
from segformer3d.published_scores import PublishedRow
from segformer3d.report.document import Cell, Code, Column, Gallery, Paragraph, Section, Table
from segformer3d.report.score_charts import Line, differences, reliability_diagram
from segformer3d.report.words import counted, fixed, interval, mean_cell, percent, signed
from segformer3d.results import Comparison, Evaluation, PairedDifference, Stratum
from segformer3d.statistics import MINIMUM_COUNT
from segformer3d.strata import SIZE

METRICS = {
    "dice": "Dice", "hd95_mm": "HD95 (mm)", "surface_dice": "surface Dice",
    "lesion_dice": "lesion Dice", "lesion_hd95_mm": "lesion HD95 (mm)",
}  # fmt: skip
_DIGITS = {"hd95_mm": 2, "lesion_hd95_mm": 2}


def more_sections(evaluation: Evaluation) -> tuple[Section, ...]:
    """Those sections that there is something to say in."""
    rival, rows = evaluation.comparison, evaluation.published
    return (
        *((published(evaluation, rows),) if rows else ()),
        *((against(evaluation, rival),) if rival is not None else ()),
        *((strata(evaluation.strata, evaluation.ungrouped),) if evaluation.strata else ()),
        *((calibration(evaluation.calibration),) if evaluation.calibration else ()),
    )


def published(evaluation: Evaluation, rows: Sequence[PublishedRow]) -> Section:
    """This model beside the rows of published tables, which are marked as such."""
    names = [structure.name for structure in evaluation.structures]
    digits = max(len(str(v).partition(".")[2]) for row in rows for v in (row.mean_dice, *row.dice.values()))
    ours = [summary.mean for summary in (*(s.dice for s in evaluation.structures), evaluation.mean_dice)]
    measured = tuple(Cell(fixed(None if v is None else 100 * v, digits), strong=True) for v in ours)
    columns = (Column("model", "text"), *map(Column, (*names, MEAN)))
    printed = tuple(_published_row(row, names, digits) for row in rows)
    why = evaluation.not_comparable
    said = "The published rows are printed as their papers print them, and were not measured here. "
    said += (
        f"This model is not comparable with them, and the rows show the order of magnitude: {why}." if why else _SAME
    )
    table = Table("Mean Dice in percent", columns, (("this model, measured", *measured), *printed))
    return Section("Beside published models", (Paragraph(said), table))


_SAME = "This model was measured by the same protocol, on exactly the cases that it holds out."


def _published_row(row: PublishedRow, names: Sequence[str], digits: int) -> tuple[Cell | str, ...]:
    values = (*(row.dice.get(name) for name in names), row.mean_dice)
    return (Cell(f"{row.method}, published", row.source), *(fixed(value, digits) for value in values))


def against(evaluation: Evaluation, rival: Comparison) -> Section:
    """This model less another one, case by case."""
    first = rival.differences[0]
    dice = [paired for paired in rival.differences if paired.metric == first.metric]
    chart = differences(
        "differences", "Dice: this model less the other",
        [Line(paired.structure, paired.difference) for paired in dice],
        "The mean difference and its 95 % interval; right of nought this model is better.",
    )  # fmt: skip
    columns = (
        Column("structure", "text"), Column("this"), Column("other"), Column("difference"),
        Column("won / lost / tied"), Column("p"),
    )  # fmt: skip
    rows = tuple(_paired_row(evaluation, rival, paired) for paired in rival.differences)
    table = Table(f"Both models on {counted(len(rival.cases), 'case')}", columns, rows, rival.rules)
    said = Paragraph(("The other model is ", Code(rival.against), f". {_verdict(first)}"))
    return Section("Against another model", (said, Gallery((chart,)), table))


def _verdict(paired: PairedDifference) -> str:
    if paired.p_value is None:
        return f"With fewer than {MINIMUM_COUNT} cases no verdict is given; the intervals say what is known."
    said = f"mean Dice {signed(paired.difference.mean)} ({interval(paired.difference, sign=True)}), p {_p(paired)}"
    low, high = paired.difference.low, paired.difference.high
    if paired.p_value >= _LEVEL or low is None or high is None or low <= 0 <= high:
        return f"No difference is shown: {said}."
    return f"This model is {'better' if low > 0 else 'worse'} on these cases: {said}."


_LEVEL = 0.05


def _p(paired: PairedDifference) -> str:
    said = spoken_p(paired.p_value)
    return said if said.startswith("<") else f"= {said}"


def _paired_row(evaluation: Evaluation, rival: Comparison, paired: PairedDifference) -> tuple[Cell | str, ...]:
    digits = _DIGITS.get(paired.metric, 3)
    sides = (_mean_of(side, paired) for side in (evaluation, rival))
    holm = "" if paired.p_holm is None else f"Holm {spoken_p(paired.p_holm)}"
    return (
        Cell(paired.structure, METRICS[paired.metric]),
        *(fixed(mean, digits) for mean in sides),
        mean_cell(paired.difference, digits, sign=True),
        f"{paired.wins} / {paired.losses} / {paired.ties}",
        Cell(spoken_p(paired.p_value), holm),
    )


def _mean_of(side: Evaluation | Comparison, paired: PairedDifference) -> float | None:
    if paired.structure == MEAN:
        return side.mean_dice.mean
    structure = next(structure for structure in side.structures if structure.name == paired.structure)
    mean: float | None = getattr(structure, paired.metric).mean
    return mean


def strata(groups: Sequence[Stratum], ungrouped: Sequence[str]) -> Section:
    """For whom it is good and for whom not: a table for each thing that cases have in common."""
    tables = [_strata_table(by, list(members)) for by, members in groupby(groups, key=lambda stratum: stratum.by)]
    said = f"Of groups of fewer than {MINIMUM_COUNT} cases only the interval is told, of a single case nothing."
    left_out = tuple(Paragraph(f"Not shown: {fact}.") for fact in ungrouped)
    return Section("For whom", (Paragraph(said), *tables, *left_out))


def _strata_table(by: str, groups: Sequence[Stratum]) -> Table:
    return _sizes_table(groups) if by == SIZE else _groups_table(by, groups)


def _groups_table(by: str, groups: Sequence[Stratum]) -> Table:
    """A row for each group; its first stratum is that of the mean, and the others are those of the structures."""
    rows = []
    for group, members in groupby(groups, key=lambda stratum: stratum.group):
        strata_of_group = list(members)
        count = str(strata_of_group[0].count)
        rows.append((group, count, *(mean_cell(stratum.dice) for stratum in strata_of_group)))
    names = dict.fromkeys(stratum.structure for stratum in groups)
    columns = (Column(by, "text"), Column("cases"), *map(Column, names))
    return Table(f"Dice by {by}", columns, tuple(rows))


def _sizes_table(groups: Sequence[Stratum]) -> Table:
    columns = (
        Column("structure", "text"), Column("size", "text"), Column("cases"), Column("Dice"), Column("HD95 (mm)"),
    )  # fmt: skip
    return Table("By the size of the structure", columns, tuple(_size_row(stratum) for stratum in groups))


def _size_row(stratum: Stratum) -> tuple[Cell | str, ...]:
    volumes = "" if stratum.volume_ml is None else " to ".join(fixed(v, 1) for v in stratum.volume_ml) + " ml"
    distance = "" if stratum.hd95_mm is None else mean_cell(stratum.hd95_mm, 2)
    group = Cell(stratum.group, volumes)
    return (stratum.structure, group, str(stratum.count), mean_cell(stratum.dice), distance)


def calibration(structures: Sequence[StructureCalibration]) -> Section:
    """Whether predicted probabilities mean what they say."""
    columns = (Column("structure", "text"), Column("expected calibration error"), Column("overlooked"))
    rows = tuple((s.name, fixed(s.expected_error), percent(s.overlooked)) for s in structures)
    note = f"Overlooked: the share of the structure's true voxels that were given less than {percent(FLOOR, 0)}."
    said = (
        "Of the voxels that are given 70 %, seven in ten should be in the structure. Below the diagonal the model "
        f"promises more than it keeps. Voxels given less than {percent(FLOOR, 0)} are left out."
    )
    charts = tuple(reliability_diagram(f"reliability-{n}", s) for n, s in enumerate(structures, start=1))
    table = Table("Expected calibration error", columns, rows, note)
    return Section("Calibration", (Paragraph(said), table, Gallery(charts)))
