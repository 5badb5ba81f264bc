"""The message contract. Oracle: what was put in comes out, through Flower's own serialisation."""

import math
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from client.contract import (
    EvaluateReply,
    EvaluateRequest,
    PrepareReply,
    PrepareRequest,
    TrainReply,
    TrainRequest,
    counting,
)
from client.exchange.parcel import PACKED
from client.exchange.settings import EXCHANGES
from client.names import CONTRACT_VERSION
from client.strategies.rule import LocalRule
from client.weights import WEIGHTS, Weights, is_buffer
from segformer3d.errors import ConfigurationError, ReplyError
from segformer3d.tasks import Task
from segformer3d.training_reports import TrainingReport, ValidationReport

from .tiny_site import RUN, TINY, tiny_weights, train_request

REPORT = ValidationReport((0.5, 0.25), 1.5, 2, 0.25)
TRAIN_REPLY = TrainReply("site-1", RUN, 3, tiny_weights(), TrainingReport(0.75, 4, 8, 2, 1.5), REPORT)
PREPARE_REPLY = PrepareReply("site-1", RUN, 4, 2, 1, (0.125,), 0.5)
MESSAGES = {
    "prepare request": PrepareRequest(RUN, TINY, 4),
    "prepare reply": PREPARE_REPLY,
    "train request": train_request(),
    "train reply": TRAIN_REPLY,
    "evaluate request": EvaluateRequest(RUN, 4, TINY, tiny_weights()),
    "evaluate reply": EvaluateReply("site-1", RUN, 4, REPORT),
}
Anything = PrepareRequest | PrepareReply | TrainRequest | TrainReply | EvaluateRequest | EvaluateReply


def travel(records: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(records))


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_what_is_sent_arrives(message: Anything) -> None:
    arrived = type(message).decode(travel(message.encode()))
    for name, value in vars(message).items():
        if name in ("weights", "update"):
            assert set(value) == set(vars(arrived)[name])
            for key, array in value.items():
                np.testing.assert_array_equal(vars(arrived)[name][key], array)
        else:
            assert vars(arrived)[name] == value


def test_a_payload_travels_in_the_place_of_weights() -> None:
    compact = EXCHANGES["compact"]
    request = replace(train_request(), exchange=compact)
    asked: list[ArrayRecord] = []

    def opened(run: str, task: Task, record: ArrayRecord) -> Weights:
        assert (run, task) == (RUN, TINY)
        asked.append(record)
        return tiny_weights()

    found = TrainRequest.decode(travel(request.encode(b"model")), opened)
    assert found.exchange == compact
    last = EvaluateRequest(RUN, 4, TINY, tiny_weights())
    EvaluateRequest.decode(travel(last.encode(b"last")), opened)
    reply = replace(TRAIN_REPLY, payload=b"update")
    TrainReply.decode(travel(reply.encode()), lambda record: opened(RUN, TINY, record))
    assert [(record[WEIGHTS].stype, record[WEIGHTS].data) for record in asked] == [
        (PACKED, b"model"),
        (PACKED, b"last"),
        (PACKED, b"update"),
    ]


def test_a_model_travels_as_the_runs_exchange_says() -> None:
    for exchange, payload in (("compact", None), ("fp32", b"model")):
        records = replace(train_request(), exchange=EXCHANGES[exchange]).encode(payload)
        with pytest.raises(ReplyError, match="does not travel as the run's exchange says"):
            TrainRequest.decode(records)
    records = train_request().encode()
    records["config"]["exchange"] = "int3"
    with pytest.raises(ConfigurationError, match="exchange must be one of"):
        TrainRequest.decode(records)


@pytest.mark.parametrize("holds", ["secret_001", "a" * 63, "A" * 64, "a" * 64 + "\n"])
def test_what_a_site_holds_is_a_digest_and_nothing_else(holds: str) -> None:
    assert PrepareReply.decode(replace(PREPARE_REPLY, holds="a" * 64).encode()).holds == "a" * 64
    with pytest.raises(ReplyError, match="by a digest"):
        PrepareReply.decode(replace(PREPARE_REPLY, holds=holds).encode())


