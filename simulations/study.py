"""A study: strategies and exchanges side by side on the same sites, each with the same seeds.

Every combination is an ordinary run in a folder of its own, so a study that was stopped goes on with the run that was
under way, and each run can be looked at, and played again, alone. Beside them, all data pooled is trained with the same
budget, once a seed.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from segformer3d.errors import ConfigurationError, DataError
from segformer3d.files import write_json
from segformer3d.terminal import make_console
from server.records import mean_dice
from server.strategies.strategy import Strategy, strategy_from_json
from simulations.run import resume_simulation, start_simulation
from simulations.run_folder import RUN_FILE
from simulations.run_rivals import pooled_of
from simulations.settings import SimulationSettings

STUDY_FILE, RUNS, POOLED = "study.json", "runs", "pooled"
MOST_SEEDS = 100


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        settings: of every run, but for what varies.
        strategies: one or more.
        exchanges: one or more, by name.
        seeds: one or more; a run's seed deals the cases, draws the first weights and everything after.
    """

    settings: SimulationSettings
    strategies: tuple[Strategy, ...]
    exchanges: tuple[str, ...]
    seeds: tuple[int, ...]

    def label(self, strategy: Strategy, exchange: str) -> str:
        """What a combination is called: by the strategy, and by the exchange where several are compared."""
        return strategy.name if len(self.exchanges) == 1 else f"{strategy.name}-{exchange}"

    def to_json(self) -> dict[str, Any]:
        """The study as plain JSON values; `study_from_json` is its inverse."""
        strategies = [strategy.to_json() for strategy in self.strategies]
        varied = {"strategies": strategies, "exchanges": list(self.exchanges), "seeds": list(self.seeds)}
        return {"settings": self.settings.to_json(), **varied}


@dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Attributes:
        label: of the combination, the same for all seeds; "pooled" for pooled training.
        seed: of the run.
        dice: mean Dice on the held-out cases.
        worst: mean Dice of the site that is served worst, on the cases that it keeps from training; None where no site
            could measure any.
        seconds: of the run; None for pooled training.
        curve: after each round, the bytes that all sites have sent and received so far, and the mean validation Dice.
    """

    label: str
    seed: int
    dice: float
    worst: float | None
    seconds: float | None
    curve: tuple[tuple[int, int, float | None], ...] = ()


def asked_for(values: Mapping[str, Any]) -> Study | SimulationSettings:
    """The study that settings of `segfed simulate` ask for, or the settings of a single run.

    Args:
        values: as `SimulationSettings.from_json` takes them, but `strategy` and `exchange` may be several, separated by
            commas or as a list, and `seeds` may say how many seeds there are, from `seed` on.

    Raises:
        ConfigurationError: a value breaks its rule.
    """
    asked = dict(values)
    strategies, exchanges = _several(asked.pop("strategy", "fedavg")), _several(asked.pop("exchange", "fp32"))
    seeds = asked.pop("seeds", 1)
    if type(seeds) is not int or not 1 <= seeds <= MOST_SEEDS:
        raise ConfigurationError(f"--seeds must be a whole number in [1, {MOST_SEEDS}], got {seeds!r}")
    settings = SimulationSettings.from_json({**asked, "strategy": strategies[0], "exchange": exchanges[0]})
    if len(strategies) == len(exchanges) == seeds == 1:
        return settings
    chosen = tuple(strategy_from_json(strategy) for strategy in strategies)
    for option, names in (("strategy", [strategy.name for strategy in chosen]), ("exchange", exchanges)):
        if len(set(names)) < len(names):
            raise ConfigurationError(f"--{option} names one {option} twice; each is compared once")
    for strategy, exchange in itertools.product(chosen, exchanges):
        replace(settings, strategy=strategy, exchange=exchange)  # what does not fit is said before anything runs
    return Study(settings, chosen, tuple(exchanges), tuple(range(settings.seed, settings.seed + seeds)))


def study_from_json(values: Mapping[str, Any]) -> Study:
    """Rebuild a study that `to_json` wrote.

    Raises:
        ConfigurationError: a value breaks its rule.
    """
    settings = SimulationSettings.from_json(values["settings"])
    strategies = tuple(strategy_from_json(strategy) for strategy in values["strategies"])
    return Study(settings, strategies, tuple(values["exchanges"]), tuple(values["seeds"]))


def begin_study(study: Study, folder: Path) -> Path:
    """Write down what is compared, play it, and return the folder.

    Raises:
        SegfedError: the folder is in use, or data, disk or sites are not as they must be.
        KeyboardInterrupt: with a hint how to go on.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not empty; choose another --out, or go on with --resume {folder}")
    write_json(folder / STUDY_FILE, study.to_json())
    return play_study(folder)


