"""A site in private runs, through its ClientApp: what it promises, pays, refuses, and keeps to itself."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from client import phases
from client.app import make_client_app
from client.contract import (
    EVALUATE,
    PREPARE,
    TRAIN,
    EvaluateRequest,
    PrepareReply,
    PrepareRequest,
    TrainReply,
    TrainRequest,
)
from client.failures import SITE_REFUSAL
from client.limits import SiteLimits
from client.privacy import phases as private_phases
from client.privacy.accounting import Event, spent
from client.privacy.ledger import read_ledger
from client.privacy.settings import PrivacySettings
from client.records import digest_of
from client.site import SiteSettings
from client.trail import TRAIL
from client.weights import Weights, weights_of
from segformer3d.audit import verify
from segformer3d.fit import initial_model
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task, adjust

from ..tiny_site import TINY, ball_of_one_window, context_of, message_with, tiny_site

TASK = adjust(TINY, {"norm": "group"}, {})
ROUNDS = 3
CASES = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SiteSettings:
    return tiny_site(tmp_path_factory.mktemp("hospital"), cases=CASES, draw=ball_of_one_window)


@pytest.fixture
def site(data: SiteSettings, tmp_path: Path, no_site_remembered: None) -> SiteSettings:
    return replace(data, work=tmp_path / "work")


def asked(**changed: Any) -> PrivacySettings:
    return PrivacySettings(
        **{"epsilon": 8.0, "patients": CASES, "sampling_rate": 0.5, "local_steps": 1, "clip": 1.0, **changed}
    )


def weights(task: Task = TASK) -> Weights:
    return weights_of(initial_model(task, 0))


def preparing(privacy: PrivacySettings | None, run: str = "run-1", task: Task = TASK) -> Message:
    return message_with(PrepareRequest(run, task, ROUNDS, privacy).encode(), PREPARE)


def training(privacy: PrivacySettings | None, number: int = 1, run: str = "run-1", task: Task = TASK) -> Message:
    request = TrainRequest(
        run, number, ROUNDS, 1, 7, task, TrainingSettings(learning_rate=0.01), weights(task), privacy
    )
    return message_with(request.encode(), TRAIN)


def ask(site: SiteSettings, message: Message) -> Message:
    return make_client_app(lambda _: site)(message, context_of())


def train(site: SiteSettings, number: int = 1, run: str = "run-1", **changed: Any) -> TrainReply:
    return TrainReply.decode(content(ask(site, training(asked(**changed), number, run))))


def content(reply: Message) -> RecordDict:
    assert not reply.has_error(), reply.error
    return reply.content


def refusal(reply: Message) -> str:
    assert reply.has_error()
    assert reply.error.code == SITE_REFUSAL
    return str(reply.error.reason)


def limited(site: SiteSettings, **limits: Any) -> SiteSettings:
    return replace(site, limits=SiteLimits(**limits))


def test_the_cost_is_said_before_anything_is_spent(site: SiteSettings):
    promise = PrepareReply.decode(content(ask(site, preparing(asked())))).promise
    assert promise is not None
    assert 7.9 < promise.epsilon <= 8.0
    assert (promise.delta, promise.spent, promise.steps) == (1e-5, 0.0, ROUNDS)
    assert promise.proven
    assert read_ledger(site.ledger_file).contents.events == ()


def test_what_nothing_pays_for_is_withheld(site: SiteSettings):
    ready = PrepareReply.decode(content(ask(site, preparing(asked(patients=5)))))
    reply = train(site, patients=5)
    assert ready.promise is not None
    assert (ready.train_cases, ready.validation_cases, ready.set_aside, ready.balance) == (5, 0, 0, ())  # not 6
    assert (reply.training.cases, reply.training.samples, reply.training.steps) == (5, 2, 1)
    report = (ready.seconds, reply.training.loss, reply.training.seconds, reply.validation.loss, *reply.validation.dice)
    assert all(math.isnan(value) for value in report)
    assert set(ready.promise.withheld) >= {"loss", "dice", "cases", "seconds"}


def test_all_rounds_together_cost_what_was_promised(site: SiteSettings):
    spent = []
    for number in range(1, ROUNDS + 1):
        promise = train(site, number).promise
        assert promise is not None
        spent.append(promise.spent)
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(promise.epsilon, rel=0.005)  # two accountants, the larger one promised
    assert spent[-1] <= 8.0
    contents = read_ledger(site.ledger_file).contents
    assert [(spend.run, spend.round) for spend in contents.spends] == [("run-1", n) for n in range(1, ROUNDS + 1)]
    assert len(contents.releases) == ROUNDS
    assert verify(site.work / TRAIL).lines == ROUNDS  # each spend a second time, in the trail


def test_a_reply_that_is_sent_again_is_charged_once_and_the_same(site: SiteSettings):
    first, again = (content(ask(site, training(asked()))) for _ in range(2))
    assert digest_of(first) == digest_of(again)
    assert len(read_ledger(site.ledger_file).contents.spends) == 1


def test_what_is_computed_anew_is_charged_anew_and_has_new_noise(site: SiteSettings):
    first = train(site)
    for kept in (site.work / "run-1").glob("reply-*.bin"):
        kept.unlink()
    again = train(site)
    assert len(read_ledger(site.ledger_file).contents.spends) == 2
    assert any(not np.array_equal(first.update[name], again.update[name]) for name in first.update)
    assert again.promise is not None
    assert first.promise is not None
    assert again.promise.spent > first.promise.spent


def test_two_runs_compose_and_the_third_is_refused_before_a_gradient(
    site: SiteSettings, monkeypatch: pytest.MonkeyPatch
):
    promise = PrepareReply.decode(content(ask(site, preparing(asked())))).promise
    assert promise is not None
    both = Event(promise.sampling_rate, promise.noise_multiplier, 2 * ROUNDS)
    limit = math.ceil(spent((both,), 1e-5) * 100) / 100  # two runs and hardly more
    site = limited(site, epsilon=limit)
    for run in ("run-1", "run-2"):
        content(ask(site, preparing(asked(), run)))
        for number in range(1, ROUNDS + 1):
            train(site, number, run)
    cost = read_ledger(site.ledger_file).contents.spent(1e-5)
    assert 8.0 < cost < limit
    monkeypatch.setattr(private_phases, "train_private", lambda *_, **__: pytest.fail("a gradient was computed"))
    for message in (preparing(asked(), "run-3"), training(asked(), 1, "run-3")):
        assert f"limit is {limit:g}" in refusal(ask(site, message))
    assert read_ledger(site.ledger_file).contents.spent(1e-5) == cost


def test_a_run_that_goes_on_is_not_asked_to_pay_twice(site: SiteSettings):
    site = limited(site, epsilon=8.0)
    for number in (1, 2):
        train(site, number)
    content(ask(site, preparing(asked())))


def test_the_stricter_wins(site: SiteSettings):
    def promised(site: SiteSettings) -> float:
        promise = PrepareReply.decode(content(ask(site, preparing(asked())))).promise
        assert promise is not None
        assert promise.epsilon <= site.limits.run_epsilon
        return promise.noise_multiplier

    assert promised(limited(site, run_epsilon=2.0)) > 1.5 * promised(site)


def test_a_published_number_of_patients_is_divided_by(site: SiteSettings):
    site = replace(site, patients=CASES)
    reply = PrepareReply.decode(content(ask(site, preparing(asked(patients=3)))))
    assert reply.promise is not None
    assert reply.promise.patients == CASES


@pytest.mark.parametrize(
    ("limits", "privacy", "norm", "text"),
    [
        ({"private_only": True}, None, "group", "with differential privacy only"),
        ({"private_only": True}, asked(noise="seeded"), "group", "with secure noise only"),
        ({}, asked(), "batch", "batch norm"),
        ({}, asked(patients=7), "group", "cohort is smaller than the 7 patients"),
        ({}, asked(patients=2, delta=0.2), "group", "delta 1e-05"),
        ({"epsilon": 1.0}, asked(), "group", "its limit is 1"),
    ],
    ids=["none", "seeded", "batch norm", "small cohort", "delta", "limit"],
)
def test_what_the_site_does_not_allow_is_refused(
    site: SiteSettings, limits: dict[str, Any], privacy: PrivacySettings | None, norm: str, text: str
):
    site = limited(site, **limits)
    task = adjust(TINY, {"norm": norm}, {})
    if "delta" in text:  # the site caps delta by itself; a cap that is too large for its cohort is refused
        site = limited(site, delta=0.9)
        text = "is not below 1 / its number of patients"
    for message in (preparing(privacy, task=task), training(privacy, task=task)):
        if text == "its limit is 1" and message.metadata.message_type == TRAIN:
            continue  # one round alone fits; the whole run does not
        assert text in refusal(ask(site, message))
    assert not list(site.work.glob("*/reply-*.bin"))


def test_a_site_that_is_private_measures_no_model_for_others(site: SiteSettings):
    request = EvaluateRequest("run-1", 4, TASK, weights())
    reply = ask(limited(site, private_only=True), message_with(request.encode(), EVALUATE))
    assert "with differential privacy only" in refusal(reply)


def test_another_run_on_the_same_cohort_waits(site: SiteSettings, monkeypatch: pytest.MonkeyPatch):
    inner: list[Message] = []
    real = private_phases.train_private

    def meanwhile(*arguments: Any, **named: Any) -> Any:
        inner.append(ask(site, training(asked(), 1, "run-2")))
        return real(*arguments, **named)

    monkeypatch.setattr(private_phases, "train_private", meanwhile)
    train(site)
    assert inner[0].has_error()
    assert "ledger is in use" in str(inner[0].error.reason)
    assert len(read_ledger(site.ledger_file).contents.spends) == 1


def test_a_renamed_data_folder_and_renamed_runs_reset_nothing(site: SiteSettings, tmp_path: Path):
    train(site)
    before = read_ledger(site.ledger_file).contents.spent(1e-5)
    moved = tmp_path / "renamed"
    moved.symlink_to(site.data)
    phases._data_of_site.clear()
    train(replace(site, data=moved), 1, "another-run")
    assert read_ledger(site.ledger_file).contents.spent(1e-5) > before


def test_the_ledger_of_other_patients_is_refused(site: SiteSettings, tmp_path: Path):
    train(site)
    other = tiny_site(tmp_path / "other", cases=CASES, seed=99)
    for kind in ("imagesTr", "labelsTr"):
        for path in (other.data / kind).iterdir():
            path.rename(path.with_name(path.name.replace("secret", "stranger")))
    described = other.data / "dataset.json"
    described.write_text(described.read_text().replace("secret", "stranger"))
    reply = ask(replace(other, work=tmp_path / "w2", ledger=site.ledger_file), training(asked()))
    assert reply.has_error()
    assert "of other patients" in str(reply.error.reason)
    assert "another cohort" in (tmp_path / "w2" / "site.log").read_text()
