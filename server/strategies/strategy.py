"""A strategy: which parts a run composes. One frozen, validated, JSON-able value, made of a name and changes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from client.exchange.settings import Exchange
from client.strategies.rule import LocalRule
from segformer3d.errors import ConfigurationError

SHARES = ("cases", "equal", "loss")
CENTRES = ("mean", "median", "trimmed-mean", "krum", "norm-bound")
OPTIMIZERS = ("none", "momentum", "adam", "yogi")
_COARSE = ("sparse", "int2")  # an error that is fed back mends a mean in time, and no median
_PRIVATE = "choose fedavg, or what the server alone does, such as fedavgm, averaged or median"


@dataclass(frozen=True)
class Strategy:
    """The parts of a strategy.

    Attributes:
        name: of a preset in `PRESETS`.
        rule: what sites do differently.
        shares: the weight of a site: its training "cases" (McMahan et al. 2017), "equal", or cases times the "loss" of
            the model as it was received, see `server.strategies.shares`.
        centre: how updates become one: "mean", or one of the robust ones.
        hostile: how many hostile sites "trimmed-mean" and "krum" are made for, 1 to 1000.
        normalised: FedNova: updates are compared by the step, see `server.strategies.nova`.
        optimizer: what takes the step: "none" adds it as it is.
        server_rate: how much of the optimizer's step is taken, in (0, 10].
        momentum: of "momentum", "adam" and "yogi", in [0, 1).
        second: decay of the squares of "adam" and "yogi", in [0, 1).
        floor: tau of "adam" and "yogi", what keeps small steps small, in (0, 1].
        average: decay of the average over rounds that the last model is, in [0, 1); 0 takes the last round's.

    Raises:
        ConfigurationError: a value breaks its rule, or parts do not go together.
    """

    name: str = "fedavg"
    rule: LocalRule = field(default_factory=LocalRule)
    shares: str = "cases"
    centre: str = "mean"
    hostile: int = 1
    normalised: bool = False
    optimizer: str = "none"
    server_rate: float = 1.0
    momentum: float = 0.5
    second: float = 0.9
    floor: float = 1e-3
    average: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in PRESETS:
            raise ConfigurationError(f"there is no strategy {self.name!r}; known are {', '.join(PRESETS)}")
        for name, known in (("shares", SHARES), ("centre", CENTRES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ConfigurationError(
                    f"{name} of a strategy must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        for name, low, high, spoken in _RANGES:
            value = getattr(self, name)
            if type(value) not in (int, float) or not low <= value <= high:
                raise ConfigurationError(f"{name} of a strategy must be in {spoken}, got {value!r}")
        if type(self.hostile) is not int or not 1 <= self.hostile <= 1000:
            raise ConfigurationError(f"hostile of a strategy must be a whole number in [1, 1000], got {self.hostile!r}")
        if type(self.normalised) is not bool:
            raise ConfigurationError(f"normalised of a strategy must be true or false, got {self.normalised!r}")
        _check_name(self)
        _check_together(self)
        _check_read(self)

    @property
    def fewest_sites(self) -> int:
        """How many good replies a round needs at the least for the centre to mean what it says."""
        needed = {"krum": 2 * self.hostile + 3, "trimmed-mean": 2 * self.hostile + 1, "median": 3, "norm-bound": 3}
        return needed.get(self.centre, 1)

    @property
    def why_fewest(self) -> str:
        """Where that depends on a part: which, in words to go behind the number."""
        needed = {"krum": "2 hostile + 3", "trimmed-mean": "2 hostile + 1"}.get(self.centre)
        return "" if needed is None else f" ({needed}, with hostile = {self.hostile})"

    def to_json(self) -> dict[str, Any]:
        """The strategy as plain JSON values; `strategy_from_json` is its inverse."""
        return asdict(self)


def strategy_from_json(asked: object) -> Strategy:
    """The strategy of a name, or of a table with a name and changes to its parts, as users write it in TOML.

    Raises:
        ConfigurationError: the name is unknown (the text lists those there are), or a value breaks its rule.
    """
    if isinstance(asked, str):
        return named_strategy(asked)
    if not isinstance(asked, Mapping):
        raise ConfigurationError(f"strategy must be a name or a table with a name, got {asked!r}")
    base = named_strategy(asked.get("name", "fedavg"))
    changes = {name: value for name, value in asked.items() if name not in ("name", "rule")}
    parts, local = ([item.name for item in fields(kind)] for kind in (Strategy, LocalRule))
    for name in sorted(set(changes) - set(parts) - set(local)):
        raise ConfigurationError(f"a strategy has no part {name!r}; known are {', '.join(sorted({*parts, *local}))}")
    told = asked.get("rule", {})
    if not isinstance(told, Mapping):
        raise ConfigurationError(f"rule of a strategy must be a table, got {told!r}")
    rule = {**told, **{name: value for name, value in changes.items() if name in local}}
    own = {name: value for name, value in changes.items() if name not in local}
    return replace(base, rule=LocalRule.from_json({**base.rule.to_json(), **rule}), **own)


def named_strategy(name: object) -> Strategy:
    """The preset of this name.

    Raises:
        ConfigurationError: there is none.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigurationError(f"there is no strategy {name!r}; known are {', '.join(PRESETS)}")
    return Strategy(name, **PRESETS[name])


