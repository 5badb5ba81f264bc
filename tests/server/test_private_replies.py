"""What the coordinator takes from sites in a private run: a promise no weaker than was asked, and nothing withheld."""

import math
from dataclasses import replace
from typing import Any

import pytest

from client.contract import PrepareReply, TrainReply
from client.privacy.promise import Promise
from client.privacy.settings import PrivacySettings
from segformer3d.errors import ReplyError
from segformer3d.training import TrainingReport, ValidationReport
from server.aggregation import apply, init
from server.exchange import read_train
from server.replies import check_prepare, longest_update

from ..client.tiny_site import RUN, tiny_weights
from .tiny_federation import moved

WEIGHTS = tiny_weights()
ASKED = PrivacySettings(epsilon=8.0, patients=4)
PROMISE = Promise(7.9, 1e-5, 0.0, 2.5, 1.0, 20, 4, proven=True)
NOTHING = ValidationReport((math.nan,), math.nan, 0, math.nan)
READY = PrepareReply("site-3", RUN, 4, 0, 0, (), math.nan, PROMISE)
REPLY = TrainReply(
    "site-3", RUN, 1, moved(WEIGHTS, 0.01), TrainingReport(math.nan, 4, 8, 2, math.nan), NOTHING, PROMISE
)


def read(reply: TrainReply, ready: PrepareReply = READY) -> TrainReply:
    return read_train(reply.encode(), ready, round_number=1, weights=WEIGHTS, longest=lambda: longest_update(WEIGHTS))


def test_a_promise_arrives_as_it_was_made():
    assert PrepareReply.decode(READY.encode()).promise == PROMISE
    assert read(REPLY).promise == PROMISE
    check_prepare(PrepareReply.decode(READY.encode()), RUN, 1, ASKED)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"promise": None}, "asks for privacy that it does not promise"),
        ({"promise": replace(PROMISE, epsilon=8.1)}, "it would spend epsilon 8.1 where 8 is asked for"),
        ({"promise": replace(PROMISE, epsilon=math.nan)}, "numbers out of their ranges"),
        ({"promise": replace(PROMISE, spent=-1.0)}, "numbers out of their ranges"),
        ({"promise": replace(PROMISE, patients=0)}, "numbers out of their ranges"),
        ({"seconds": 3.0}, "its seconds were to be withheld"),
        ({"balance": (0.1,)}, "class balance must be 0 shares"),
    ],
)
def test_a_site_that_promises_less_or_says_more_takes_no_part(changed: dict[str, Any], text: str):
    with pytest.raises(ReplyError, match=text):
        check_prepare(replace(READY, **changed), RUN, 1, ASKED)


def test_a_promise_that_nobody_asked_for_is_refused():
    with pytest.raises(ReplyError, match="has no privacy, and it promises one"):
        check_prepare(replace(READY, balance=(0.1,), seconds=1.0), RUN, 1, None)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"promise": None}, "began the run with other privacy"),
        ({"training": TrainingReport(0.5, 4, 8, 2, math.nan)}, "its training loss was to be withheld"),
        ({"training": TrainingReport(math.nan, 4, 8, 2, 1.0)}, "its seconds were to be withheld"),
        ({"training": TrainingReport(math.nan, 5, 8, 2, math.nan)}, "it trained on 5 cases and had prepared 4"),
        ({"validation": ValidationReport((0.5,), 0.5, 1, 1.0)}, "it validated on 1 cases and had prepared 0"),
    ],
)
def test_a_reply_that_says_what_was_to_be_withheld_is_set_aside(changed: dict[str, Any], text: str):
    with pytest.raises(ReplyError, match=text):
        read(replace(REPLY, **changed))


@pytest.mark.parametrize("text", ["{}", "[]", "x", '{"epsilon": 1}', '{"epsilon": "8"}'])
def test_a_promise_that_is_none_is_refused(text: str):
    records = READY.encode()
    records["about"]["promise"] = text
    with pytest.raises(ReplyError, match="promise"):
        PrepareReply.decode(records)


def test_sites_are_weighted_by_public_numbers():
    other = replace(REPLY, site="site-4", training=replace(REPLY.training, cases=12))
    _, diagnostics = apply(init(WEIGHTS), [REPLY, other])
    assert diagnostics.shares == {"site-3": 0.25, "site-4": 0.75}
