"""A finished reply is sent again instead of being made again. Oracles: the reply itself; training is counted."""

from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from client import app as client_app
from client import phases
from client.app import make_client_app
from client.contract import TrainReply
from client.outbox import Outbox
from client.records import digest_of
from client.site import SiteSettings
from segformer3d.files import StorageError

from .tiny_site import RUN, context_of, tiny_site, tiny_weights, train_message, train_request


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rounds that a site has really trained for."""
    done: list[int] = []

    def train_site(site: SiteSettings, request: object, question: str) -> TrainReply:
        done.append(request.round)  # type: ignore[attr-defined]
        return phases.train_site(site, request, question)  # type: ignore[arg-type]

    monkeypatch.setattr(client_app, "train_site", train_site)
    return done


def ask(site: SiteSettings, message: Message) -> RecordDict:
    return make_client_app(lambda context: site, keep_replies=True)(message, context_of()).content


def same(a: RecordDict, b: RecordDict) -> bool:
    return digest_of(a) == digest_of(b)


def test_the_same_question_gets_the_kept_reply(tmp_path: Path, trainings: list[int]) -> None:
    site = tiny_site(tmp_path)
    first, second = ask(site, train_message(1)), ask(site, train_message(1))
    assert same(first, second)
    assert trainings == [1]
    assert "its reply is sent again" in (site.work / "site.log").read_text()


def test_another_question_of_the_same_round_is_answered_anew(tmp_path: Path, trainings: list[int]) -> None:
    site = tiny_site(tmp_path)
    first, second = ask(site, train_message(1)), ask(site, train_message(1, tiny_weights(seed=5)))
    assert not same(first, second)
    assert trainings == [1, 1]


def test_asking_for_the_next_round_is_the_receipt(tmp_path: Path, trainings: list[int]) -> None:
    site = tiny_site(tmp_path)
    for number in (1, 2):
        ask(site, train_message(number))
    assert len(list((site.work / RUN).glob("reply-*.bin"))) == 1
    ask(site, train_message(2))
    assert trainings == [1, 2]


def test_a_damaged_reply_is_made_again(tmp_path: Path, trainings: list[int]) -> None:
    site = tiny_site(tmp_path)
    first = ask(site, train_message(1))
    (kept,) = (site.work / RUN).glob("reply-*.bin")
    for damage in (kept.read_bytes()[:-1], b"", kept.read_bytes()[:40] + b"\0" + kept.read_bytes()[41:]):
        kept.write_bytes(damage)
        assert TrainReply.decode(ask(site, train_message(1))).update_norm == TrainReply.decode(first).update_norm
    assert trainings == [1] * 4


def test_a_site_without_an_outbox_keeps_nothing(tmp_path: Path) -> None:
    site = tiny_site(tmp_path)
    make_client_app(lambda context: site)(train_message(1), context_of())
    assert not list((site.work / RUN).glob("reply-*"))


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in the folder's place")
    with pytest.raises(StorageError):
        Outbox(tmp_path / "run").keep("0" * 64, RecordDict())


def test_a_digest_knows_every_part_of_a_message() -> None:
    question = train_request(1).encode()
    assert digest_of(question) == digest_of(RecordDict(dict(reversed(list(question.items())))))
    others = [train_request(2).encode(), train_request(1, tiny_weights(seed=1)).encode(), RecordDict()]
    others.append(RecordDict({**question, "more": ConfigRecord({})}))
    assert len({digest_of(records) for records in (question, *others)}) == 5
