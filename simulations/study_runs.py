"""A study from start to end: all of its runs, as many at once as the cores allow, pooled training, table and figure.

Every combination is an ordinary run in a folder of its own, so a study that was stopped goes on with the runs that were
under way, and each run can be looked at, and played again, alone. Beside them, all data pooled is trained with the same
budget, once a seed. Runs that are played at once have processes and logs of their own.
"""

import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from segformer3d.errors import ConfigurationError, DataError, SegfedError
from segformer3d.files import in_use, remove_half_written, write_json
from segformer3d.processes import map_cases, map_in_processes, print_to
from segformer3d.report.words import counted
from segformer3d.report.writing import HTML
from segformer3d.terminal import Bar, make_console, progress_bar
from simulations.outcomes import POOLED, Outcome, outcome_of, pooled_outcome
from simulations.run import checked_task, resume_simulation, start_simulation
from simulations.run_folder import RUN_FILE
from simulations.settings import SimulationSettings
from simulations.study import Study, study_from_json
from simulations.study_report import write_study_report

STUDY_FILE, RUNS, LOGS = "study.json", "runs", "logs"
WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class _Run:
    """One combination and its folder."""

    label: str
    seed: int
    settings: SimulationSettings
    place: Path

    def __str__(self) -> str:
        return f"{self.label}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        return (self.place / HTML).is_file()  # a run's last file

    @property
    def rounds(self) -> int:
        """That are played so far."""
        try:
            return len((self.place / "rounds.jsonl").read_bytes().splitlines())
        except FileNotFoundError:
            return 0


def begin_study(study: Study, folder: Path) -> Path:
    """Write down what is compared, play it, and return the folder.

    Raises:
        SegfedError: the folder is in use, or data, disk or sites are not as they must be.
        KeyboardInterrupt: with a hint how to go on.
    """
    if in_use(folder):
        raise ConfigurationError(f"{folder} is not empty; choose another --out, or go on with --resume {folder}")
    checked_task(study.settings)  # what is wrong is said before anything is there
    remove_half_written(folder)
    write_json(folder / STUDY_FILE, study.to_json())
    return play_study(folder)


def play_study(folder: Path) -> Path:
    """Play every run of a study that is not there yet, and write its table and figure.

    Raises:
        SegfedError: the folder is no study, or data, disk or sites are not as they must be.
        KeyboardInterrupt: with a hint how to go on.
    """
    try:
        study = study_from_json(json.loads((folder / STUDY_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is no study: {STUDY_FILE} cannot be read ({error})") from error
    console, runs = make_console(), _runs_of(study, folder)
    try:
        _play_all(console, study, runs, folder / LOGS)
        outcomes = [outcome_of(run.place, run.label, run.seed) for run in runs]
        outcomes += _pooled(console, study, runs, folder / POOLED)
    except KeyboardInterrupt:
        hint = f"nothing that was finished is lost; go on with: segfed simulate --resume {folder}"
        raise KeyboardInterrupt(hint) from None
    write_study_report(console, study, outcomes, folder)
    return folder


def is_study(folder: Path) -> bool:
    """Whether a folder holds a study rather than a run."""
    return (folder / STUDY_FILE).is_file()


def _runs_of(study: Study, folder: Path) -> list[_Run]:
    """All combinations, a seed's together: its first run is what pooled training takes its sites from."""
    runs = []
    for seed, strategy, exchange in itertools.product(study.seeds, study.strategies, study.exchanges):
        label, parallel = study.label(strategy, exchange), study.sharing.sites
        settings = replace(study.settings, strategy=strategy, exchange=exchange, seed=seed, parallel=parallel)
        runs.append(_Run(label, seed, settings, folder / RUNS / f"{label}-seed-{seed}"))
    return runs


def _play_all(console: Console, study: Study, runs: Sequence[_Run], logs: Path) -> None:
    """Play what is not finished: here, or several runs at once in processes of their own."""
    sharing, missing = study.sharing, [run for run in runs if not run.finished]
    if sharing.runs == 1:
        for run in missing:
            console.rule(f"run {runs.index(run) + 1} of {len(runs)}: {run}")
            _play(run, sharing.threads)
    elif missing:
        at_once = f"{sharing.runs} at once, each with {counted(sharing.sites, 'site')} at a time"
        console.print(f"segfed: {counted(len(runs), 'run')}, {at_once}; what they print is in {logs}", soft_wrap=True)
        logs.mkdir(exist_ok=True)
        with _watched(console, runs):
            map_in_processes(partial(_play_apart, study.sharing.threads, logs), missing, sharing.runs)


def _play(run: _Run, threads: int) -> None:
    if (run.place / RUN_FILE).is_file():
        resume_simulation(run.place)
    else:
        start_simulation(run.settings, run.place, threads)


def _play_apart(threads: int, logs: Path, run: _Run) -> None:
    """A run in a process of its own, with its share of the cores."""
    print_to(logs / f"{run.place.name}.log")
    torch.set_num_threads(threads * run.settings.at_once)
    try:
        _play(run, threads)
    except SegfedError as error:
        raise type(error)(f"{run}: {error}") from error


@contextmanager
def _watched(console: Console, runs: Sequence[_Run]) -> Iterator[None]:
    """Say which runs have ended, and how many rounds are played, while others play them."""
    stop = threading.Event()
    with progress_bar(console, "rounds") as bar:
        watch = threading.Thread(target=_watch, args=(console, bar, runs, stop))
        watch.start()
        try:
            yield
        finally:
            stop.set()
            watch.join()


def _watch(console: Console, bar: Bar, runs: Sequence[_Run], stop: threading.Event) -> None:
    total, ended = sum(run.settings.rounds for run in runs), [run for run in runs if run.finished]
    while True:
        last = stop.wait(WATCH_SECONDS)
        for run in runs:
            if run not in ended and run.finished:
                ended.append(run)
                dice = json.loads((run.place / "summary.json").read_text(encoding="utf-8"))["mean_dice"]
                console.print(f"{run}: mean Dice {dice:.4f} ({len(ended)} of {len(runs)} runs)", soft_wrap=True)
        bar.show(sum(run.rounds for run in runs), total, "rounds")
        if last:
            return


def _pooled(console: Console, study: Study, runs: Sequence[_Run], out: Path) -> list[Outcome]:
    """Pooled training, once a seed; none in a private study, whose patients' data was promised to nobody else."""
    if study.settings.epsilon is not None:
        return []
    console.rule(f"all data pooled, {counted(len(study.seeds), 'seed')}")
    at_once, threads = study.sharing.alone(len(study.seeds))
    first = {run.seed: run.place for run in reversed(runs)}
    return map_cases(partial(_pooled_of, first, out, threads), study.seeds, at_once)


def _pooled_of(places: dict[int, Path], out: Path, threads: int, seed: int) -> Outcome:
    return pooled_outcome(places[seed], seed, out / f"seed-{seed}", threads)
