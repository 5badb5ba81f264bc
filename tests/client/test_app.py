"""The ClientApp with a real site: real files, real training. Oracles: determinism, and what may not leave the site."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

from client import phases
from client.app import make_client_app
from client.contract import EVALUATE, EvaluateReply, EvaluateRequest, PrepareReply, TrainReply
from client.failures import SITE_FAILURE, SITE_REFUSAL
from client.names import CONTRACT_VERSION
from client.site import SiteSettings
from client.weights import Weights, is_buffer
from segformer3d.errors import ConfigurationError

from .tiny_site import (
    RUN,
    TINY,
    context_of,
    message_with,
    prepare_message,
    tiny_site,
    tiny_weights,
    train_message,
    write_site,
)


@pytest.fixture
def site(tmp_path: Path) -> SiteSettings:
    return tiny_site(tmp_path)


pytestmark = pytest.mark.usefixtures("no_site_remembered")


def ask(site: SiteSettings, message: Message) -> Message:
    return make_client_app(lambda context: site)(message, context_of())


def train(site: SiteSettings, round_number: int = 1, weights: Weights | None = None) -> TrainReply:
    return TrainReply.decode(ask(site, train_message(round_number, weights)).content)


def failure(reply: Message) -> str:
    assert reply.error.code in (SITE_FAILURE, SITE_REFUSAL)
    return reply.error.reason or ""


def same(a: Weights, b: Weights) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_site_says_how_many_cases_it_has_and_what_share_the_structure_takes(site: SiteSettings) -> None:
    (site.data / "labelsTr" / "secret_000.nii.gz").write_bytes(b"damaged")
    reply = PrepareReply.decode(ask(site, prepare_message()).content)
    assert (reply.site, reply.run) == ("site-1", RUN)
    assert (reply.train_cases, reply.validation_cases, reply.set_aside) == (2, 1, 1)
    # A ball of radius 4 has 251 voxels closer than 4 to its centre on average; the volumes have 16³ to 19³ voxels.
    assert 200 / 19**3 < reply.balance[0] < 300 / 16**3


def test_nothing_but_the_contract_leaves_the_site_and_names_stay_in_its_log(site: SiteSettings) -> None:
    (site.data / "labelsTr" / "secret_000.nii.gz").write_bytes(b"damaged")
    for message in (prepare_message(), train_message()):
        text = repr([r for r in ask(site, message).content.values() if not hasattr(r, "to_numpy_ndarrays")])
        assert "secret" not in text
        assert str(site.data) not in text
    assert "case secret_000 set aside: the label file" in (site.work / "site.log").read_text(encoding="utf-8")


def test_training_sends_an_update_and_measures_the_model_as_received(site: SiteSettings) -> None:
    weights = tiny_weights()
    reply = train(site, weights=weights)
    measured = EvaluateReply.decode(
        ask(site, message_with(EvaluateRequest(RUN, 0, TINY, weights).encode(), EVALUATE)).content
    )
    assert (reply.site, reply.run, reply.round) == ("site-1", RUN, 1)
    assert (reply.training.cases, reply.training.samples, reply.training.steps) == (3, 3, 2)
    assert (measured.validation.dice, measured.validation.loss) == (reply.validation.dice, reply.validation.loss)
    assert reply.validation.cases == 1
    changed = [name for name, value in reply.update.items() if not is_buffer(name) and value.any()]
    assert len(changed) > 10
    # Adam's first steps are at most the learning rate, 1e-3, for each weight: an update, not weights.
    assert all(np.abs(value).max() < 5e-3 for name, value in reply.update.items() if not is_buffer(name))
    counters = [value for name, value in reply.update.items() if name.endswith("num_batches_tracked")]
    assert counters
    assert all(value == 2 for value in counters)


def test_a_site_that_is_asked_again_gives_the_same_answer(site: SiteSettings) -> None:
    first, second = train(site, 1), train(site, 2)
    assert same(train(site, 2).update, second.update)
    phases._data_of_site.clear()  # as in a process of its own for every message
    assert same(train(site, 2).update, second.update)
    assert same(train(site, 1).update, first.update)
    assert same(train(site, 2).update, second.update)
    assert not same(train(site, 3).update, second.update)


def test_the_optimizers_moments_go_on_from_round_to_round(site: SiteSettings, tmp_path: Path) -> None:
    train(site, 1)
    with_moments = train(site, 2)
    stranger = SiteSettings(site.name, site.data, tmp_path / "other", "cpu", 1)
    assert not same(train(stranger, 2).update, with_moments.update)
    for round_number in (3, 4):
        train(site, round_number)
    kept = sorted(path.name for path in (site.work / RUN).iterdir())
    assert kept == [f"optimizer-000{number}.safetensors" for number in (2, 3, 4)]


def test_data_is_read_again_for_a_new_run_and_only_then(site: SiteSettings) -> None:
    assert PrepareReply.decode(ask(site, prepare_message()).content).train_cases == 3
    write_site(site.data, cases=6, seed=2)
    assert train(site).training.cases == 3
    assert PrepareReply.decode(ask(site, prepare_message()).content).train_cases == 5


def test_a_process_remembers_a_few_sites_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "_KEPT_SITES", 2)
    for number in range(4):
        ask(tiny_site(tmp_path, f"site-{number}", cases=2), prepare_message())
    assert [key[0].name for key in phases._data_of_site] == ["site-2", "site-3"]


def test_a_site_without_data_says_so_and_keeps_the_details(site: SiteSettings, tmp_path: Path) -> None:
    empty = SiteSettings("site-2", tmp_path / "Jane_Doe", tmp_path / "work")
    text = failure(ask(empty, prepare_message()))
    assert text == "site-2 could not prepare its data: no usable case; see the log at the site"
    assert "Jane_Doe" in (tmp_path / "work" / "site.log").read_text(encoding="utf-8")


def test_a_site_whose_settings_cannot_be_read_still_answers(caplog: pytest.LogCaptureFixture) -> None:
    def find_site(context: object) -> SiteSettings:
        raise ConfigurationError("/etc/secret/site.toml is damaged")

    reply = make_client_app(find_site)(prepare_message(), context_of())
    assert failure(reply).startswith("a site could not prepare its data: its settings do not fit this run")
    assert "/etc/secret/site.toml" in caplog.text


def test_a_programming_error_shows_its_class_to_the_coordinator_and_its_trace_to_the_site(
    site: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret_001 exploded")

    monkeypatch.setattr("client.app.train_site", broken)
    text = failure(ask(site, train_message()))
    assert text == "site-1 could not train: its program failed (RuntimeError); see the log at the site"
    log = (site.work / "site.log").read_text(encoding="utf-8")
    assert "Traceback" in log
    assert "secret_001 exploded" in log


def test_a_coordinator_of_another_version_is_told(site: SiteSettings) -> None:
    message = train_message()
    record = message.content["config"]
    assert isinstance(record, ConfigRecord)
    record["contract"] = 1
    told = f"the coordinator speaks version 1 of the message contract, and this end {CONTRACT_VERSION}"
    assert told in failure(ask(site, message))


def test_weights_of_another_model_are_refused(site: SiteSettings) -> None:
    weights = dict(tiny_weights())
    weights.pop("decoder.classify.bias")
    text = failure(ask(site, train_message(weights=weights)))
    assert "the array decoder.classify.bias is missing; install the same segfed at both ends" in text


def test_a_damaged_optimizer_state_is_named(site: SiteSettings) -> None:
    train(site, 1)
    (site.work / RUN / "optimizer-0001.safetensors").write_bytes(b"damaged")
    text = failure(ask(site, train_message(2)))
    assert "a file that it keeps for this run is damaged; see the log at the site, which names it" in text
    assert "optimizer-0001.safetensors" in (site.work / "site.log").read_text()


def test_a_round_beyond_the_last_is_refused(site: SiteSettings) -> None:
    assert "its settings do not fit this run" in failure(ask(site, train_message(5)))


FullDisk = Callable[[int], AbstractContextManager[None]]


def test_a_disk_that_is_full_is_named_and_leaves_no_half_file(site: SiteSettings, full_disk: FullDisk) -> None:
    """A real write that the kernel refuses: the process may not write files beyond 20 kB."""
    assert ask(site, prepare_message()).has_content()
    with full_disk(20_000):
        reply = ask(site, train_message())
    assert failure(reply) == "site-1 could not train: its disk is full; free space at the site"
    assert list((site.work / RUN).iterdir()) == []