def play_study(folder: Path) -> Path:
    """Play every run of a study that is not there yet, and write its table and figure.

    Raises:
        SegfedError: the folder is no study, or data, disk or sites are not as they must be.
        KeyboardInterrupt: with a hint how to go on.
    """
    from simulations.study_report import write_study_report

    try:
        study = study_from_json(json.loads((folder / STUDY_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is no study: {STUDY_FILE} cannot be read ({error})") from error
    console = make_console()
    try:
        outcomes = list(_outcomes(console, study, folder))
    except KeyboardInterrupt:
        hint = f"nothing that was finished is lost; go on with: segfed simulate --resume {folder}"
        raise KeyboardInterrupt(hint) from None
    write_study_report(console, study, outcomes, folder)
    return folder


def is_study(folder: Path) -> bool:
    """Whether a folder holds a study rather than a run."""
    return (folder / STUDY_FILE).is_file()


def _outcomes(console: Console, study: Study, folder: Path) -> Iterator[Outcome]:
    combinations = list(itertools.product(study.seeds, study.strategies, study.exchanges))
    for number, (seed, strategy, exchange) in enumerate(combinations, start=1):
        label = study.label(strategy, exchange)
        place = _place(folder, label, seed)
        if not (place / "summary.json").is_file():
            console.rule(f"run {number} of {len(combinations)}: {label}, seed {seed}")
            _play(replace(study.settings, strategy=strategy, exchange=exchange, seed=seed), place)
        yield outcome_of(place, label, seed)
    if study.settings.epsilon is None:
        for seed in study.seeds:
            yield _pooled(console, study, folder, seed)


def _place(folder: Path, label: str, seed: int) -> Path:
    return folder / RUNS / f"{label}-seed-{seed}"


def _play(settings: SimulationSettings, place: Path) -> None:
    if (place / RUN_FILE).is_file():
        resume_simulation(place)
    else:
        start_simulation(settings, place)


def _pooled(console: Console, study: Study, folder: Path, seed: int) -> Outcome:
    """All data in one place, with the budget and the sites of the first run of this seed."""
    out = folder / POOLED / f"seed-{seed}"
    result = out / "outcome.json"
    if not result.is_file():
        console.rule(f"all data pooled, seed {seed}")
        held_out, sites = pooled_of(_place(folder, study.label(study.strategies[0], study.exchanges[0]), seed), out)
        scores = [sum(cases.values()) / len(cases) for cases in sites.values() if cases]
        write_json(result, {"dice": held_out["mean_dice"], "worst": min(scores) if scores else None})
    told = json.loads(result.read_text(encoding="utf-8"))
    return Outcome(POOLED, seed, told["dice"], told["worst"], None)


def outcome_of(place: Path, label: str, seed: int) -> Outcome:
    """What came of a finished run, from its folder."""
    summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
    measured = json.loads((place / "result.json").read_text(encoding="utf-8"))
    scores = [mean_dice(report["dice"]) for report in measured["sites"].values() if report["cases"]]
    rounds = [json.loads(line) for line in (place / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    dice = [record["measured"]["mean_dice"] for record in rounds[1:]] + [measured["final"]["mean_dice"]]
    worst = min((score for score in scores if not math.isnan(score)), default=None)
    return Outcome(label, seed, summary["mean_dice"], worst, summary["seconds"], tuple(_curve(rounds, dice)))


def _curve(
    rounds: Sequence[Mapping[str, Any]], dice: Sequence[float | None]
) -> Iterator[tuple[int, int, float | None]]:
    up = down = 0
    for record, score in zip(rounds, dice, strict=True):
        up += sum(site["bytes_up"] for site in record["sites"])
        down += sum(site["bytes_down"] for site in record["sites"])
        yield up, down, score


def _several(asked: object) -> list[Any]:
    if isinstance(asked, str):
        return [name.strip() for name in asked.split(",")]
    return list(asked) if isinstance(asked, list) else [asked]
