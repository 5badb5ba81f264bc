"""What an evaluation has to say to people: how good the model is, on what, and for whom it fails.

The report names cases and shows pictures of patients, and says so at its head: it stays where the data is.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from segformer3d.paired import MEAN
from segformer3d.report.citations import how_to_cite
from segformer3d.report.document import (
    Cell,
    Code,
    Column,
    Document,
    Facts,
    Figure,
    Gallery,
    Headline,
    Note,
    Paragraph,
    Picture,
    Section,
    Table,
    Text,
)
from segformer3d.report.evaluation_parts import METRICS, more_sections
from segformer3d.report.score_charts import boxes
from segformer3d.report.words import NOTHING, counted, fixed, interval, mean_cell
from segformer3d.report.writing import write_report
from segformer3d.results import CaseResult, Evaluation, StructureSummary, by_dice, ranked, spoken_rank
from segformer3d.tasks import Task

WORST_CASES = 10
STAYS = "This report names cases and contains pictures of patients: keep it where the data is."


@dataclass(frozen=True)
class Circumstances:
    """What was measured where, when and how.

    Attributes:
        model: the model's file.
        model_sha256: the digest of that file.
        data: the folder of the cases.
        device: where the model ran.
        mirrored: whether predictions for mirrored copies were averaged.
        seed: of the bootstrap.
        version: of segfed.
        date: the day, as YYYY-MM-DD.
        cases: which of the folder's cases were asked for (`--cases`).
        strata: the file that told groups of cases (`--strata`), if there was one.
        norms: whose the model's norms are, in words, where sites have kept their own (FedBN).
        against_norms: those of the second model, likewise.
    """

    model: str
    model_sha256: str
    data: str
    device: str
    mirrored: bool
    seed: int
    version: str
    date: str
    cases: str = "all"
    strata: str | None = None
    norms: str | None = None
    against_norms: str | None = None

    @classmethod
    def now(
        cls,
        model: Path,
        data: Path,
        device: str,
        *,
        mirrored: bool,
        seed: int,
        cases: str = "all",
        strata: str | None = None,
        norms: str | None = None,
        against_norms: str | None = None,
    ) -> "Circumstances":
        """Of an evaluation that was made just now."""
        with model.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        today = f"{datetime.now():%Y-%m-%d}"
        place = (str(model), digest, str(data), device)
        return cls(*place, mirrored, seed, version("segfed"), today, cases, strata, norms, against_norms)


def write_evaluation_report(evaluation: Evaluation, task: Task, about: Circumstances, folder: Path) -> Path:
    """Write the report on an evaluation into the folder that holds its overlays, and return its page's path.

    Raises:
        StorageError: the folder cannot be written.
    """
    return write_report(evaluation_report(evaluation, task, about, folder), folder)


def evaluation_report(evaluation: Evaluation, task: Task, about: Circumstances, folder: Path) -> Document:
    """The report on an evaluation whose overlays lie in `folder`."""
    used, aside = len(evaluation.cases), len(evaluation.set_aside)
    return Document(
        title=f"Segmentation quality: {task.name}",
        kind="Evaluation of a model",
        subtitle=f"{Path(about.model).name} on {counted(used, 'case')}, measured on {about.date}",
        blocks=(Note(STAYS, "warning"), _headline(evaluation, used, aside)),
        sections=(
            _scores(evaluation),
            _failures(evaluation, folder),
            *more_sections(evaluation),
            _set_aside(evaluation),
            _method(evaluation, task, about),
            how_to_cite(task.name, about.version),
        ),
        colophon=f"Written by segfed {about.version} on {about.date}. {STAYS}",
    )


def _headline(evaluation: Evaluation, used: int, aside: int) -> Headline:
    dice = evaluation.mean_dice
    hd95 = [score.hd95_mm for case in evaluation.cases for score in case.scores if not np.isnan(score.hd95_mm)]
    worst = ranked(evaluation.cases)["worst"]
    return Headline(
        (
            Figure("mean Dice", fixed(dice.mean), interval(dice)),
            Figure("median HD95", f"{np.median(hd95):.1f} mm" if hd95 else NOTHING, "over cases and structures"),
            Figure("worst case", fixed(worst.mean_dice), f"mean Dice of {worst.name}"),
            Figure("cases", str(used), f"{aside} set aside" if aside else "none set aside"),
        )
    )


def _scores(evaluation: Evaluation) -> Section:
    metrics, tolerance = evaluation.protocol.metrics, evaluation.protocol.tolerance_mm
    columns = (Column("structure", "text"), *(Column(METRICS[metric]) for metric in metrics))
    rows = tuple(_score_row(structure, metrics) for structure in evaluation.structures)
    mean: tuple[Cell | str, ...] = (MEAN, mean_cell(evaluation.mean_dice, strong=True), *("" for _ in metrics[1:]))
    note = f"Below each mean its 95 % interval over the cases. Surface Dice at {tolerance:g} mm."
    table = Table(f"Means over {counted(len(evaluation.cases), 'case')}", columns, (*rows, mean), note)
    return Section("Scores", (table, Gallery(tuple(_boxes(evaluation, metric) for metric in metrics))))


def _score_row(structure: StructureSummary, metrics: Sequence[str]) -> tuple[Cell | str, ...]:
    cells = (mean_cell(getattr(structure, metric), 2 if metric.endswith("_mm") else 3) for metric in metrics)
    return (structure.name, *cells)


def _boxes(evaluation: Evaluation, metric: str) -> Picture:
    labels = [structure.name for structure in evaluation.structures]
    columns = [[getattr(case.scores[index], metric) for case in evaluation.cases] for index in range(len(labels))]
    top = None if metric.endswith("_mm") else 1.0
    name = metric.removesuffix("_mm").replace("_", "-")
    return boxes(name, METRICS[metric], labels, columns, top, _EVERY_POINT)


_EVERY_POINT = "Every point is a case; the box holds the middle half, the line in it is the median."


def _failures(evaluation: Evaluation, folder: Path) -> Section:
    order = by_dice(evaluation.cases)[:WORST_CASES]
    structures = [structure.name for structure in evaluation.structures]
    columns = (Column("case", "text"), *(Column(f"Dice {name}") for name in structures), Column("mean"))
    rows = tuple(_worst_row(case) for case in order)
    table = Table(f"The {counted(len(rows), 'case')} with the lowest mean Dice", columns, rows, _WORST_NOTE)
    missed = _missed(evaluation.cases, structures)
    return Section("Where it fails", (Paragraph(missed), table, Gallery(_overlays(evaluation, folder))))


_WORST_NOTE = "Volumes are true and predicted ones; cases.csv has every case and score."


def _worst_row(case: CaseResult) -> tuple[Cell | str, ...]:
    cells = (
        Cell(fixed(score.dice), f"{_volume(truth)} / {_volume(predicted)} ml")
        for score, truth, predicted in zip(case.scores, case.truth_ml, case.predicted_ml, strict=True)
    )
    known = "; ".join(f"{name} {value}" for name, value in case.facts)
    return (Cell(case.name, known), *cells, Cell(fixed(case.mean_dice), strong=True))


def _volume(ml: float) -> str:
    return fixed(ml, 0 if ml >= 100 else 1 if ml >= 10 else 2)


def _missed(cases: Sequence[CaseResult], structures: Sequence[str]) -> str:
    """How often a structure was not found at all, or found where there is none."""
    said = []
    for index, name in enumerate(structures):
        volumes = [(case.truth_ml[index], case.predicted_ml[index]) for case in cases]
        missed = sum(truth > 0 and not predicted for truth, predicted in volumes)
        invented = sum(predicted > 0 and not truth for truth, predicted in volumes)
        if missed or invented:
            said.append(f"{name} was missed in {counted(missed, 'case')} and seen where it is not in {invented}")
    return "; ".join(said) + "." if said else "Every structure was found wherever it is, and nowhere else."


def _overlays(evaluation: Evaluation, folder: Path) -> tuple[Picture, ...]:
    return tuple(_overlay(rank, case, folder) for rank, case in reversed(ranked(evaluation.cases).items()))


def _overlay(rank: str, case: CaseResult, folder: Path) -> Picture:
    called = f"The {spoken_rank(rank)} case"
    return Picture(
        f"overlay-{rank}",
        (folder / f"overlay-{rank}.png").read_bytes(),
        f"{called} in three planes with the outlines of truth and prediction",
        f"{called}, {case.name}: mean Dice {fixed(case.mean_dice)}. Truth solid, prediction dashed.",
    )


def _set_aside(evaluation: Evaluation) -> Section:
    if not evaluation.set_aside:
        return Section("Set aside", (Paragraph("Nothing was set aside: every case could be used."),))
    rows = tuple((item.name, item.reason) for item in evaluation.set_aside)
    columns = (Column("case", "text"), Column("why", "text"))
    said = Paragraph("These cases could not be used, and count in none of the numbers.")
    return Section("Set aside", (said, Table(f"{counted(len(rows), 'case')} set aside", columns, rows)))


def _method(evaluation: Evaluation, task: Task, about: Circumstances) -> Section:
    grid = "each image's own" if task.spacing is None else " × ".join(f"{side:g}" for side in task.spacing) + " mm"
    protocol = evaluation.protocol
    facts: tuple[tuple[str, Text], ...] = (
        ("protocol", f"{protocol.name}: {protocol.sentence} {protocol.citation}."),
        ("task", f"{task.name}: {', '.join(s.name for s in task.structures)} in {', '.join(task.modalities)}"),
        ("model", (Code(about.model),)),
        ("SHA-256 of the file", (Code(about.model_sha256),)),
        *((("norms of the model", about.norms),) if about.norms is not None else ()),
        *((("norms of the second model", about.against_norms),) if about.against_norms is not None else ()),
        ("data", (Code(about.data),)),
        ("cases", _which_cases(evaluation, about)),
        *((("groups of cases", (Code(about.strata),)),) if about.strata is not None else ()),
        ("space", f"scored on each image's own grid; the model's grid is {grid}"),
        ("mirrored copies", "averaged" if about.mirrored else "not used"),
        ("device", about.device),
        ("seed of the bootstrap", str(about.seed)),
        ("segfed", f"{about.version}, {about.date}"),
    )
    return Section("How it was measured", (Facts(facts), Paragraph(protocol.rules)))


def _which_cases(evaluation: Evaluation, about: Circumstances) -> str:
    used = f"{about.cases} (--cases): {len(evaluation.cases)} used, {len(evaluation.set_aside)} set aside"
    return used if evaluation.published_cases is None else f"{used}; {evaluation.published_cases}"