def check_private(strategy: Strategy) -> None:
    """See that a strategy fits a private run.

    Raises:
        ConfigurationError: it does not; the text says why.
    """
    rule, name = strategy.rule, strategy.name
    if rule.proximal:
        raise ConfigurationError(f"in a private run the pull of {name} is said in its privacy settings: proximal = ...")
    for asked, why in (
        (rule.control, "its control variates are made of gradients that the noise does not cover"),
        (rule.dynamic, "its memory at the sites is not accounted for"),
        (rule.local_norms, "norms that stay at a site would be trained outside what is accounted for"),
        (rule.personal, "a personal model is trained on patients without noise"),
        (strategy.shares == "loss", "its weights are losses, which a private run withholds"),
    ):
        if asked:
            raise ConfigurationError(f"a private run cannot have the strategy {name}: {why}; {_PRIVATE}")


def check_exchange(strategy: Strategy, exchange: Exchange) -> None:
    """See that a strategy can do with what an exchange leaves of updates.

    Raises:
        ConfigurationError: it cannot; the text says why.
    """
    if strategy.centre in ("median", "trimmed-mean") and exchange.name in _COARSE:
        raise ConfigurationError(
            f"the strategy {strategy.name} cannot have the exchange {exchange.name}: it leaves too little of each "
            "site's change for the middle of them to mean anything; choose compact, or krum"
        )


def _check_name(strategy: Strategy) -> None:
    """Whether a name still says what its preset is about."""
    usual = PRESETS[strategy.name]
    rule = usual.get("rule", LocalRule())
    gone = [n for n in ("normalised", "centre", "optimizer") if n in usual and getattr(strategy, n) != usual[n]]
    gone += [name for name, value in rule.to_json().items() if value and not getattr(strategy.rule, name)]
    if "average" in usual and not strategy.average:
        gone.append("average")
    if usual.get("shares") == "loss" and strategy.shares != "loss":
        gone.append("shares")
    for name in gone:
        raise ConfigurationError(
            f"{strategy.name} is nothing without its {name}; leave that as it is, or take another name, such as fedavg"
        )


def _check_together(strategy: Strategy) -> None:
    robust, unequal = strategy.centre != "mean", strategy.shares != "equal"
    stepped = strategy.optimizer != "none" or strategy.server_rate != 1
    for asked, why in (
        (robust and unequal, 'a robust centre cannot believe what sites say of themselves; say shares = "equal"'),
        (strategy.rule.dynamic and unequal, 'FedDyn\'s memory is an equal mean; say shares = "equal"'),
        (strategy.rule.control and unequal, 'SCAFFOLD\'s control variates are an equal mean; say shares = "equal"'),
        (strategy.rule.dynamic and strategy.normalised, "FedDyn corrects unequal local work itself"),
        (strategy.rule.control and strategy.normalised, "SCAFFOLD corrects unequal local work itself"),
        (strategy.rule.dynamic and robust, "FedDyn's memory follows the mean of all updates"),
        (strategy.rule.dynamic and stepped, "FedDyn takes the server's step itself"),
        (
            strategy.rule.dynamic and strategy.rule.local_norms,
            "FedDyn's memory is of a model that all begin a round with",
        ),
        (
            strategy.rule.local_norms and stepped,
            "norms that stay at sites (FedBN) take no step of the server's; leave out one of both",
        ),
        (strategy.normalised and robust, "FedNova weighs every update, a robust centre none"),
        (strategy.rule.control and robust, "SCAFFOLD's control variates are means, which one hostile site can move"),
    ):
        if asked:
            raise ConfigurationError(f"the parts of the strategy {strategy.name} do not go together: {why}")


def _check_read(strategy: Strategy) -> None:
    """Whether what was set is read by anything."""
    for name, part, readers in _READ_BY:
        if getattr(strategy, name) != _DEFAULTS[name] and getattr(strategy, part) not in readers:
            raise ConfigurationError(f"{name} of a strategy has no effect unless {part} is {' or '.join(readers)}")


_READ_BY = (
    ("momentum", "optimizer", ("momentum", "adam", "yogi")),
    ("second", "optimizer", ("adam", "yogi")),
    ("floor", "optimizer", ("adam", "yogi")),
    ("hostile", "centre", ("trimmed-mean", "krum")),
)
_DEFAULTS = {item.name: item.default for item in fields(Strategy)}
_RANGES = (
    ("server_rate", 1e-6, 10.0, "[1e-6, 10]"),
    ("momentum", 0.0, 0.999, "[0, 0.999]"),
    ("second", 0.0, 0.9999, "[0, 0.9999]"),
    ("floor", 1e-10, 1.0, "[1e-10, 1]"),
    ("average", 0.0, 0.999, "[0, 0.999]"),
)
# What each name changes of plain averaging. Every part can be set beside the name.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fedavg": {},
    "fedprox": {"rule": LocalRule(proximal=0.01)},
    "fedavgm": {"optimizer": "momentum"},
    "fedadam": {"optimizer": "adam", "server_rate": 0.005},
    "fedyogi": {"optimizer": "yogi", "server_rate": 0.005},
    "scaffold": {"rule": LocalRule(control=True), "shares": "equal"},
    "fedbn": {"rule": LocalRule(local_norms=True)},
    "feddyn": {"rule": LocalRule(dynamic=0.1), "shares": "equal"},
    "fednova": {"normalised": True},
    "ditto": {"rule": LocalRule(personal=0.01)},
    "qfedavg": {"shares": "loss"},
    "averaged": {"average": 0.8},
    "median": {"centre": "median", "shares": "equal"},
    "trimmed-mean": {"centre": "trimmed-mean", "shares": "equal"},
    "krum": {"centre": "krum", "shares": "equal"},
    "norm-bound": {"centre": "norm-bound", "shares": "equal"},
}
