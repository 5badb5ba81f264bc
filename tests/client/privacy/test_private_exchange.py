"""A private update is made smaller after it was paid for. Oracles: the ledger, and the bytes of the reply."""

from pathlib import Path

import pytest
from flwr.app import ArrayRecord, Message

from client.app import make_client_app
from client.contract import PREPARE, TRAIN, PrepareReply, PrepareRequest, TrainReply, TrainRequest
from client.exchange.at_site import HELD
from client.exchange.parcel import Change, open_update, pack_change, pack_whole
from client.exchange.settings import EXCHANGES
from client.privacy.ledger import read_ledger
from client.privacy.settings import PrivacySettings
from client.site import SiteSettings
from client.weights import WEIGHTS, Weights, is_buffer, weights_of
from segformer3d.fit import initial_model
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import adjust

from ..tiny_site import RUN, TINY, context_of, message_with, tiny_site

TASK = adjust(TINY, {"norm": "group"}, {})
COMPACT = EXCHANGES["compact"]
PRIVACY = PrivacySettings(epsilon=8.0, patients=6, sampling_rate=0.5, local_steps=1, clip=1.0)


@pytest.fixture
def site(tmp_path: Path, no_site_remembered: None) -> SiteSettings:
    return tiny_site(tmp_path, cases=6)


def models() -> tuple[Change, Change]:
    """The models of two rounds as the server sends them."""
    exact: Weights = weights_of(initial_model(TASK, 0))
    first = pack_change(exact, None, COMPACT)
    later = {name: value if is_buffer(name) else value * 1.01 for name, value in exact.items()}
    return first, pack_change(later, first.model, COMPACT)


def asking(change: Change, number: int, payload: bytes | None = None) -> Message:
    training = TrainingSettings(learning_rate=0.01)
    request = TrainRequest(RUN, number, 4, 1, 7, TASK, training, change.model, PRIVACY, exchange=COMPACT)
    return message_with(request.encode(payload or change.payload), TRAIN)


def ask(site: SiteSettings, message: Message) -> Message:
    reply = make_client_app(lambda _: site, keep_replies=True)(message, context_of())
    assert not reply.has_error(), reply.error
    return reply


def test_a_private_update_is_packed_after_it_was_paid_for(site: SiteSettings) -> None:
    first, second = models()
    for number, change in enumerate((first, second), 1):
        content = ask(site, asking(change, number)).content

        def opened(record: ArrayRecord, digest: str = change.digest, model: Weights = change.model) -> Weights:
            assert COMPACT.up is not None
            return open_update(record, COMPACT.up, digest, model)

        reply = TrainReply.decode(content, opened)
        arrays = content["arrays"]
        assert isinstance(arrays, ArrayRecord)
        assert len(arrays[WEIGHTS].data) < 0.2 * sum(value.nbytes for value in reply.update.values())
        assert reply.update_norm > 0
        assert [spend.round for spend in read_ledger(site.ledger_file).contents.spends] == list(range(1, number + 1))
    prepared = ask(site, message_with(PrepareRequest(RUN, TASK, 4, PRIVACY).encode(), PREPARE)).content
    assert PrepareReply.decode(prepared).holds == second.digest


def test_patients_do_not_pay_twice_because_the_model_came_in_another_way(site: SiteSettings) -> None:
    """A kept reply answers the question, whether the model came as a change, whole, or had to be sent again."""
    first, second = models()
    ask(site, asking(first, 1))
    reply = ask(site, asking(second, 2)).content["arrays"]
    (site.work / RUN / HELD).unlink()
    whole = pack_whole(second.model, second.digest, second.base)
    for message in (asking(second, 2, whole), asking(second, 2)):
        again = ask(site, message).content["arrays"]
        assert again[WEIGHTS].data == reply[WEIGHTS].data  # type: ignore[index, union-attr]
    assert len(read_ledger(site.ledger_file).contents.spends) == 2
