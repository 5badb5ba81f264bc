"""The contract of the messages: everything that travels between coordinator and site, and nothing else.

A run is one `query` (the site prepares its data), one `train` a round (the site measures the global model, then trains
it) and one `evaluate` at the end (the site measures the final model). Requests carry the global weights in the record
"arrays" and their settings in "config"; replies carry an update in "arrays", numbers in "metrics" and who answers what
in "about". With SCAFFOLD both carry control variates in "control". Reading is strict: records, names and types are
exactly these, and any difference is a `ReplyError`.

In a private run the requests say what is asked for, and the replies what the site promises its patients; what the
promise does not pay for is withheld: NaN, or a number that everyone knows (see `client.privacy.release`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MessageType, MetricRecord, RecordDict

from client.names import CONTRACT_VERSION, RUN_NAME, SITE_NAME
from client.privacy.promise import Promise
from client.privacy.settings import PrivacySettings
from client.records import check_names, read_fields, read_json, record_of
from client.strategies.rule import LocalRule
from client.weights import Weights, decode_weights, encode_weights, parameter_norm
from segformer3d.errors import ReplyError
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task, task_from_json
from segformer3d.training import TrainingReport, ValidationReport

ARRAYS, CONFIG, METRICS, ABOUT, CONTROL = "arrays", "config", "metrics", "about", "control"
PLAIN = LocalRule()
PREPARE, TRAIN, EVALUATE = MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE

# The numbers of each message by their names on the wire.
_ASKED = {"round": int, "rounds": int, "local_epochs": int, "seed": int}
_PREPARED = {"train_cases": int, "validation_cases": int, "set_aside": int, "balance": list, "seconds": float}
_TRAINING = {"loss": float, "cases": int, "samples": int, "steps": int, "seconds": float}
_VALIDATION = {"dice": list, "loss": float, "cases": int, "seconds": float}


@dataclass(frozen=True)
class PrepareRequest:
    """To a site at the start of a run of so many rounds: read, check and cache your data for this task."""

    run: str
    task: Task
    rounds: int
    privacy: PrivacySettings | None = None

    def encode(self) -> RecordDict:
        """The message's content."""
        asked = {"rounds": self.rounds, "task": _text(self.task), "privacy": _text(self.privacy)}
        return RecordDict({CONFIG: _config(self.run, **asked)})

    @classmethod
    def decode(cls, records: RecordDict) -> "PrepareRequest":
        """Read a request.

        Raises:
            ReplyError: it breaks the contract.
            ConfigurationError: the task or the privacy in it breaks a rule.
        """
        values = _read_config(records, {CONFIG}, {"rounds": int, "task": str, "privacy": str})
        values["task"] = task_from_json(read_json("task", values["task"]))
        return cls(**{**values, "privacy": _read_privacy(values["privacy"])})


@dataclass(frozen=True)
class PrepareReply:
    """What a site says about its data, and all that it says.

    Attributes:
        site, run: who answers what.
        train_cases, validation_cases: cases that it will train and validate on.
        set_aside: damaged cases that it leaves out.
        balance: mean share of voxels per structure over its training cases, in [0, 1].
        seconds: how long reading, checking and caching took.
        promise: in a private run, what it will cost each patient; `train_cases` is the public number of patients then.
    """

    site: str
    run: str
    train_cases: int
    validation_cases: int
    set_aside: int
    balance: tuple[float, ...]
    seconds: float
    promise: Promise | None = None

    def encode(self) -> RecordDict:
        """The message's content."""
        about = _about(self.site, self.run, 0, self.promise)
        return RecordDict({METRICS: MetricRecord(_numbers(self, _PREPARED)), ABOUT: about})

    @classmethod
    def decode(cls, records: RecordDict) -> "PrepareReply":
        """Read a reply.

        Raises:
            ReplyError: it breaks the contract.
        """
        site, run, _, promise = _read_about(records, {METRICS, ABOUT})
        numbers = _read_metrics(records, _PREPARED)
        return cls(site, run, **{**numbers, "balance": tuple(numbers["balance"])}, promise=promise)


