"""A simulated federation from start to end: sites on disk, rounds, the measurement on held-out cases, the run folder.

`start_simulation` makes a run folder and `resume_simulation` goes on with one; both then walk the same steps, each of
which is skipped where its result is already there.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from client.privacy.run_audit import audit_run
from client.weights import weights_of
from segformer3d.allocator import keep_freed_memory
from segformer3d.cases import find_cases
from segformer3d.checkpoint import load, save_weights
from segformer3d.errors import ConfigurationError
from segformer3d.evaluation import evaluate
from segformer3d.files import in_use, remove_half_written, write_json, write_whole
from segformer3d.fit import initial_model
from segformer3d.inference import choose_device
from segformer3d.model_description import read_notes
from segformer3d.report.evaluation_report import Circumstances, write_evaluation_report
from segformer3d.report.words import counted
from segformer3d.results import Evaluation
from segformer3d.score_tables import print_table
from segformer3d.tasks import Task
from segformer3d.terminal import make_console, plain_duration, progress_bar
from server.app import make_server_app
from server.federation import told_of_start
from server.records import Event
from server.rounds import LAST_FILE
from server.run_folder import newest_state
from server.state import ServerState, begin, check_resumable, read_state
from simulations.comparison import print_comparison
from simulations.display import FederationDisplay
from simulations.engines import ClientSource, EngineSettings, run_federation
from simulations.federation_report import Finished, write_federation_report
from simulations.gains import gains_of, print_gains
from simulations.partitions import quantity_sizes, write_partition
from simulations.phantoms import write_phantom_federation
from simulations.report import Journal, add_audit, audit_line, write_summary
from simulations.run_folder import RUN_FILE, SITES, START_FILE, WORK, Run, read_run
from simulations.run_rivals import compare_run
from simulations.scenarios import get_scenario
from simulations.settings import SimulationSettings
from simulations.sharing import share_cores

ENGINE_LOG, EVALUATION = "engine.log", "evaluation"
# The built-in federation: small enough for a laptop's patience, large enough that it learns.
PHANTOMS_PER_SITE, PHANTOMS_HELD_OUT = 9, 8
AUDIT_CANARIES = 300  # seconds; `segfed privacy audit` takes more


def start_simulation(settings: SimulationSettings, out: Path | None, threads: int | None = None) -> Path:
    """Make a run folder, run the federation, and return the folder.

    Args:
        settings: what is asked for.
        out: the run folder; None takes one under `runs`, named by the time and the task.
        threads: of each site that computes; None gives it its share of the cores.

    Raises:
        SegfedError: settings, data, disk or sites are not as they must be.
        KeyboardInterrupt: with a hint how to go on.
    """
    task = checked_task(settings)
    folder = out or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{task.name}"
    if in_use(folder):
        raise ConfigurationError(f"{folder} is not empty; choose another --out, or go on with --resume {folder}")
    remove_half_written(folder)
    threads = threads or share_cores(settings, 1).threads
    run = Run(folder, f"{datetime.now():%Y%m%d-%H%M%S}", settings, task, threads)
    described = {"run": run.name, "settings": settings.to_json(), "task": task.to_json(), "threads": threads}
    write_json(folder / RUN_FILE, {**described, "parallel": settings.at_once})
    return _play(run)


def checked_task(settings: SimulationSettings) -> Task:
    """What a run segments, once data, scenario, device and start are what they must be.

    Raises:
        SegfedError: one is not.
    """
    task = settings.resolve_task()
    if settings.scenario is not None:
        get_scenario(settings.scenario).check(task)
    choose_device(settings.device)
    if settings.start is not None:
        read_notes(settings.start)
    return task


def resume_simulation(folder: Path) -> Path:
    """Go on with the run in a folder, from its last complete round.

    Raises:
        SegfedError: the folder is no run folder, or was made by another version or architecture.
        KeyboardInterrupt: with a hint how to go on.
    """
    run = read_run(folder)
    remove_half_written(folder)
    return _play(run)


def _play(run: Run) -> Path:
    keep_freed_memory()
    console, began = make_console(), time.perf_counter()
    try:
        _introduce(console, run)
        _lay_out_sites(console, run)
        journal = _federate(console, run)
        evaluation = _measure(console, run)
        compared = compare_run(console, run) if run.settings.compare else None
        seconds = journal.earlier_seconds + time.perf_counter() - began
        summary = write_summary(run.folder, run.settings, run.task, journal, evaluation, compared, seconds)
        if summary["privacy"] is not None:
            _attack(console, run, summary)
        page = write_federation_report(run.folder, Finished(run.task, summary, journal, evaluation, compared))
    except KeyboardInterrupt:
        hint = f"nothing that was finished is lost; go on with: segfed simulate --resume {run.folder}"
        raise KeyboardInterrupt(hint) from None
    print_table(evaluation, console)
    if compared is not None:
        print_comparison(console, summary, run.task)
        print_gains(console, gains_of(compared.ways, run.settings.seed))
    console.print(_closing_line(summary), soft_wrap=True)
    console.print(f"Everything is in {run.folder} (start with {page.name}; README.md lists the files)", soft_wrap=True)
    return run.folder


def _attack(console: Console, run: Run, summary: dict[str, Any]) -> None:
    """Attack the mechanism and the model that is about to be given away; the report states what came of it."""
    with console.status("attacking what was promised"):
        audit = audit_run(run.folder, canaries=AUDIT_CANARIES, device=run.settings.device)
    add_audit(run.folder, run.task, summary, audit)
    console.print(audit_line(audit), soft_wrap=True, highlight=False)


def _closing_line(summary: Mapping[str, Any]) -> str:
    took = f"{plain_duration(summary['seconds'])} in all"
    privacy = summary["privacy"]
    if privacy is None:
        return f"{took}; the federation added {summary['overhead_share']:.1%} to the sites' own computing"
    worst = max(privacy["sites"].values(), key=lambda site: site["spent"])
    if not privacy["claimed"]:
        return f"{took}; the noise came from a seed, so no privacy is claimed"
    return f"{took}; every patient has spent at most epsilon {worst['spent']:.3f} at delta {worst['delta']:g}"


def _introduce(console: Console, run: Run) -> None:
    asked = run.settings
    data = "synthetic hospitals" if asked.data is None else str(asked.data)
    console.print(
        f"segfed: task {run.task.name} on {data}; "
        f"{counted(asked.sites, 'site')} ({asked.scenario or asked.partition}), "
        f"{counted(asked.rounds, 'round')} of {_local_work(run)}, {counted(asked.at_once, 'site')} at a time, "
        f"engine {asked.engine}, seed {asked.seed}",
        soft_wrap=True,
    )
    for site in asked.hostile_sites:
        console.print(f"{site} is hostile; its validation cases count, since no coordinator could know", soft_wrap=True)
    console.print(f"run folder: {run.folder}", soft_wrap=True)
    told = None if asked.start is None or newest_state(run.folder) else told_of_start(asked.start)
    if told is not None:
        console.print(told, soft_wrap=True, highlight=False)
    if asked.epsilon is not None and asked.start is None:
        console.print(_NO_START, style="yellow", soft_wrap=True)


_NO_START = (
    "A private run learns little from random weights: begin with a model of made-up patients "
    "(segfed warm-start --help) and give it with --start"
)


def _local_work(run: Run) -> str:
    privacy = run.settings.privacy_of(None)
    number = run.settings.local_epochs if privacy is None else privacy.local_steps
    return counted(number, "local epoch" if privacy is None else "private step")


def _lay_out_sites(console: Console, run: Run) -> None:
    place = run.folder / SITES
    if not place.is_dir():
        with console.status("writing the sites"):
            write_whole(place, partial(_write_sites, run.settings, run.task))


def _write_sites(asked: SimulationSettings, task: Task, folder: Path) -> None:
    if asked.data is None:
        folders = write_phantom_federation(folder, phantoms_of(asked), PHANTOMS_HELD_OUT, asked.seed)
    else:
        dealt = (asked.dealt, asked.sites, asked.seed, asked.held_out, asked.patient_pattern)
        left_out = asked.leave_out_published
        folders = write_partition(asked.data, folder, *dealt, task=task.name, leave_out_published=left_out)
    if asked.scenario is not None:
        get_scenario(asked.scenario).change(folders.sites, asked.seed, task)


def phantoms_of(asked: SimulationSettings) -> Sequence[int]:
    """Cases of each synthetic hospital. Their scanners differ in scale as they are: "intensity" adds nothing."""
    if asked.dealt == "quantity":
        return quantity_sizes(PHANTOMS_PER_SITE * asked.sites, asked.sites)
    return [PHANTOMS_PER_SITE] * asked.sites


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
        start = run.settings.start
        model = initial_model(run.task, run.settings.seed) if start is None else load(start)
        state = begin(run.name, run.federation, weights_of(model))
        if start is not None:  # as the task's network has it: all that is trained with it later begins there, too
            save_weights(run.folder / START_FILE, state.weights, run.task.model, run.task, read_notes(start))
        return state
    state = read_state(newest)
    check_resumable(state, run.federation)
    return state


def _client_source(run: Run) -> ClientSource:
    sites = [
        {"name": folder.name, "data": str(folder.resolve()), "work": str((run.folder / WORK / folder.name).resolve())}
        for folder in run.sites.sites
    ]
    common = {
        "device": run.settings.device,
        "threads": run.threads,
        "patient_pattern": run.settings.patient_pattern,
        "delta": None if run.federation.privacy is None else run.federation.privacy.delta,
    }
    attacks: list[str | None] = [None] * len(sites)
    if run.settings.scenario is not None:
        attacks[-1] = get_scenario(run.settings.scenario).attack
    told = [{**site, **common, "attack": attack} for site, attack in zip(sites, attacks, strict=True)]
    return ClientSource.of("simulations.clients:make_app", sites=told)


def _measure(console: Console, run: Run) -> Evaluation:
    model, held_out = run.folder / LAST_FILE, run.sites.held_out
    device, seed, out = choose_device(run.settings.device), run.settings.seed, run.folder / EVALUATION
    with progress_bar(console, "held-out cases") as bar:
        show: Callable[[int, int], None] = lambda done, total: bar.show(done, total, "held-out cases")  # noqa: E731
        found = evaluate(load(model), run.task, find_cases(held_out), out, device=device, seed=seed, on_case=show)
    about = Circumstances.now(model, held_out, str(device), mirrored=run.task.mirror, seed=seed)
    write_evaluation_report(found, run.task, about, out)
    return found
