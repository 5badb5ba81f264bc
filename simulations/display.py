"""What the researcher sees while a federation runs: a table for each round, and a live line on a terminal."""

import math
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from client.contract import PrepareReply
from segformer3d.tasks import Task
from segformer3d.terminal import plain_bytes, plain_duration
from server.records import (
    Event,
    RoundFinished,
    RoundRecord,
    RoundStarted,
    RunFinished,
    SiteReplied,
    SiteSetAside,
    SitesReady,
    mean_dice,
)


class FederationDisplay:
    """Prints a federation's events as they happen. A context manager: leaving it removes the live line."""

    def __init__(self, console: Console, task: Task, rounds: int) -> None:
        self._console, self._task, self._rounds = console, task, rounds
        self._live = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._line: TaskID = self._live.add_task("waiting for the sites", total=rounds, left="")
        self._seconds: list[float] = []

    def __enter__(self) -> "FederationDisplay":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        """Print one event."""
        match event:
            case SitesReady(sites):
                for site in sites:
                    self._console.print(readiness(site), soft_wrap=True)
            case RoundStarted(number, rounds, sites):
                self._live.update(self._line, description=f"round {number}/{rounds}: {len(sites)} sites at work")
            case SiteReplied(_, _, site, seconds):
                self._live.update(self._line, description=f"{site} answered after {plain_duration(seconds)}")
            case SiteSetAside(_, what):
                self._console.print(f"set aside: {what}", style="yellow", soft_wrap=True)
            case RoundFinished(record):
                self._finish_round(record)
            case RunFinished():
                self._live.update(self._line, description="the final model is measured at the sites")

    def _finish_round(self, record: RoundRecord) -> None:
        self._seconds.append(record.seconds)
        left = (self._rounds - record.round) * sum(self._seconds) / len(self._seconds)
        self._live.update(self._line, completed=record.round, left=f"about {plain_duration(left)} left")
        self._console.print(round_table(record, self._rounds))


def round_table(record: RoundRecord, rounds: int) -> Table:
    """One round: each site's loss, the Dice of the model it received, cases, time and bytes."""
    private = any(site.epsilon is not None for site in record.sites)
    measured = ("epsilon spent",) if private else ("loss", "Dice before")
    table = Table(title=f"Round {record.round}/{rounds}", title_justify="left", box=None, pad_edge=False)
    table.add_column("site", min_width=12)
    for name in (*measured, "patients" if private else "cases", "time", "down", "up"):
        table.add_column(name, justify="right", min_width=9)
    for site in record.sites:
        table.add_row(
            site.site,
            *((number(site.epsilon),) if private else (number(site.loss, 4), number(mean_dice(site.dice)))),
            str(site.cases),
            plain_duration(site.seconds if private else site.training_seconds + site.validation_seconds),
            plain_bytes(site.bytes_down),
            plain_bytes(site.bytes_up),
        )
    table.add_row(
        "all",
        *(("",) if private else (number(mean_loss(record), 4), number(record.measured.mean_dice))),
        str(sum(site.cases for site in record.sites)),
        plain_duration(record.seconds),
        plain_bytes(record.bytes_down),  # with what was of no use
        plain_bytes(record.bytes_up),
        style="bold",
    )
    return table


def mean_loss(record: RoundRecord) -> float:
    """The sites' training loss, weighted as their updates were."""
    return math.fsum(site.share * site.loss for site in record.sites)


def readiness(site: PrepareReply) -> str:
    """What a site said at the start: its cases, or in a private run what the run will cost each of its patients."""
    promise = site.promise
    if promise is None:
        return (
            f"{site.site}: {site.train_cases + site.validation_cases} used, {site.set_aside} set aside "
            f"({site.train_cases} train, {site.validation_cases} validate), read in {plain_duration(site.seconds)}"
        )
    return (
        f"{site.site}: the run will cost each patient epsilon {promise.epsilon:.3f} at delta {promise.delta:g} "
        f"(noise {promise.noise_multiplier:g} times the clipping norm in each of {promise.steps} steps, "
        f"a patient's chance to be in one {promise.sampling_rate:g})"
        + ("" if promise.proven else "; seeded noise: an experiment, nothing is promised")
    )


def number(value: float | None, digits: int = 3) -> str:
    """So many digits, or a dash for what was not measured."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
