"""A simulated federation from start to end: sites on disk, rounds, the measurement on held-out cases, the run folder.

`start_simulation` makes a run folder and `resume_simulation` goes on with one; both then walk the same steps, each of
which is skipped where its result is already there.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from client.weights import weights_of
from segformer3d.allocator import keep_freed_memory
from segformer3d.cases import find_cases
from segformer3d.checkpoint import load
from segformer3d.errors import CheckpointError, ConfigurationError, DataError
from segformer3d.evaluation import Evaluation, evaluate, print_table
from segformer3d.files import storage_errors, write_json
from segformer3d.fit import initial_model
from segformer3d.inference import choose_device
from segformer3d.tasks import Task, task_from_json
from segformer3d.terminal import make_console, plain_duration, progress_bar
from server.app import make_server_app
from server.federation import FederationSettings
from server.records import Event
from server.rounds import LAST_FILE
from server.run_folder import newest_state
from server.state import ServerState, begin, check_resumable, read_state
from simulations.comparison import Budget, rivals_of, train_rivals
from simulations.display import FederationDisplay
from simulations.engines import ClientSource, EngineSettings, run_federation
from simulations.partitions import write_partition
from simulations.phantoms import write_phantom_federation
from simulations.report import Journal, print_comparison, write_report
from simulations.settings import SimulationSettings, cores
from simulations.site_folders import FederationFolders

RUN_FILE, ENGINE_LOG = "run.json", "engine.log"
SITES, WORK, RIVALS, EVALUATION = "sites", "work", "compared", "evaluation"
# The built-in federation: small enough for a laptop's patience, large enough that it learns.
PHANTOMS_PER_SITE, PHANTOMS_HELD_OUT = 9, 8


@dataclass(frozen=True)
class Run:
    """A run folder and what it was asked to do."""

    folder: Path
    name: str
    settings: SimulationSettings
    task: Task
    threads: int

    @property
    def sites(self) -> FederationFolders:
        """Where the sites' data lies."""
        base = self.folder / SITES
        return FederationFolders(
            tuple(base / f"site-{number}" for number in range(1, self.settings.sites + 1)), base / "held-out"
        )

    @property
    def federation(self) -> FederationSettings:
        """What the coordinator is told."""
        asked = self.settings
        return FederationSettings(
            self.task,
            rounds=asked.rounds,
            local_epochs=asked.local_epochs,
            seed=asked.seed,
            minimum_sites=asked.needed_sites,
            round_deadline_s=asked.round_deadline,
            prepare_deadline_s=asked.round_deadline,
            again_s=0,  # on one machine the same message fails again
            pace=0,
            training=asked.training,
        )


