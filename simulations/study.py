"""A study: strategies and exchanges side by side on the same sites, each with the same seeds.

Every combination is an ordinary run in a folder of its own, so a study that was stopped goes on with the run that was
under way, and each run can be looked at, and played again, alone. Beside them, all data pooled is trained with the same
budget, once a seed.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from segformer3d.errors import ConfigurationError, DataError
from segformer3d.files import in_use, remove_half_written, write_json
from segformer3d.report.writing import HTML
from segformer3d.terminal import make_console
from server.strategies.strategy import Strategy, named_strategy, strategy_from_json
from simulations.outcomes import POOLED, Outcome, outcome_of, pooled_outcome
from simulations.run import checked_task, resume_simulation, start_simulation
from simulations.run_folder import RUN_FILE
from simulations.settings import SimulationSettings

STUDY_FILE, RUNS = "study.json", "runs"
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
        return variant_name(strategy) if len(self.exchanges) == 1 else f"{variant_name(strategy)}-{exchange}"

    def to_json(self) -> dict[str, Any]:
        """The study as plain JSON values; `study_from_json` is its inverse."""
        strategies = [strategy.to_json() for strategy in self.strategies]
        varied = {"strategies": strategies, "exchanges": list(self.exchanges), "seeds": list(self.seeds)}
        return {"settings": self.settings.to_json(), **varied}


def asked_for(values: Mapping[str, Any]) -> Study | SimulationSettings:
    """The study that settings of `segfed simulate` ask for, or the settings of a single run.

    Args:
        values: as `SimulationSettings.from_json` takes them, but `strategy` and `exchange` may be several, separated by
            commas or as a list, of strategies with tables among them, so that variants of one name can be compared; and
            `seeds` may say how many seeds there are, from `seed` on.

    Raises:
        ConfigurationError: a value breaks its rule.
    """
    asked = dict(values)
    strategies, exchanges = _several(asked.pop("strategy", "fedavg")), _several(asked.pop("exchange", "fp32"))
    seeds = asked.pop("seeds", 1)
    if type(seeds) is not int or not 1 <= seeds <= MOST_SEEDS:
        raise ConfigurationError(f"--seeds must be a whole number in [1, {MOST_SEEDS}], got {seeds!r}")
    for option, several in (("strategy", strategies), ("exchange", exchanges)):
        if not several:
            raise ConfigurationError(f"{option} is an empty list; name one {option} or more")
    settings = SimulationSettings.from_json({**asked, "strategy": strategies[0], "exchange": exchanges[0]})
    if len(strategies) == len(exchanges) == seeds == 1:
        return settings
    chosen = tuple(strategy_from_json(strategy) for strategy in strategies)
    for strategy, exchange in itertools.product(chosen, exchanges):
        replace(settings, strategy=strategy, exchange=exchange)  # what does not fit is said before anything runs
    for option, names in (("strategy", list(map(variant_name, chosen))), ("exchange", exchanges)):
        if len(set(names)) < len(names):
            raise ConfigurationError(f"--{option} names one {option} twice; each is compared once")
    return Study(settings, chosen, tuple(exchanges), tuple(range(settings.seed, settings.seed + seeds)))


def variant_name(strategy: Strategy) -> str:
    """A strategy's name and what it changes of what the name stands for, such as "fedprox-proximal-0.1"."""
    own, usual = (_parts(each) for each in (strategy, named_strategy(strategy.name)))
    changes = (f"{name}-{_spoken(own[name])}" for name in own if own[name] != usual[name])
    return "-".join((strategy.name, *changes))


def _parts(strategy: Strategy) -> dict[str, Any]:
    """All parts, those at the sites too."""
    told = strategy.to_json()
    return {**told.pop("rule"), **told}


def _spoken(value: object) -> str:
    """A part's value in a name: 1 and 1.0 are one value, and have one name."""
    return str(value).lower().removesuffix(".0")


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
        if not (place / HTML).is_file():  # a run's last file
            console.rule(f"run {number} of {len(combinations)}: {label}, seed {seed}")
            _play(replace(study.settings, strategy=strategy, exchange=exchange, seed=seed), place)
        yield outcome_of(place, label, seed)
    if study.settings.epsilon is None:
        first = study.label(study.strategies[0], study.exchanges[0])
        for seed in study.seeds:
            console.rule(f"all data pooled, seed {seed}")
            yield pooled_outcome(_place(folder, first, seed), seed, folder / POOLED / f"seed-{seed}")


def _place(folder: Path, label: str, seed: int) -> Path:
    return folder / RUNS / f"{label}-seed-{seed}"


def _play(settings: SimulationSettings, place: Path) -> None:
    if (place / RUN_FILE).is_file():
        resume_simulation(place)
    else:
        start_simulation(settings, place)


def _several(asked: object) -> list[Any]:
    if isinstance(asked, str):
        return [name.strip() for name in asked.split(",")]
    return list(asked) if isinstance(asked, list) else [asked]
