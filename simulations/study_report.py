"""The table and the figure of a study: what each combination is worth, what it costs, and how it compares."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from client.exchange.settings import named_exchange
from segformer3d.figures import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, to_png
from segformer3d.files import write_bytes, write_json, write_text
from segformer3d.terminal import plain_bytes, plain_duration
from server.federation import norms_kept
from simulations.outcomes import POOLED, Outcome
from simulations.study import Study, variant_name

TITLE = "Mean Dice on held-out cases"
TARGET_SHARE = 0.98  # of the best final validation Dice: what a model must reach to be called usable
_COLOURS = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)
_MARKS = "osD^vP*X"
_HEADER = ("trained", "mean Dice", "worst site", "to the target: up", "down", "rounds", "time")


@dataclass(frozen=True)
class Spread:
    """Mean and 95 % interval (Student's t) of a score over seeds; one seed has no interval."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return self.text(".3f")

    def text(self, form: str) -> str:
        """The numbers in a format of Python's."""
        if self.low is None or self.high is None:
            return f"{self.mean:{form}}"
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class Gain:
    """What one combination gains on the first one, seed by seed: both have the same sites, cases and first weights.

    Attributes:
        label: of the combination.
        dice: the gain in mean Dice on the held-out cases.
        worst: of the site that is served worst; None where it was not measured.
    """

    label: str
    dice: Spread
    worst: Spread | None


@dataclass(frozen=True)
class Line:
    """One combination over all seeds.

    Attributes:
        label: of the combination.
        dice: on the held-out cases.
        worst: of the site that is served worst; None where no site could measure any.
        bytes_up, bytes_down: what all sites had sent and received when the target was reached, and `rounds` when: means
            over the seeds that reached it; None where not all did.
        seconds: mean of a run; None for pooled training.
    """

    label: str
    dice: Spread
    worst: Spread | None
    bytes_up: float | None
    bytes_down: float | None
    rounds: float | None
    seconds: float | None


def write_study_report(console: Console, study: Study, outcomes: Sequence[Outcome], folder: Path) -> None:
    """Print the table; write `study.md`, `study.png` and `outcomes.json`.

    Raises:
        StorageError: one cannot be written.
    """
    targets = targets_of(outcomes)
    lines = lines_of(outcomes, targets)
    gains = gains_of(outcomes)
    told = {"target_dice": targets, "seeds": list(study.seeds), "lines": [asdict(line) for line in lines]}
    told |= {"gains": [asdict(gain) for gain in gains]}
    write_json(folder / "outcomes.json", {**told, "runs": [asdict(outcome) for outcome in outcomes]})
    notes = _notes(study, targets, [number for outcome in outcomes for number in outcome.kept if number])
    _draw(lines, outcomes, folder / "study.png")
    tables = _tables(lines, gains)
    write_text(folder / "study.md", _markdown(tables, notes))
    for title, rows in tables.items():
        console.print(_for_screen(title, rows))
    for note in notes:
        console.print(note, soft_wrap=True, highlight=False)
    console.print(f"Everything is in {folder} (study.md, study.png, outcomes.json; runs/ has each run)", soft_wrap=True)


def targets_of(outcomes: Sequence[Outcome]) -> dict[int, float]:
    """The validation Dice that bytes and rounds are counted up to, by seed: seeds deal other validation cases.

    A seed of which no run has measured any has none.
    """
    best: dict[int, float] = {}
    for outcome in outcomes:
        final = outcome.curve[-1][2] if outcome.curve else None
        if final is not None:
            best[outcome.seed] = max(final, best.get(outcome.seed, final))
    return {seed: TARGET_SHARE * dice for seed, dice in best.items()}


def lines_of(outcomes: Sequence[Outcome], targets: Mapping[int, float]) -> list[Line]:
    """One line a combination, in the order of the outcomes, pooled training last."""
    labels = dict.fromkeys(outcome.label for outcome in outcomes)
    return [_line(label, [o for o in outcomes if o.label == label], targets) for label in labels]


def gains_of(outcomes: Sequence[Outcome]) -> list[Gain]:
    """What each other combination, and pooled training, gains on the first one over the seeds that both have."""
    first, *others = dict.fromkeys(outcome.label for outcome in outcomes)
    base = {outcome.seed: outcome for outcome in outcomes if outcome.label == first}
    found = []
    for label in others:
        pairs = [(o, base[o.seed]) for o in outcomes if o.label == label and o.seed in base]
        worst = [o.worst - b.worst for o, b in pairs if o.worst is not None and b.worst is not None]
        if pairs:
            found.append(
                Gain(label, spread_of([o.dice - b.dice for o, b in pairs]), spread_of(worst) if worst else None)
            )
    return found


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and interval over seeds."""
    mean = fmean(values)
    if len(values) < 2:
        return Spread(mean, None, None)
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Spread(mean, mean - half, mean + half)


def reached(outcome: Outcome, target: float | None) -> tuple[int, int, int] | None:
    """Bytes up, bytes down and rounds until a run's validation Dice first reached the target; None where it did not."""
    for number, (up, down, dice) in enumerate(outcome.curve, start=1):
        if target is not None and dice is not None and dice >= target:
            return up, down, number
    return None


def _line(label: str, outcomes: Sequence[Outcome], targets: Mapping[int, float]) -> Line:
    worst = [outcome.worst for outcome in outcomes if outcome.worst is not None]
    found = [reached(outcome, targets.get(outcome.seed)) for outcome in outcomes]
    complete = [values for values in found if values is not None]
    up, down, rounds = (
        (fmean(column) for column in zip(*complete, strict=True)) if len(complete) == len(found) else (None, None, None)
    )
    seconds = [outcome.seconds for outcome in outcomes if outcome.seconds is not None]
    return Line(
        label,
        spread_of([outcome.dice for outcome in outcomes]),
        spread_of(worst) if worst else None,
        up,
        down,
        rounds,
        fmean(seconds) if seconds else None,
    )


def _cells(line: Line) -> tuple[str, ...]:
    sizes = [("–" if value is None else plain_bytes(round(value))) for value in (line.bytes_up, line.bytes_down)]
    rounds = "–" if line.rounds is None else f"{line.rounds:.0f}"
    time = "–" if line.seconds is None else plain_duration(line.seconds)
    return (line.label, str(line.dice), "–" if line.worst is None else str(line.worst), *sizes, rounds, time)


def _tables(lines: Sequence[Line], gains: Sequence[Gain]) -> dict[str, list[tuple[str, ...]]]:
    """Rows of each table by its title, the first row being its head."""
    tables = {TITLE: [_HEADER, *map(_cells, lines)]}
    if gains:
        tables[f"Gain on {lines[0].label}, seed by seed"] = [_HEADER[:3], *map(_gain_cells, gains)]
    return tables


def _gain_cells(gain: Gain) -> tuple[str, ...]:
    return gain.label, gain.dice.text("+.3f"), "–" if gain.worst is None else gain.worst.text("+.3f")


def _for_screen(title: str, rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if number else "left")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _markdown(tables: Mapping[str, Sequence[tuple[str, ...]]], notes: Sequence[str]) -> str:
    sections = "".join(f"## {title}\n\n{_markdown_rows(rows)}\n\n" for title, rows in tables.items())
    told = "".join(f"- {note}\n" for note in notes)
    return f"{sections.removeprefix('#')}{told}\n![Dice against bytes](study.png)\n"


def _markdown_rows(rows: Sequence[tuple[str, ...]]) -> str:
    ruled = [rows[0], ("---", *["---:"] * (len(rows[0]) - 1)), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def _notes(study: Study, targets: Mapping[int, float], kept: Sequence[int]) -> list[str]:
    """What a reader of the table must know: how it was measured, and of which model."""
    seeds = ", ".join(map(str, study.seeds))
    several = "; intervals are 95 % (Student's t) over the seeds" if len(study.seeds) > 1 else ""
    told = [f"Seeds: {seeds}{several}.", _worst_note(kept), *_hostile_note(study)]
    if study.sharing.runs > 1:
        told.append(f"Times are those of runs that share a machine, {study.sharing.runs} at once.")
    if targets:
        reach = ", ".join(f"{dice:.3f} (seed {seed})" for seed, dice in targets.items())
        told.append(
            f"Bytes and rounds of all sites until their mean validation Dice first reached the target: {reach}."
        )
    for name, strategy in ((variant_name(each), each) for each in study.strategies):
        if strategy.rule.personal:
            told.append(f"{name}: the worst site is by the sites' personal models; all else is of the global model.")
        if strategy.rule.local_norms:
            told.append(f"{name}: the norms of the model are {norms_kept(strategy)}.")
            told.append(f"{name}: worst site and target are by the sites' own norms; held-out cases by the model's.")
    lossy = [name for name in study.exchanges if not named_exchange(name).plain]
    if lossy:
        told.append(f"{', '.join(lossy)}: sites measure the model that arrives; held-out cases, the one that is saved.")
    return told


def _hostile_note(study: Study) -> list[str]:
    return [
        f"{site} is hostile: it counts for no worst site and no target, and pooled training is without it."
        for site in study.settings.hostile_sites
    ]


def _worst_note(kept: Sequence[int]) -> str:
    """On how many cases the worst site's Dice rests: of one or two, much of it is chance."""
    told = "The worst site is measured on the cases that it keeps from training"
    if not kept:
        return f"{told}."
    number = " to ".join(map(str, sorted({min(kept), max(kept)})))
    return f"{told}; a site that keeps any has {number} of them."


def _draw(lines: Sequence[Line], outcomes: Sequence[Outcome], path: Path) -> None:
    """Left: final Dice, below it the worst site's. Right: validation Dice of the first seed against bytes so far."""
    figure = Figure(figsize=(10, 0.45 * len(lines) + 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, line in enumerate(reversed(lines)):
        index = len(lines) - 1 - place
        colour = "#555555" if line.label == POOLED else _COLOURS[index % len(_COLOURS)]
        mark = _MARKS[index % len(_MARKS)]
        for spread, height, inside in ((line.dice, place, colour), (line.worst, place - 0.25, "white")):
            if spread is not None:
                half = 0.0 if spread.low is None else spread.mean - spread.low
                style = {"fmt": mark, "color": colour, "markerfacecolor": inside}
                left.errorbar(spread.mean, height, xerr=half or None, capsize=4, **style)
        curve = next((o.curve for o in outcomes if o.label == line.label), ())
        points = [((up + down) / 1e6, dice) for up, down, dice in curve if dice is not None]
        if points:
            xs, ys = zip(*points, strict=True)
            right.plot(xs, ys, color=colour, marker=mark, markersize=3, label=line.label)
    left.set_yticks(range(len(lines)), [line.label for line in reversed(lines)])
    left.set(xlabel="mean Dice: held-out cases (filled), worst site (hollow)", title="Final models")
    right.set(
        xscale="log", xlabel="MB sent and received by all sites", ylabel="validation Dice", title="Dice for bytes"
    )
    if right.get_legend_handles_labels()[0]:
        right.legend(fontsize=8)
    write_bytes(path, to_png(figure))
