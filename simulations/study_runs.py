"""A study from start to end: all of its runs, as many at once as the cores allow, pooled training, table and figure.

Every combination is an ordinary run in a folder of its own, so a study that was stopped goes on with the runs that were
under way, and each run can be looked at, and played again, alone. Beside them, all data pooled is trained with the same
budget, once a seed. Runs that are played at once have processes and logs of their own. A run that fails is in
nobody's way.
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

from segformer3d.errors import ConfigurationError, DataError, FederationError, SegfedError
from segformer3d.files import in_use, remove_half_written, storage_errors, write_json
from segformer3d.processes import ProcessError, map_cases, map_in_processes, print_to
from segformer3d.report.words import counted
from segformer3d.report.writing import HTML
from segformer3d.terminal import Bar, make_console, progress_bar
from server.records import ROUNDS_FILE
from simulations.outcomes import POOLED, Outcome, outcome_of, pooled_outcome
from simulations.run import checked_task, resume_simulation, start_simulation
from simulations.run_folder import RUN_FILE
from simulations.settings import LONGEST_DEADLINE, SimulationSettings
from simulations.sharing import Sharing
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
            return len((self.place / ROUNDS_FILE).read_bytes().splitlines())
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


def play_study(folder: Path, parallel: int | None = None) -> Path:
    """Play every run of a study that is not there yet, and write its table and figure.

    Args:
        folder: of the study.
        parallel: how many sites may compute at once, of all runs together; None: as when the study began.

    Raises:
        SegfedError: the folder is no study, or data, disk or sites are not as they must be.
        KeyboardInterrupt: with a hint how to go on.
    """
    study = _read_study(folder, parallel)
    console, runs = make_console(), _runs_of(study, folder)
    try:
        outcomes = _play_all(console, study.sharing, runs, folder)
        outcomes += _pooled(console, study, runs, folder / POOLED)
    except KeyboardInterrupt:
        hint = f"nothing that was finished is lost; go on with: segfed simulate --resume {folder}"
        raise KeyboardInterrupt(hint) from None
    write_study_report(console, study, outcomes, folder)
    return folder


def _read_study(folder: Path, parallel: int | None) -> Study:
    path = folder / STUDY_FILE
    try:
        study = study_from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"is damaged or of another version ({error}); begin the study anew in another folder"
        raise DataError(f"{path} {why}") from error
    if parallel is None:
        return study
    replace(study.settings, parallel=parallel)  # checks it
    return replace(study, sharing=study.sharing.within(parallel))


def is_study(folder: Path) -> bool:
    """Whether a folder holds a study rather than a run."""
    return (folder / STUDY_FILE).is_file()


def _runs_of(study: Study, folder: Path) -> list[_Run]:
    """All combinations. A run that shares the machine takes longer for a round, and may."""
    sharing, deadline = study.sharing, study.settings.round_deadline * study.sharing.runs
    shared = replace(study.settings, parallel=sharing.sites, round_deadline=min(deadline, LONGEST_DEADLINE))
    runs = []
    for seed, strategy, exchange in itertools.product(study.seeds, study.strategies, study.exchanges):
        label = study.label(strategy, exchange)
        settings = replace(shared, strategy=strategy, exchange=exchange, seed=seed)
        runs.append(_Run(label, seed, settings, folder / RUNS / f"{label}-seed-{seed}"))
    return runs


def _play_all(console: Console, sharing: Sharing, runs: Sequence[_Run], folder: Path) -> list[Outcome]:
    """What came of all runs, once those that are not finished are played."""
    found = {run.place: outcome_of(run.place, run.label, run.seed) for run in runs if run.finished}
    missing = [run for run in runs if run.place not in found]
    alone = sharing.runs == 1
    results = _one_by_one(console, sharing, missing) if alone else _at_once(console, sharing, missing, folder)
    failed = [result for result in results if isinstance(result, str)]
    if failed:
        others = f"{len(failed)} of {len(runs)} runs failed, the first of them " if len(failed) > 1 else ""
        raise FederationError(f"{others}{failed[0]} (the study goes on with: segfed simulate --resume {folder})")
    found |= {run.place: result for run, result in zip(missing, results, strict=True) if not isinstance(result, str)}
    return [found[run.place] for run in runs]


def _one_by_one(console: Console, sharing: Sharing, missing: Sequence[_Run]) -> list[Outcome | str]:
    """Play runs here, each with the whole machine."""
    results = []
    for number, run in enumerate(missing, start=1):
        console.rule(f"run {number} of {len(missing)}: {run}")
        results.append(_attempt(run, sharing.threads))
        if isinstance(results[-1], str):
            console.print(results[-1], style="yellow", soft_wrap=True, highlight=False)
    return results


def _at_once(console: Console, sharing: Sharing, missing: Sequence[_Run], folder: Path) -> list[Outcome | str]:
    """Play several runs at once in processes of their own."""
    if not missing:
        return []
    logs = folder / LOGS
    with storage_errors(logs):
        logs.mkdir(exist_ok=True)
    told = f"{min(sharing.runs, len(missing))} at once, each with {counted(sharing.sites, 'site')} at a time"
    console.print(f"segfed: {counted(len(missing), 'run')}, {told}; what they print is in {logs}", soft_wrap=True)
    with _watched(console, missing):
        try:
            return map_in_processes(partial(_play_apart, sharing.threads, logs), missing, sharing.runs)
        except ProcessError as error:
            fewer = max(1, sharing.runs * sharing.sites // 2)
            raise ProcessError(
                "a run's process died, most likely because memory ran out; nothing that was finished is lost, and the "
                f"study goes on with fewer sites at once: segfed simulate --resume {folder} --parallel {fewer}"
            ) from error


def _play_apart(threads: int, logs: Path, run: _Run) -> Outcome | str:
    """A run in a process of its own, with its share of the cores."""
    print_to(logs / f"{run.place.name}.log")
    torch.set_num_threads(threads * run.settings.at_once)
    result = _attempt(run, threads)
    if isinstance(result, str):
        print(result, flush=True)
    return result


def _attempt(run: _Run, threads: int) -> Outcome | str:
    """What came of a run, or why it failed."""
    try:
        if (run.place / RUN_FILE).is_file():
            resume_simulation(run.place)
        else:
            start_simulation(run.settings, run.place, threads)
        return outcome_of(run.place, run.label, run.seed)
    except SegfedError as error:
        return f"{run}: {error}"


@contextmanager
def _watched(console: Console, runs: Sequence[_Run]) -> Iterator[None]:
    """Say which runs have ended, and how many rounds are played, while others play them."""
    stop = threading.Event()
    with progress_bar(console, "rounds") as bar:
        watch = threading.Thread(target=_watch, args=(console, bar, runs, stop), daemon=True)
        try:
            watch.start()
            yield
        finally:
            stop.set()
            watch.join()


def _watch(console: Console, bar: Bar, runs: Sequence[_Run], stop: threading.Event) -> None:
    total, played, playing = sum(run.settings.rounds for run in runs), 0, list(runs)
    while True:
        last = stop.wait(WATCH_SECONDS)
        for run in [run for run in playing if run.finished]:
            playing.remove(run)
            played += run.settings.rounds
            dice = json.loads((run.place / "summary.json").read_text(encoding="utf-8"))["mean_dice"]
            ended = f"{len(runs) - len(playing)} of {len(runs)}"
            console.print(f"{run}: mean Dice {dice:.4f} ({ended})", soft_wrap=True, highlight=False)
        bar.show(played + sum(run.rounds for run in playing), total, "rounds")
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
