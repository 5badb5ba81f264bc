"""What the coordinator takes from sites in a private run: a promise no weaker than was asked, and nothing withheld."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import RecordDict

from client.contract import PREPARE, TRAIN, PrepareReply, PrepareRequest, TrainReply, TrainRequest
from client.failures import SAME_VERSION
from client.privacy.promise import Promise
from client.privacy.release import no_validation, public_preparation, public_training
from client.privacy.settings import PrivacySettings
from client.weights import weights_of
from segformer3d.errors import ReplyError
from segformer3d.fit import initial_model
from segformer3d.tasks import adjust
from segformer3d.training_reports import TrainingReport, ValidationReport
from server.aggregation import apply, init
from server.exchange import read_train
from server.records import RoundFinished, SitesReady
from server.replies import check_prepare, longest_update
from server.roster import PHASE
from server.state import begin

from ..client.tiny_site import RUN, TINY, train_request
from .hostile import Change, value
from .tiny_federation import TinyGrid, TinySite, federate, moved, tiny_settings

TASK = adjust(TINY, {"norm": "group"}, {})
WEIGHTS = weights_of(initial_model(TASK, 0))
ASKED = PrivacySettings(epsilon=8.0, patients=4)
PROMISE = Promise(7.9, 1e-5, 0.0, 2.5, 1.0, 20, 4, proven=True)
NOTHING = ValidationReport((math.nan,), math.nan, 0, math.nan)
READY = PrepareReply("site-3", RUN, 4, 0, 0, (), math.nan, PROMISE)
REPLY = TrainReply(
    "site-3", RUN, 1, moved(WEIGHTS, 0.01), TrainingReport(math.nan, 4, 8, 2, math.nan), NOTHING, PROMISE
)
PREPARING = PrepareRequest(RUN, TASK, 3, ASKED)
TRAINING = replace(train_request(weights=WEIGHTS), task=TASK, privacy=ASKED)


def read(reply: TrainReply, ready: PrepareReply = READY) -> TrainReply:
    return read_train(reply.encode(), ready, request=TRAINING, digest="", longest=lambda: longest_update(WEIGHTS))


def test_a_promise_arrives_as_it_was_made():
    assert PrepareReply.decode(READY.encode()).promise == PROMISE
    assert read(REPLY).promise == PROMISE
    check_prepare(PrepareReply.decode(READY.encode()), PREPARING)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"promise": None}, "asks for privacy that it does not promise"),
        ({"promise": replace(PROMISE, epsilon=8.1)}, "it would spend epsilon 8.1 where 8 is asked for"),
        ({"promise": replace(PROMISE, epsilon=math.nan)}, "numbers out of their ranges"),
        ({"promise": replace(PROMISE, spent=-1.0)}, "numbers out of their ranges"),
        ({"promise": replace(PROMISE, patients=0)}, "numbers out of their ranges"),
        ({"promise": replace(PROMISE, withheld=("loss", "the Dice is 0.7"))}, "withholds other numbers"),
        ({"train_cases": 5}, "its train_cases must be 4: a private run withholds"),
        ({"validation_cases": 1}, "its validation_cases must be 0: a private run withholds"),
        ({"set_aside": 1}, "its set_aside must be 0: a private run withholds"),
        ({"balance": (0.1,)}, r"its balance must be \(\): a private run withholds"),
        ({"seconds": 3.0}, "its seconds must be nan: a private run withholds"),
    ],
)
def test_a_site_that_promises_less_or_says_more_takes_no_part(changed: dict[str, Any], text: str):
    with pytest.raises(ReplyError, match=text):
        check_prepare(replace(READY, **changed), PREPARING)


def test_a_promise_that_nobody_asked_for_is_refused():
    with pytest.raises(ReplyError, match="has no privacy, and it promises one"):
        check_prepare(replace(READY, balance=(0.1,), seconds=1.0), replace(PREPARING, privacy=None))


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"promise": None}, "asks for privacy that it does not promise"),
        ({"promise": replace(PROMISE, epsilon=8.1)}, "it would spend epsilon 8.1 where 8 is asked for"),
        ({"training": TrainingReport(0.5, 4, 8, 2, math.nan)}, "its training loss must be nan: a private run"),
        ({"training": TrainingReport(math.inf, 4, 8, 2, math.nan)}, "its training loss must be nan: a private run"),
        ({"training": TrainingReport(math.nan, 5, 8, 2, math.nan)}, "it trained on 5 cases and had prepared 4"),
        ({"training": TrainingReport(math.nan, 4, 7, 2, math.nan)}, "its training samples must be 8: a private run"),
        ({"training": TrainingReport(math.nan, 4, 8, 3, math.nan)}, "its training steps must be 2: a private run"),
        ({"training": TrainingReport(math.nan, 4, 8, 2, 1.0)}, "its training seconds must be nan: a private run"),
        ({"validation": replace(NOTHING, cases=1)}, "it validated on 1 cases and had prepared 0"),
        ({"validation": replace(NOTHING, dice=(0.5,))}, r"its validation dice must be \(nan,\): a private run"),
        ({"validation": replace(NOTHING, dice=())}, r"its validation dice must be \(nan,\): a private run"),
        ({"validation": replace(NOTHING, dice=(math.nan,) * 2)}, r"its validation dice must be \(nan,\): a private"),
        ({"validation": replace(NOTHING, loss=0.5)}, "its validation loss must be nan: a private run"),
        ({"validation": replace(NOTHING, seconds=0.5)}, "its validation seconds must be nan: a private run"),
    ],
)
def test_a_reply_that_says_what_was_to_be_withheld_is_refused(changed: dict[str, Any], text: str):
    with pytest.raises(ReplyError, match=text):
        read(replace(REPLY, **changed))


class PrivateSite(TinySite):
    """Says what `client.privacy.release` lets out."""

    def _reply(self, records: RecordDict, kind: str) -> tuple[RecordDict, int]:
        if kind == PREPARE:
            return public_preparation(self.name, PrepareRequest.decode(records).run, PROMISE).encode(), 0
        request = TrainRequest.decode(records)
        assert request.privacy is not None
        said = public_training(request.privacy, PROMISE), no_validation(request.task)
        update = moved(request.weights, self.step)
        return TrainReply(self.name, request.run, request.round, update, *said, PROMISE).encode(), request.round


@pytest.mark.parametrize(
    ("phase", "change", "reason"),
    [
        (PREPARE, value("metrics", "balance", [0.1]), "its balance must be ()"),
        (TRAIN, value("metrics", "training_loss", 0.5), "its training loss must be nan"),
        (TRAIN, value("metrics", "validation_dice", [0.7]), "its validation dice must be (nan,)"),
        (TRAIN, value("metrics", "validation_dice", [math.nan] * 7), "its validation dice must be (nan,)"),
    ],
    ids=["balance", "loss", "dice", "length"],
)
def test_a_site_that_says_more_is_set_aside_and_the_run_goes_on(
    tmp_path: Path, phase: str, change: Change, reason: str
):
    settings = tiny_settings(task=TASK, privacy=ASKED)
    sites = {n: PrivateSite(f"site-{n}") for n in (1, 2)}
    grid = TinyGrid({**sites, 3: PrivateSite("site-3", change={phase: change})})
    events = federate(grid, tmp_path, settings, begin(RUN, settings, WEIGHTS))
    ready = next(event for event in events if isinstance(event, SitesReady)).sites
    assert len(ready) == (2 if phase == PREPARE else 3)
    rounds = [event.record for event in events if isinstance(event, RoundFinished)]
    assert [[site.site for site in record.sites] for record in rounds] == [["site-1", "site-2"]] * 3
    item = rounds[0].set_aside[0]
    assert (item.site, item.phase, item.remedy) == ("site-3", PHASE if phase == PREPARE else phase, SAME_VERSION)
    assert reason in item.reason


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
