"""What a site promises its patients in a private run: made of public numbers only, so that it may travel.

The promise is differential privacy (Dwork et al. 2006) for adding or removing one patient with all of his or her cases:
whoever sees everything that the site sends in the run learns about that patient at most what epsilon and delta allow.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any

from client.privacy.accounting import Event, calibrate, prv_epsilon, spent
from client.privacy.settings import PrivacySettings, default_delta
from segformer3d.errors import ReplyError

# What a private site does not say, in the words of `rounds.jsonl`.
WITHHELD = ("loss", "dice", "validation_loss", "cases", "set_aside", "balance", "seconds")


@dataclass(frozen=True)
class Promise:
    """A run at one site.

    Attributes:
        epsilon, delta: what the whole run costs, at most.
        spent: epsilon of what the site has done for the run so far, whether it arrived or not.
        noise_multiplier: standard deviation of the noise over the clipping norm.
        sampling_rate: the chance of a patient to take part in a step.
        steps: of the whole run.
        patients: the public number that sums are divided by.
        proven: whether the noise is secure; nothing is promised with noise that can be worked out from a seed.
        withheld: what the site's replies leave out.
    """

    epsilon: float
    delta: float
    spent: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    patients: int
    proven: bool
    withheld: tuple[str, ...] = WITHHELD

    def event(self, steps: int) -> Event:
        """Some of its steps, for an accountant."""
        return Event(self.sampling_rate, self.noise_multiplier, steps)

    def having_spent(self, epsilon: float) -> "Promise":
        """The same promise later in the run."""
        return replace(self, spent=epsilon)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is its inverse."""
        return {**asdict(self), "withheld": list(self.withheld)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Promise":
        """Read a promise strictly.

        Raises:
            ReplyError: a value is missing, unknown or of the wrong type.
        """
        wrong = {name for name, kind in _KINDS.items() if type(values.get(name)) is not kind}
        if set(values) != {*_KINDS, "withheld"} or wrong or not _are_texts(values["withheld"]):
            raise ReplyError("the site's promise of privacy is not what segfed writes")
        return cls(**{**values, "withheld": tuple(values["withheld"])})


def read_promises(summary: Mapping[str, Any]) -> dict[str, Promise]:
    """What the sites of a run have promised, by their names, from its `summary.json`; empty in a run without privacy.

    Raises:
        ReplyError: a promise is not what segfed writes.
    """
    private = summary["privacy"]
    return {name: Promise.from_json(values) for name, values in private["sites"].items()} if private else {}


def fewest_patients(promises: Mapping[str, Promise]) -> int | None:
    """The public number of patients of the smallest site; None where nobody promises anything."""
    return min((promise.patients for promise in promises.values()), default=None)


_KINDS = {field.name: field.type for field in fields(Promise) if field.name != "withheld"}


def make_promise(asked: PrivacySettings, rounds: int, patients: int, most_epsilon: float, most_delta: float) -> Promise:
    """What a site makes of what is asked: the stricter of both, and the least noise that keeps it.

    Args:
        asked: by the coordinator.
        rounds: of the run.
        patients: the public number.
        most_epsilon, most_delta: what the site allows a run to cost.

    Raises:
        ConfigurationError: no noise keeps it.
    """
    epsilon = min(asked.epsilon, most_epsilon)
    delta = min(default_delta(patients) if asked.delta is None else asked.delta, most_delta)
    steps = rounds * asked.local_steps
    multiplier, cost = _calibrated(epsilon, delta, asked.sampling_rate, steps)
    return Promise(cost, delta, 0.0, multiplier, asked.sampling_rate, steps, patients, proven=asked.noise == "secure")


@lru_cache(maxsize=64)
def _calibrated(epsilon: float, delta: float, sampling_rate: float, steps: int) -> tuple[float, float]:
    """The noise multiplier that keeps epsilon by both accountants, and the larger of what they say it costs."""
    multiplier = calibrate(epsilon, delta, sampling_rate, steps)
    while (cost := _cost(Event(sampling_rate, multiplier, steps), delta)) > epsilon:
        multiplier = round(multiplier * _NUDGE, 4)
    return multiplier, cost


def _cost(event: Event, delta: float) -> float:
    """Where Opacus's accountant can tell in seconds, it must agree."""
    cost = spent((event,), delta)
    confirmed = prv_epsilon((event,), delta) if cost <= _MOST_EPSILON and event.steps <= _MOST_STEPS else 0.0
    return max(cost, confirmed) if math.isfinite(confirmed) else cost


_MOST_EPSILON, _MOST_STEPS, _NUDGE = 20.0, 10_000, 1.002


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
