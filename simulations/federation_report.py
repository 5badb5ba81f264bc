"""The federation's report: what the model is worth, what each hospital gained, and how the federation went.

It holds numbers of sites and nothing of single cases: no name of a case, no picture of a patient. It may leave the run
folder; what shows cases lies in `evaluation/`, with a report of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segformer3d.report.charts import round_charts
from segformer3d.report.citations import FEDERATED_AVERAGING, FLOWER, PRIVATE_TRAINING, how_to_cite
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
    Section,
    Table,
)
from segformer3d.report.score_charts import Line, means
from segformer3d.report.words import NOTHING, counted, fixed, interval, mean_cell, percent
from segformer3d.report.writing import write_report
from segformer3d.results import Evaluation
from segformer3d.tasks import Task
from segformer3d.terminal import plain_bytes, plain_duration
from server.records import mean_dice
from simulations.comparison import Compared, comparison_of, matrix_of
from simulations.gains import gains_of
from simulations.gains_report import gains_section, matrix_section
from simulations.report import Journal, privacy_statement, round_points
from simulations.scenarios import SCENARIOS

LEAVES = "No case is named here and no patient shown: this report may leave the place where it was made."
CASES_STAY = ("What shows cases is in ", Code("evaluation/"), ", and stays where the cases are.")


@dataclass(frozen=True)
class Finished:
    """A federation that has run: its task, its summary, its events, what was measured, and the comparison if asked."""

    task: Task
    summary: Mapping[str, Any]
    journal: Journal
    evaluation: Evaluation
    compared: Compared | None


def _strategy(summary: Mapping[str, Any]) -> str:
    norms = summary["norms"]
    return f"{summary['strategy']}" + (f"; the norms of the model are {norms}" if norms else "")


def write_federation_report(folder: Path, run: Finished) -> Path:
    """Write the report into the run folder, and return its page's path.

    Raises:
        StorageError: the folder cannot be written.
    """
    return write_report(federation_report(run, f"{datetime.now():%Y-%m-%d}"), folder)


def federation_report(run: Finished, date: str) -> Document:
    """The report of a federation that ended on this date (YYYY-MM-DD)."""
    summary, software = run.summary, version("segfed")
    works = (FLOWER, FEDERATED_AVERAGING, *((PRIVATE_TRAINING,) if summary["privacy"] else ()))
    return Document(
        title=f"A federation of {counted(summary['sites'], 'hospital')}: {run.task.name}",
        kind="Federated learning, simulated",
        subtitle=f"{counted(summary['rounds'], 'round')} of federated averaging, finished on {date}",
        blocks=(Note((f"{LEAVES} ", *CASES_STAY)), _headline(run)),
        sections=(
            _model(run),
            *_hospitals(run),
            _rounds(run),
            _sites(run),
            *((_privacy(summary["privacy"]),) if summary["privacy"] else ()),
            _method(run, date),
            how_to_cite(run.task.name, software, works),
        ),
        colophon=f"Written by segfed {software} on {date}. {LEAVES}",
    )


def _headline(run: Finished) -> Headline:
    dice, rivals = run.evaluation.mean_dice, run.summary["compared"]
    alone = [metrics["mean_dice"] for name, metrics in rivals.items() if name != "pooled"]
    more = (Figure("alone, mean of the sites", fixed(sum(alone) / len(alone)), "the same cases"),) if alone else ()
    return Headline(
        (
            Figure("mean Dice, federated", fixed(dice.mean), interval(dice)),
            *more,
            Figure("held-out cases", str(run.summary["cases"]), f"{run.summary['set_aside']} set aside"),
            Figure("took", plain_duration(run.summary["seconds"]), "with all that is measured here"),
        )
    )


def _model(run: Finished) -> Section:
    """The global model, and its rivals if there are some, on cases that no site had."""
    said = Paragraph("Measured on held-out cases, which no site had, each in its own space.")
    columns = (Column("structure", "text"), Column("Dice"), Column("HD95 (mm)"), Column("surface Dice"))
    rows = tuple(
        (s.name, mean_cell(s.dice), mean_cell(s.hd95_mm, 2), mean_cell(s.surface_dice))
        for s in run.evaluation.structures
    )
    mean: tuple[Cell | str, ...] = ("mean", mean_cell(run.evaluation.mean_dice, strong=True), "", "")
    caption = f"Means over {counted(run.summary['cases'], 'held-out case')}"
    table = Table(caption, columns, (*rows, mean), "Below each mean its 95 % interval over the cases.")
    if run.compared is None:
        return Section("The global model", (said, table))
    chart = means(
        "comparison", "Mean Dice on the held-out cases",
        [Line(bar.label, bar.dice) for bar in comparison_of(run.evaluation, run.compared)],
        "Every model had the same budget of samples; lines are 95 % intervals over the cases.",
    )  # fmt: skip
    return Section("The global model", (said, table, Gallery((chart,))))


def _hospitals(run: Finished) -> Iterator[Section]:
    """What each site gained, where that was measured; else why not."""
    if run.compared is not None and run.compared.sites:
        yield gains_section(gains_of(run.compared.ways, run.summary["seed"]))
        honest = run.summary["sites"] - len(run.summary["hostile"])
        yield matrix_section(matrix_of(run.compared, run.summary["seed"]), honest)
        return
    why = _PRIVATE if run.summary["privacy"] else _NOT_COMPARED
    yield Section("What each hospital gained", (Paragraph(why),))


_PRIVATE = (
    "This is not known: in a private run the sites train on all of their cases and keep none to measure on, and "
    "whatever is measured on patients would have to be paid for."
)
_NOT_COMPARED = (
    "This was not measured. With --compare, every site also trains alone, and all models are measured on each site's "
    "own cases."
)


def _rounds(run: Finished) -> Section:
    if run.journal.promises:
        return Section(
            "Round by round", (Paragraph("Losses and scores of a private run's rounds do not leave sites."),)
        )
    return Section("Round by round", (Gallery(round_charts(round_points(run.journal))),))


def _sites(run: Finished) -> Section:
    """What each site brought, and what travelled."""
    last: dict[str, Mapping[str, Any]] = {}
    for record in run.journal.rounds:
        last |= {site["site"]: site for site in record["sites"]}
    rounds = [site["site"] for record in run.journal.rounds for site in record["sites"]]
    private = run.summary["privacy"] is not None
    columns = (
        Column("site", "text"), Column("patients" if private else "training cases"), Column("validation cases"),
        Column("rounds"), Column("final Dice, validation"),
    )  # fmt: skip
    rows = tuple(
        (
            name,
            str(site["cases"]),
            NOTHING if private else str(site["validation_cases"]),
            str(rounds.count(name)),
            fixed(_final_dice(run, name)),
        )
        for name, site in sorted(last.items(), key=lambda item: _natural(item[0]))
    )
    absent = [
        f"{one['site']} (round {record['round']})" for record in run.journal.rounds for one in record["set_aside"]
    ]
    aside = f"Set aside: {', '.join(absent)}." if absent else "No site was set aside in any round."
    said = (Table("Who took part", columns, rows), Paragraph(f"{aside} {_traffic(run)}"))
    return Section("The sites", (*said, *(Note((f"{name} {_HOSTILE}",)) for name in run.summary["hostile"])))


_HOSTILE = (
    "is hostile in this scenario. No model is compared at it, and none that this one is compared with has learnt from "
    "it. Its validation cases count in the curves and in the choice of the best model, since no coordinator could know."
)


def _natural(name: str) -> tuple[str, int]:
    """site-2 before site-10."""
    words, _, number = name.rpartition("-")
    return (words, int(number)) if number.isdigit() else (name, 0)


def _final_dice(run: Finished, site: str) -> float | None:
    report = run.journal.final.sites.get(site)
    return None if report is None else mean_dice(report.dice)


def _traffic(run: Finished) -> str:
    total = run.summary["all_bytes_up"] + run.summary["all_bytes_down"]
    share = run.summary["overhead_share"]
    added = "" if share is None else f" The federation added {percent(share)} to the sites' own computing."
    return (
        f"In one round a site received {plain_bytes(run.summary['bytes_down'])} and sent "
        f"{plain_bytes(run.summary['bytes_up'])}; all messages together were {plain_bytes(total)}.{added}"
    )


def _privacy(privacy: Mapping[str, Any]) -> Section:
    columns = (Column("site", "text"), Column("epsilon spent"), Column("epsilon promised"), Column("delta"))
    rows = tuple(
        (name, fixed(site["spent"]), fixed(site["epsilon"]), f"{site['delta']:g}")
        for name, site in privacy["sites"].items()
    )
    audit = privacy.get("audit")
    attacked = () if audit is None else (Paragraph(_audited(audit)),)
    statement = Paragraph(" ".join(privacy_statement(privacy).replace("`", "").split()))
    return Section("Privacy", (statement, Table("What each patient has spent", columns, rows), *attacked))


def _audited(audit: Mapping[str, Any]) -> str:
    return (
        f"Attacks on promise and model: {audit['verdict']}. They prove an epsilon of at least "
        f"{fixed(audit['epsilon_at_least'], 2)}; telling the model's patients from others has an AUC of "
        f"{fixed(audit['membership_auc'])}, where guessing has 0.5."
    )


def _sites_line(summary: Mapping[str, Any]) -> str:
    if summary["scenario"] is None:
        return f"{summary['sites']}, partition {summary['partition']}"
    return f"{summary['sites']}, scenario {summary['scenario']}: {SCENARIOS[summary['scenario']].summary}"


def _method(run: Finished, date: str) -> Section:
    summary = run.summary
    facts = (
        ("task", f"{run.task.name}: {', '.join(s.name for s in run.task.structures)}"),
        ("sites", _sites_line(summary)),
        ("strategy", _strategy(summary)),
        ("work", f"{counted(summary['rounds'], 'round')} of {counted(summary['local_epochs'], 'local epoch')}"),
        ("protocol", f"{run.evaluation.protocol.name}: {run.evaluation.protocol.sentence}"),
        ("engine", str(summary["engine"])),
        ("seed", str(summary["seed"])),
        ("weights, SHA-256", (Code(summary["weights_sha256"]),)),
        ("segfed", f"{version('segfed')}, {date}"),
    )
    return Section("How it was made", (Facts(facts), Paragraph(run.evaluation.protocol.rules)))