def test_numpy_numbers_and_an_absent_structure_travel() -> None:
    report = ValidationReport((np.float32(0.5), math.nan), np.float64(1.5), np.int64(2), 0)  # type: ignore[arg-type]
    arrived = EvaluateReply.decode(travel(EvaluateReply("s", RUN, 4, report).encode())).validation
    assert arrived.dice[0] == 0.5
    assert math.isnan(arrived.dice[1])
    assert (arrived.loss, arrived.cases, arrived.seconds) == (1.5, 2, 0.0)


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("version", [0, 1, True, "1"])
def test_another_version_is_refused_by_name(message: Anything, version: int) -> None:
    records = message.encode()
    record = next(record for record in records.values() if isinstance(record, ConfigRecord))
    record["contract"] = version
    with pytest.raises(
        ReplyError, match=rf"speaks version .* of the message contract, and this end {CONTRACT_VERSION}"
    ):
        type(message).decode(records)


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_every_missing_or_additional_thing_is_refused(message: Anything) -> None:
    for name in message.encode():
        without = message.encode()
        del without[name]
        with pytest.raises(ReplyError):
            type(message).decode(without)
        more = message.encode()
        more["x"] = more[name]
        with pytest.raises(ReplyError, match="the message has an unknown 'x'"):
            type(message).decode(more)


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_every_field_is_needed_with_its_type_and_no_other(message: Anything) -> None:
    for name, record in message.encode().items():
        if isinstance(record, ArrayRecord):
            continue
        for field, value in [*record.items(), ("surplus", 1.0)]:
            changed = message.encode()
            if field == "surplus":
                changed[name]["surplus"] = value  # type: ignore[index]
            else:
                changed[name][field] = b"x" if isinstance(record, ConfigRecord) else _other_kind(value)  # type: ignore[index]
            with pytest.raises(ReplyError):
                type(message).decode(changed)


def _other_kind(value: object) -> object:
    return {float: 1, int: 1.0, list: [1]}[type(value)]


@pytest.mark.parametrize("run", ["", "../up", "a b", "x" * 65, "a/b", "a\n"])
def test_a_run_may_not_lead_out_of_the_work_folder(run: str) -> None:
    with pytest.raises(ReplyError, match="the run's id must be"):
        PrepareRequest.decode(PrepareRequest(run, TINY, 4).encode())


@pytest.mark.parametrize("site", ["", "a b", "x" * 41, "\x1b[0m"])
def test_a_site_has_a_proper_name(site: str) -> None:
    with pytest.raises(ReplyError, match="the site's name must be"):
        PrepareReply.decode(PrepareReply(site, RUN, 1, 1, 0, (0.1,), 0.5).encode())


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"x"'])
def test_settings_are_json_objects(text: str) -> None:
    records = PrepareRequest(RUN, TINY, 4).encode()
    records["config"]["task"] = text  # type: ignore[index]
    with pytest.raises(ReplyError, match="'task' of the message is no JSON object"):
        PrepareRequest.decode(records)


def test_a_task_that_breaks_its_rules_is_refused() -> None:
    records = PrepareRequest(RUN, TINY, 4).encode()
    records["config"]["task"] = "{}"  # type: ignore[index]
    with pytest.raises(ConfigurationError):
        PrepareRequest.decode(records)


def test_a_record_of_another_kind_is_refused() -> None:
    records = TRAIN_REPLY.encode()
    records["arrays"] = MetricRecord({})
    with pytest.raises(ReplyError, match="no ArrayRecord 'arrays'"):
        TrainReply.decode(records)


def test_a_site_is_told_of_its_own_last_round_that_counted() -> None:
    shared = train_request(3).encode()
    assert TrainRequest.decode(travel(counting(shared, 2))).counted == 2
    assert TrainRequest.decode(travel(shared)).counted == 0
    for wrong in (-1, 3, 7):  # of round 3
        with pytest.raises(ReplyError, match="must be one before this round"):
            TrainRequest.decode(counting(train_request(3).encode(), wrong))


def test_control_variates_are_of_the_models_parameters() -> None:
    parameters = {name: value for name, value in tiny_weights().items() if not is_buffer(name)}
    request = replace(train_request(), rule=LocalRule(control=True), control=parameters)
    assert TrainRequest.decode(request.encode()).control is not None
    name, value = next(iter(parameters.items()))
    for wrong in ({**parameters, "w": value}, {**parameters, name: value[:1]}, {n: parameters[n] for n in [name]}):
        with pytest.raises(ReplyError, match="the array"):
            TrainRequest.decode(replace(request, control=wrong).encode())
