"""What a study compares: strategies and exchanges side by side on the same sites, each with the same seeds."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from segformer3d.errors import ConfigurationError
from server.strategies.strategy import Strategy, named_strategy, strategy_from_json
from simulations.settings import SimulationSettings
from simulations.sharing import Sharing, share_cores

MOST_SEEDS = 100


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        settings: of every run, but for what varies.
        strategies: one or more.
        exchanges: one or more, by name.
        seeds: one or more; a run's seed deals the cases, draws the first weights and everything after.
        sharing: what computes at the same time; kept with the study, since a run's last bits depend on its threads.
    """

    settings: SimulationSettings
    strategies: tuple[Strategy, ...]
    exchanges: tuple[str, ...]
    seeds: tuple[int, ...]
    sharing: Sharing

    def label(self, strategy: Strategy, exchange: str) -> str:
        """What a combination is called: by the strategy, and by the exchange where several are compared."""
        return variant_name(strategy) if len(self.exchanges) == 1 else f"{variant_name(strategy)}-{exchange}"

    def to_json(self) -> dict[str, Any]:
        """The study as plain JSON values; `study_from_json` is its inverse."""
        strategies = [strategy.to_json() for strategy in self.strategies]
        varied = {"strategies": strategies, "exchanges": list(self.exchanges), "seeds": list(self.seeds)}
        return {"settings": self.settings.to_json(), **varied, "sharing": asdict(self.sharing)}


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
    sharing = share_cores(settings, len(chosen) * len(exchanges) * seeds)
    return Study(settings, chosen, tuple(exchanges), tuple(range(settings.seed, settings.seed + seeds)), sharing)


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
    exchanges, seeds = tuple(values["exchanges"]), tuple(values["seeds"])
    return Study(settings, strategies, exchanges, seeds, Sharing(**values["sharing"]))


def _several(asked: object) -> list[Any]:
    if isinstance(asked, str):
        return [name.strip() for name in asked.split(",")]
    return list(asked) if isinstance(asked, list) else [asked]