def start_simulation(settings: SimulationSettings, out: Path | None) -> Path:
    """Make a run folder, run the federation, and return the folder.

    Raises:
        SegfedError: settings, data, disk or sites are not as they must be.
        KeyboardInterrupt: with a hint how to go on.
    """
    task = settings.resolve_task()
    folder = out or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{task.name}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not empty; choose another --out, or go on with --resume {folder}")
    choose_device(settings.device)
    threads = max(1, cores() // settings.at_once)
    run = Run(folder, f"{datetime.now():%Y%m%d-%H%M%S}", settings, task, threads)
    described = {"run": run.name, "settings": settings.to_json(), "task": task.to_json(), "threads": threads}
    write_json(folder / RUN_FILE, {**described, "parallel": settings.at_once})
    return _play(run)


def resume_simulation(folder: Path) -> Path:
    """Go on with the run in a folder, from its last complete round.

    Raises:
        SegfedError: the folder is no run folder, or was made by another version or architecture.
        KeyboardInterrupt: with a hint how to go on.
    """
    path = folder / RUN_FILE
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        settings = SimulationSettings.from_json({**described["settings"], "parallel": described["parallel"]})
        run = Run(folder, described["run"], settings, task_from_json(described["task"]), described["threads"])
    except OSError as error:
        raise DataError(f"{folder} is no run folder: {RUN_FILE} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged or of another version ({error}); start a new run") from error
    return _play(run)


def _play(run: Run) -> Path:
    keep_freed_memory()
    console, began = make_console(), time.perf_counter()
    try:
        _introduce(console, run)
        _lay_out_sites(console, run)
        journal = _federate(console, run)
        evaluation = _measure(console, run)
        rivals = _compare(console, run) if run.settings.compare else {}
    except KeyboardInterrupt:
        hint = f"nothing that was finished is lost; go on with: segfed simulate --resume {run.folder}"
        raise KeyboardInterrupt(hint) from None
    seconds = journal.earlier_seconds + time.perf_counter() - began
    summary = write_report(run.folder, run.settings, run.task, journal, evaluation, rivals, seconds)
    print_table(evaluation, console)
    if rivals:
        print_comparison(console, summary, run.task)
    console.print(
        f"{plain_duration(summary['seconds'])} in all; the federation added {summary['overhead_share']:.1%} "
        "to the sites' own computing"
    )
    console.print(f"Everything is in {run.folder} (start with README.md)", soft_wrap=True)
    return run.folder


def _introduce(console: Console, run: Run) -> None:
    asked = run.settings
    data = "synthetic hospitals" if asked.data is None else str(asked.data)
    console.print(
        f"segfed: task {run.task.name} on {data}; {asked.sites} sites ({asked.partition}), {asked.rounds} rounds of "
        f"{asked.local_epochs} local epoch{'s' if asked.local_epochs > 1 else ''}, {asked.at_once} sites at a time, "
        f"engine {asked.engine}, seed {asked.seed}",
        soft_wrap=True,
    )
    console.print(f"run folder: {run.folder}", soft_wrap=True)


def _lay_out_sites(console: Console, run: Run) -> None:
    """Write the sites under another name first: a folder called `sites` is whole."""
    asked, place = run.settings, run.folder / SITES
    if place.is_dir():
        return
    unfinished = run.folder / f"{SITES}.unfinished"
    with storage_errors(unfinished):
        _remove(unfinished)
    with console.status("writing the sites"):
        if asked.data is None:
            write_phantom_federation(unfinished, asked.sites, PHANTOMS_PER_SITE, PHANTOMS_HELD_OUT, asked.seed)
        else:
            write_partition(asked.data, unfinished, asked.partition, asked.sites, asked.seed, asked.held_out)
        with storage_errors(place):
            unfinished.rename(place)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _federate(console: Console, run: Run) -> Journal:
    """All rounds that are still missing, and the last measurement at the sites."""
    state = _first_state(run)
    journal = Journal(run.settings.at_once, state.history)
    with FederationDisplay(console, run.task, run.settings.rounds) as display:

        def on_event(event: Event) -> None:
            journal.note(event)
            display.show(event)

        server = make_server_app(run.federation, run.folder, state, on_event)
        settings = EngineSettings(run.settings.at_once, run.folder / ENGINE_LOG)
        journal.begin()
        run_federation(run.settings.engine, server, _client_source(run), run.settings.sites, settings)
        journal.end()
    return journal


def _first_state(run: Run) -> ServerState:
    newest = newest_state(run.folder)
    if newest is None:
        return begin(run.name, run.federation, weights_of(initial_model(run.task, run.settings.seed)))
    state = read_state(newest)
    check_resumable(state, run.federation)
    return state


def _client_source(run: Run) -> ClientSource:
    sites = [
        {"name": folder.name, "data": str(folder.resolve()), "work": str((run.folder / WORK / folder.name).resolve())}
        for folder in run.sites.sites
    ]
    common = {"device": run.settings.device, "threads": run.threads}
    return ClientSource.of("simulations.clients:make_app", sites=[{**site, **common} for site in sites])


def _measure(console: Console, run: Run) -> Evaluation:
    model = load(run.folder / LAST_FILE)
    cases = find_cases(run.sites.held_out)
    with progress_bar(console, "held-out cases") as bar:
        show: Callable[[int, int], None] = lambda done, total: bar.show(done, total, "held-out cases")  # noqa: E731
        return evaluate(
            model,
            run.task,
            cases,
            run.folder / EVALUATION,
            device=choose_device(run.settings.device),
            seed=run.settings.seed,
            on_case=show,
        )


def _compare(console: Console, run: Run) -> dict[str, dict[str, Any]]:
    asked = run.settings
    budget = Budget(
        run.task,
        asked.training,
        asked.rounds,
        asked.local_epochs,
        asked.seed,
        asked.device,
        run.threads,
        run.sites.held_out.resolve(),
        (run.folder / WORK).resolve(),
    )
    rivals = rivals_of(run.sites.sites, run.folder / RIVALS)
    with console.status(f"training {len(rivals)} models to compare with: pooled, and each site alone"):
        return train_rivals(rivals, budget, asked.at_once)