@dataclass(frozen=True, eq=False)
class TrainRequest:
    """To a site in a round: measure this global model, then train it.

    Attributes:
        run: the run's id, the same after it was resumed.
        round: which round this is, from 1.
        rounds: how many there will be.
        local_epochs: passes over the site's training cases; a private round has `privacy.local_steps` steps instead.
        seed: of the run.
        task, training: what to train on what, and how.
        weights: all of the global model.
        privacy: what is asked for, in a private run.
        rule: the site's part of the strategy.
        control: of SCAFFOLD, the mean control variate by parameter; None without.
    """

    run: str
    round: int
    rounds: int
    local_epochs: int
    seed: int
    task: Task
    training: TrainingSettings
    weights: Weights
    privacy: PrivacySettings | None = None
    rule: LocalRule = PLAIN
    control: Weights | None = None

    def encode(self) -> RecordDict:
        """The message's content."""
        texts = {name: _text(getattr(self, name)) for name in ("task", "training", "privacy", "rule")}
        config = _config(self.run, **texts, **_numbers(self, _ASKED))
        return RecordDict({ARRAYS: encode_weights(self.weights), **_control(self.control), CONFIG: config})

    @classmethod
    def decode(cls, records: RecordDict) -> "TrainRequest":
        """Read a request.

        Raises:
            ReplyError: it breaks the contract.
            ConfigurationError: the task, the training settings, the privacy or the rule in it break a rule.
        """
        texts = dict.fromkeys(("task", "training", "privacy", "rule"), str)
        values = _read_config(records, {ARRAYS, CONFIG, *_has_control(records)}, {**_ASKED, **texts})
        values["privacy"] = _read_privacy(values["privacy"])
        values["task"] = task_from_json(read_json("task", values["task"]))
        values["training"] = TrainingSettings.from_json(read_json("training", values["training"]))
        values["rule"] = LocalRule.from_json(read_json("rule", values["rule"]))
        return cls(**values, weights=_read_weights(records), control=_read_control(records, values["rule"]))


@dataclass(frozen=True, eq=False)
class TrainReply:
    """A site's part of a round.

    Attributes:
        site, run, round: who answers what.
        update: parameters as local minus global, a batch norm's buffers as values.
        training: of the local training.
        validation: of the global model as received, on the site's own validation cases.
        promise: in a private run, with what was spent so far; `training.cases` is the public number of patients then.
        control: of SCAFFOLD, how the site's control variate has changed, by parameter; None without.
    """

    site: str
    run: str
    round: int
    update: Weights
    training: TrainingReport
    validation: ValidationReport
    promise: Promise | None = None
    control: Weights | None = None

    @cached_property
    def update_norm(self) -> float:
        """Euclidean norm of the parameters' update."""
        return parameter_norm(self.update)

    def encode(self) -> RecordDict:
        """The message's content."""
        numbers = _numbers(self.training, _TRAINING, "training_") | _numbers(
            self.validation, _VALIDATION, "validation_"
        )
        about = _about(self.site, self.run, self.round, self.promise)
        arrays = {ARRAYS: encode_weights(self.update), **_control(self.control)}
        return RecordDict({**arrays, METRICS: MetricRecord(numbers), ABOUT: about})

    @classmethod
    def decode(cls, records: RecordDict) -> "TrainReply":
        """Read a reply; whether its numbers make sense is for the server to say.

        Raises:
            ReplyError: it breaks the contract.
        """
        site, run, round_number, promise = _read_about(records, {ARRAYS, METRICS, ABOUT, *_has_control(records)})
        numbers = _read_metrics(records, _prefixed("training_", _TRAINING) | _prefixed("validation_", _VALIDATION))
        training = TrainingReport(**{name: numbers[f"training_{name}"] for name in _TRAINING})
        update, validation = _read_weights(records), _validation(numbers)
        control = decode_weights(record_of(records, CONTROL, ArrayRecord)) if CONTROL in records else None
        return cls(site, run, round_number, update, training, validation, promise, control)


@dataclass(frozen=True, eq=False)
class EvaluateRequest:
    """To a site after the last round: measure this model. `round` is the number of rounds that it was trained for."""

    run: str
    round: int
    task: Task
    weights: Weights
    rule: LocalRule = PLAIN

    def encode(self) -> RecordDict:
        """The message's content."""
        config = _config(self.run, round=self.round, task=_text(self.task), rule=_text(self.rule))
        return RecordDict({ARRAYS: encode_weights(self.weights), CONFIG: config})

    @classmethod
    def decode(cls, records: RecordDict) -> "EvaluateRequest":
        """Read a request.

        Raises:
            ReplyError: it breaks the contract.
            ConfigurationError: the task or the rule in it breaks a rule.
        """
        values = _read_config(records, {ARRAYS, CONFIG}, {"round": int, "task": str, "rule": str})
        values["task"] = task_from_json(read_json("task", values["task"]))
        values["rule"] = LocalRule.from_json(read_json("rule", values["rule"]))
        return cls(**values, weights=_read_weights(records))


