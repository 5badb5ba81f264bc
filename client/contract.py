"""The contract of the messages: everything that travels between coordinator and site, and nothing else.

A run is one `query` (the site prepares its data), one `train` a round (the site measures the global model, then trains
it) and one `evaluate` at the end (the site measures the final model). Requests carry the global weights in the record
"arrays" and their settings in "config"; replies carry an update in "arrays", numbers in "metrics" and who answers what
in "about". With SCAFFOLD both carry control variates in "control". Reading is strict: records, names and types are
exactly these, and any difference is a `ReplyError`.

In a private run the requests say what is asked for, and the replies what the site promises its patients; what the
promise does not pay for is withheld: NaN, or a number that everyone knows (see `client.privacy.release`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MessageType, MetricRecord, RecordDict

from client.envelope import ABOUT, CONFIG, about_of, config_of, read_about, read_config, text_of
from client.exchange.parcel import OpenModel, OpenUpdate, is_packed, plain_model, record_of_payload
from client.exchange.settings import EXCHANGES, PLAIN, Exchange, named_exchange
from client.exchange.variates import open_control, pack_control
from client.names import DIGEST
from client.privacy.promise import Promise
from client.privacy.settings import PrivacySettings
from client.records import read_fields, read_json, record_of
from client.strategies.rule import LocalRule
from client.weights import Weights, check_layout, decode_weights, encode_weights, parameter_norm, parameters_of
from segformer3d.errors import ReplyError
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task, task_from_json
from segformer3d.training_reports import TrainingReport, ValidationReport

ARRAYS, METRICS, CONTROL = "arrays", "metrics", "control"
PREPARE, TRAIN, EVALUATE = MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE

# The numbers of each message by their names on the wire.
_ASKED = {"round": int, "rounds": int, "local_epochs": int, "seed": int, "counted": int}
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
        asked = {"rounds": self.rounds, "task": text_of(self.task), "privacy": text_of(self.privacy)}
        return RecordDict({CONFIG: config_of(self.run, **asked)})

    @classmethod
    def decode(cls, records: RecordDict) -> "PrepareRequest":
        """Read a request.

        Raises:
            ReplyError: it breaks the contract.
            ConfigurationError: the task or the privacy in it breaks a rule.
        """
        values = read_config(records, {CONFIG}, {"rounds": int, "task": str, "privacy": str})
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
        holds: digest of the model of this run that it holds, see `client.exchange`; empty where it holds none.
    """

    site: str
    run: str
    train_cases: int
    validation_cases: int
    set_aside: int
    balance: tuple[float, ...]
    seconds: float
    promise: Promise | None = None
    holds: str = ""

    def encode(self) -> RecordDict:
        """The message's content."""
        about = about_of(self.site, self.run, 0, self.promise)
        about["holds"] = self.holds
        return RecordDict({METRICS: MetricRecord(_numbers(self, _PREPARED)), ABOUT: about})

    @classmethod
    def decode(cls, records: RecordDict) -> "PrepareReply":
        """Read a reply.

        Raises:
            ReplyError: it breaks the contract.
        """
        site, run, _, promise, holds = read_about(records, {METRICS, ABOUT}, ("holds",))
        if not DIGEST.fullmatch(holds):
            raise ReplyError("what the site holds must be told by a digest")
        numbers = _read_metrics(records, _PREPARED)
        return cls(site, run, **{**numbers, "balance": tuple(numbers["balance"])}, promise=promise, holds=holds)


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
        exchange: how the model came, and how the update shall travel.
        counted: the last round whose reply of this site went into the model, 0 for none; what the site remembers of
            later ones does not count either. The one thing that differs from site to site, see `counting`.
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
    rule: LocalRule = field(default_factory=LocalRule)
    control: Weights | None = None
    exchange: Exchange = EXCHANGES[PLAIN]
    counted: int = 0

    def encode(self, payload: bytes | None = None) -> RecordDict:
        """The message's content, with this payload in the place of plain weights."""
        texts = {name: text_of(getattr(self, name)) for name in ("task", "training", "privacy", "rule")}
        config = config_of(self.run, exchange=self.exchange.name, **texts, **_numbers(self, _ASKED))
        packed = None if self.control is None else pack_control(self.control, self.exchange)[1]
        return RecordDict({ARRAYS: _arrays(self.weights, payload), **_control(self.control, packed), CONFIG: config})

    @classmethod
    def decode(cls, records: RecordDict, open_model: OpenModel = plain_model) -> "TrainRequest":
        """Read a request.

        Raises:
            ReplyError: it breaks the contract.
            ConfigurationError: the task, the training settings, the exchange, the privacy or the rule in it break a
                rule.
        """
        texts = dict.fromkeys(("task", "training", "privacy", "exchange", "rule"), str)
        values = read_config(records, {ARRAYS, CONFIG, *_has_control(records)}, {**_ASKED, **texts})
        values["privacy"] = _read_privacy(values["privacy"])
        values["task"] = task_from_json(read_json("task", values["task"]))
        values["training"] = TrainingSettings.from_json(read_json("training", values["training"]))
        values["exchange"] = named_exchange(values["exchange"])
        values["rule"] = LocalRule.from_json(read_json("rule", values["rule"]))
        if not 0 <= values["counted"] < values["round"]:
            raise ReplyError("the last round that counted must be one before this round")
        arrays = record_of(records, ARRAYS, ArrayRecord)
        if values["exchange"].plain == is_packed(arrays):
            raise ReplyError("the model does not travel as the run's exchange says")
        weights = open_model(values["run"], values["task"], arrays)
        return cls(
            **values, weights=weights, control=_read_control(records, values["rule"], values["exchange"], weights)
        )