@dataclass(frozen=True)
class EvaluateReply:
    """The final model on a site's own validation cases."""

    site: str
    run: str
    round: int
    validation: ValidationReport

    def encode(self) -> RecordDict:
        """The message's content."""
        metrics = MetricRecord(_numbers(self.validation, _VALIDATION, "validation_"))
        return RecordDict({METRICS: metrics, ABOUT: _about(self.site, self.run, self.round)})

    @classmethod
    def decode(cls, records: RecordDict) -> "EvaluateReply":
        """Read a reply.

        Raises:
            ReplyError: it breaks the contract.
        """
        site, run, round_number, _ = _read_about(records, {METRICS, ABOUT})
        return cls(site, run, round_number, _validation(_read_metrics(records, _prefixed("validation_", _VALIDATION))))


def _control(weights: Weights | None) -> dict[str, ArrayRecord]:
    return {} if weights is None else {CONTROL: encode_weights(weights)}


def _has_control(records: RecordDict) -> set[str]:
    """A record that may be there; whether it must is for the rule to say."""
    return {CONTROL} & set(records)


def _read_control(records: RecordDict, rule: LocalRule) -> Weights | None:
    if rule.control != (CONTROL in records):
        raise ReplyError("the message and its strategy disagree about control variates")
    return decode_weights(record_of(records, CONTROL, ArrayRecord)) if rule.control else None


def _text(value: Task | TrainingSettings | PrivacySettings | Promise | LocalRule | None) -> str:
    return "" if value is None else json.dumps(value.to_json())


def _read_privacy(text: str) -> PrivacySettings | None:
    return PrivacySettings.from_json(read_json("privacy", text)) if text else None


def _numbers(source: object, fields: Mapping[str, type], prefix: str = "") -> dict[str, Any]:
    """Plain Python numbers, as Flower's records take no NumPy scalar."""
    values = {name: getattr(source, name) for name in fields}
    return {
        prefix + name: [float(v) for v in values[name]] if kind is list else kind(values[name])
        for name, kind in fields.items()
    }


def _prefixed(prefix: str, fields: Mapping[str, type]) -> dict[str, type]:
    return {prefix + name: kind for name, kind in fields.items()}


def _validation(numbers: Mapping[str, Any]) -> ValidationReport:
    values = {name: numbers[f"validation_{name}"] for name in _VALIDATION}
    return ValidationReport(**{**values, "dice": tuple(values["dice"])})


def _config(run: str, **values: Any) -> ConfigRecord:
    return ConfigRecord({"contract": CONTRACT_VERSION, "run": run, **values})


def _about(site: str, run: str, round_number: int, promise: Promise | None = None) -> ConfigRecord:
    who: dict[str, Any] = {"site": site, "run": run, "round": round_number}
    return ConfigRecord({"contract": CONTRACT_VERSION, **who, "promise": _text(promise)})


def _read_metrics(records: RecordDict, fields: Mapping[str, type]) -> dict[str, Any]:
    return read_fields(record_of(records, METRICS, MetricRecord), fields, METRICS)


def _read_weights(records: RecordDict) -> Weights:
    return decode_weights(record_of(records, ARRAYS, ArrayRecord))


def _read_config(records: RecordDict, names: set[str], fields: Mapping[str, type]) -> dict[str, Any]:
    """The settings of a request, without the version."""
    _check_version(records, CONFIG, "the coordinator")
    check_names(records, names, "the message")
    values = read_fields(record_of(records, CONFIG, ConfigRecord), {"contract": int, "run": str, **fields}, CONFIG)
    if not RUN_NAME.fullmatch(values["run"]):
        raise ReplyError("the run's id must be 1 to 64 letters, digits, - and _")
    return {name: value for name, value in values.items() if name != "contract"}


def _read_about(records: RecordDict, names: set[str]) -> tuple[str, str, int, Promise | None]:
    """Site, run, round and promise of a reply."""
    _check_version(records, ABOUT, "the site")
    check_names(records, names, "the message")
    fields = {"contract": int, "site": str, "run": str, "round": int, "promise": str}
    values = read_fields(record_of(records, ABOUT, ConfigRecord), fields, ABOUT)
    if not SITE_NAME.fullmatch(values["site"]):
        raise ReplyError("the site's name must be 1 to 40 letters, digits, - and _")
    promise = Promise.from_json(read_json("promise", values["promise"])) if values["promise"] else None
    return values["site"], values["run"], values["round"], promise


def _check_version(records: RecordDict, name: str, sender: str) -> None:
    """First of all, since another version may differ in anything else."""
    version = record_of(records, name, ConfigRecord).get("contract")
    if type(version) is not int or version != CONTRACT_VERSION:
        spoken = version if type(version) is int else "none"
        raise ReplyError(f"{sender} speaks version {spoken} of the message contract, and this end {CONTRACT_VERSION}")