def counting(request: RecordDict, counted: int) -> RecordDict:
    """An encoded request to train, for a site of which this is the last round that counted; the rest is shared."""
    config = record_of(request, CONFIG, ConfigRecord)
    return RecordDict({**request, CONFIG: ConfigRecord({**config, "counted": counted})})


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
        payload: at the site, the update as it travels; None where it travels as it is.
        packed_control: of `control`, likewise.
    """

    site: str
    run: str
    round: int
    update: Weights
    training: TrainingReport
    validation: ValidationReport
    promise: Promise | None = None
    control: Weights | None = None
    payload: bytes | None = None
    packed_control: bytes | None = None

    @cached_property
    def update_norm(self) -> float:
        """Euclidean norm of the parameters' update."""
        return parameter_norm(self.update)

    def encode(self) -> RecordDict:
        """The message's content."""
        numbers = _numbers(self.training, _TRAINING, "training_") | _numbers(
            self.validation, _VALIDATION, "validation_"
        )
        about = about_of(self.site, self.run, self.round, self.promise)
        arrays = {ARRAYS: _arrays(self.update, self.payload), **_control(self.control, self.packed_control)}
        return RecordDict({**arrays, METRICS: MetricRecord(numbers), ABOUT: about})

    @classmethod
    def decode(
        cls, records: RecordDict, open_update: OpenUpdate = decode_weights, open_control: OpenUpdate = decode_weights
    ) -> "TrainReply":
        """Read a reply; whether its numbers make sense is for the server to say.

        Raises:
            ReplyError: it breaks the contract.
        """
        names = {ARRAYS, METRICS, ABOUT, *_has_control(records)}
        site, run, round_number, promise, *_ = read_about(records, names)
        numbers = _read_metrics(records, _prefixed("training_", _TRAINING) | _prefixed("validation_", _VALIDATION))
        training = TrainingReport(**{name: numbers[f"training_{name}"] for name in _TRAINING})
        update, validation = open_update(record_of(records, ARRAYS, ArrayRecord)), _validation(numbers)
        control = open_control(record_of(records, CONTROL, ArrayRecord)) if CONTROL in records else None
        return cls(site, run, round_number, update, training, validation, promise, control)


@dataclass(frozen=True, eq=False)
class EvaluateRequest:
    """To a site after the last round: measure this model. `round` is the number of rounds that it was trained for."""

    run: str
    round: int
    task: Task
    weights: Weights
    rule: LocalRule = field(default_factory=LocalRule)

    def encode(self, payload: bytes | None = None) -> RecordDict:
        """The message's content, with this payload in the place of plain weights."""
        config = config_of(self.run, round=self.round, task=text_of(self.task), rule=text_of(self.rule))
        return RecordDict({ARRAYS: _arrays(self.weights, payload), CONFIG: config})

    @classmethod
    def decode(cls, records: RecordDict, open_model: OpenModel = plain_model) -> "EvaluateRequest":
        """Read a request.

        Raises:
            ReplyError: it breaks the contract.
            ConfigurationError: the task or the rule in it breaks a rule.
        """
        values = read_config(records, {ARRAYS, CONFIG}, {"round": int, "task": str, "rule": str})
        values["task"] = task_from_json(read_json("task", values["task"]))
        values["rule"] = LocalRule.from_json(read_json("rule", values["rule"]))
        return cls(**values, weights=open_model(values["run"], values["task"], record_of(records, ARRAYS, ArrayRecord)))


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
        return RecordDict({METRICS: metrics, ABOUT: about_of(self.site, self.run, self.round)})

    @classmethod
    def decode(cls, records: RecordDict) -> "EvaluateReply":
        """Read a reply.

        Raises:
            ReplyError: it breaks the contract.
        """
        site, run, round_number, *_ = read_about(records, {METRICS, ABOUT})
        return cls(site, run, round_number, _validation(_read_metrics(records, _prefixed("validation_", _VALIDATION))))


def _control(control: Weights | None, payload: bytes | None) -> dict[str, ArrayRecord]:
    return {} if control is None else {CONTROL: _arrays(control, payload)}


def _has_control(records: RecordDict) -> set[str]:
    """A record that may be there; whether it must is for the rule to say."""
    return {CONTROL} & set(records)


def _read_control(records: RecordDict, rule: LocalRule, exchange: Exchange, model: Weights) -> Weights | None:
    if rule.control != (CONTROL in records):
        raise ReplyError("the message and its strategy disagree about control variates")
    if not rule.control:
        return None
    parameters = parameters_of(model)
    control = open_control(record_of(records, CONTROL, ArrayRecord), exchange, parameters)
    check_layout(control, parameters)
    return control


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


def _read_metrics(records: RecordDict, fields: Mapping[str, type]) -> dict[str, Any]:
    return read_fields(record_of(records, METRICS, MetricRecord), fields, METRICS)


def _arrays(weights: Weights, payload: bytes | None) -> ArrayRecord:
    return encode_weights(weights) if payload is None else record_of_payload(payload)
