"""Every strategy with real sites: real training, messages and disks. A run that was stopped ends in the same bits."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict
from safetensors.numpy import load_file

from client.app import make_client_app
from client.contract import CONTROL, EVALUATE, TRAIN, EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from client.site import SiteSettings
from client.strategies.rule import LocalRule
from client.weights import Weights, is_buffer, load_weights, weights_of
from segformer3d.checkpoint import load, read_weights
from segformer3d.dataset import prepare
from segformer3d.model import build
from segformer3d.norms import norm_names
from segformer3d.settings import TrainingSettings
from segformer3d.training import validate
from server.federation import FederationSettings
from server.records import Event, RoundFinished, RoundRecord
from server.rounds import Federation
from server.run_folder import newest_state
from server.state import read_state
from server.strategies.strategy import PRESETS, Strategy, named_strategy, strategy_from_json
from tests.client.tiny_site import (
    RUN,
    TINY,
    TINY_MODEL,
    ball_of_one_window,
    context_of,
    message_with,
    tiny_site,
    tiny_weights,
    train_request,
    write_site,
)

from .tiny_federation import Site, TinyGrid, federate, tiny_settings, tiny_state

pytestmark = pytest.mark.usefixtures("no_site_remembered")


QUICK = TrainingSettings(batch_size=2, learning_rate=0.001)  # one step and two, of sites with two and three cases


def real(site: SiteSettings) -> Site:
    app = make_client_app(lambda context: site)
    return lambda message: app(message, context_of())


def settings_in(folder: Path, number: int) -> dict[int, SiteSettings]:
    """Of sites whose data are in the folder already."""
    names = {node: f"site-{node}" for node in range(1, number + 1)}
    return {
        node: SiteSettings(name, folder / name / "data", folder / name / "work", "cpu", threads=1)
        for node, name in names.items()
    }


def sites_in(folder: Path, number: int) -> dict[int, Site]:
    """Sites of one window a case, which measure fast; every other one trains on two cases, the rest on three."""
    for node, site in settings_in(folder, number).items():
        write_site(site.data, 3 + (node + 1) % 2, node, ball_of_one_window)
    return {node: real(site) for node, site in settings_in(folder, number).items()}


def last_model(folder: Path) -> Weights:
    return weights_of(load(folder / "last.safetensors"))


def same(one: Weights, two: Weights) -> bool:
    return set(one) == set(two) and all(np.array_equal(one[name], two[name]) for name in one)


def kept_at(site: Path, round_number: int) -> dict[str, Weights]:
    """What a site has kept after a round for a strategy's sake, by kind."""
    paths = {kind: site / "work" / RUN / f"{kind}-{round_number:04d}.safetensors" for kind in ("memory", "personal")}
    return {
        kind: {name: value.numpy() for name, value in read_weights(path)[0].items()}
        for kind, path in paths.items()
        if path.exists()
    }


def asked_round(message: Message) -> int:
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    return int(config["round"])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Played:
    """A whole run, and what was on the disks on its way.

    Attributes:
        settings: of the run.
        run: the coordinator's folder at the end.
        sites: the folders of the sites at the end.
        kept: copies of the coordinator's folder after rounds 1 and 2, and of the sites' folders after round 3.
        records: of the rounds.
    """

    settings: FederationSettings
    run: Path
    sites: Path
    kept: Path
    records: list[RoundRecord]


Play = Callable[[str, str], Played]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """`played(strategy, exchange)`: three rounds of as few sites as may be, played once; nobody may change it."""
    return cache(lambda name, exchange: play(tmp_path_factory.mktemp(f"{name}-{exchange}"), name, exchange))


def play(folder: Path, name: str, exchange: str) -> Played:
    strategy = named_strategy(name)
    number = max(2, strategy.fewest_sites)
    settings = tiny_settings(strategy=strategy, exchange=exchange, minimum_sites=number, training=QUICK)
    done = Played(settings, folder / "run", folder / "sites", folder / "kept", [])

    def keep(event: Event) -> None:
        if isinstance(event, RoundFinished):
            done.records.append(event.record)
            last = event.record.round == settings.rounds
            shutil.copytree(done.sites if last else done.run, done.kept / str(event.record.round))

    Federation(TinyGrid(sites_in(done.sites, number)), settings, done.run, tiny_state(settings), keep).run()
    return done


# By day every kind of memory once: the server's, the sites' and the exchange's.
REMEMBERING = {"fedadam", "fedbn", "averaged"}
ONE_ROUND_EARLIER = {"scaffold", "ditto"}


@pytest.mark.parametrize(
    ("name", "exchange", "from_round"),
    [
        *(pytest.param(name, "fp32", 2, marks=() if name in REMEMBERING else pytest.mark.slow) for name in PRESETS),
        *((name, "fp32", 1) for name in sorted(ONE_ROUND_EARLIER)),
        ("feddyn", "compact", 1),
        pytest.param("fedavg", "compact", 1, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_in_the_same_bits(
    tmp_path: Path, played: Play, name: str, exchange: str, from_round: int
) -> None:
    """The coordinator died when all sites had done round 3: asked again, they must not go on from there.

    Also from the state before the newest: that one may turn out to be damaged, when sites are two rounds on.
    """
    whole, run, folder = played(name, exchange), tmp_path / "run", tmp_path / "sites"
    shutil.copytree(whole.kept / str(from_round), run)
    shutil.copytree(whole.kept / "3", folder)
    newest = newest_state(run)
    assert newest is not None
    state = read_state(newest)
    assert state.round == from_round
    sites = settings_in(folder, whole.settings.minimum_sites)
    federate(TinyGrid({node: real(site) for node, site in sites.items()}), run, whole.settings, state)
    assert same(last_model(run), last_model(whole.run))
    rule = whole.settings.strategy.rule
    kinds = {"personal"} if rule.personal else {"memory"} if rule.remembers else set()
    for site in sites.values():  # what stays at a site is no part of the last model
        one, two = kept_at(whole.sites / site.name, 3), kept_at(folder / site.name, 3)
        assert set(one) == kinds
        assert set(two) == set(one)
        assert all(same(one[kind], two[kind]) for kind in one)


@pytest.mark.parametrize(
    "name",
    [
        *sorted(REMEMBERING | ONE_ROUND_EARLIER),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("fedavgm", "feddyn")),
    ],
)
def test_what_goes_on_from_round_to_round_makes_a_strategy_of_its_own(played: Play, name: str) -> None:
    """Each ends in other weights than plain averaging; Ditto's global model alone is the same."""
    plain, own = (last_model(played(each, "fp32").run) for each in ("fedavg", name))
    assert same(plain, own) == (name == "ditto")


Averaged = Callable[[int], Weights]


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Averaged:
    """`averaged(sites)`: the model after one round of plain averaging, played once for each number of sites."""
    return cache(lambda number: one_round(tmp_path_factory.mktemp("plain"), named_strategy("fedavg"), number))


def one_round(folder: Path, strategy: Strategy, number: int) -> Weights:
    settings = tiny_settings(strategy=strategy, rounds=1, minimum_sites=number)
    federate(TinyGrid(sites_in(folder / "sites", number)), folder / "run", settings)
    return last_model(folder / "run")


USUAL = {"fedprox", "fednova", "median"}
AT_ONCE = sorted(set(PRESETS) - REMEMBERING - ONE_ROUND_EARLIER - {"fedavg", "fedavgm", "feddyn"})


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in USUAL else pytest.mark.slow) for n in AT_ONCE])
def test_every_strategy_is_a_strategy_of_its_own_from_the_first_round(
    tmp_path: Path, averaged: Averaged, name: str
) -> None:
    strategy = strategy_from_json({"name": name, "proximal": 1.0} if name == "fedprox" else {"name": name})
    number = max(2, strategy.fewest_sites)
    assert not same(averaged(number), one_round(tmp_path, strategy, number))


# --- FedBN -----------------------------------------------------------------------------------------------------------


def test_a_site_keeps_its_norms_and_sends_them(tmp_path: Path) -> None:
    site = tiny_site(tmp_path)
    first = _train(site, replace(train_request(1), rule=LocalRule(local_norms=True)))
    # In the second round everything that comes is other than what the site has.
    other = tiny_weights(seed=3)
    second = _train(site, replace(train_request(2, other), rule=LocalRule(local_norms=True)))
    received, model = tiny_weights(), build(TINY_MODEL)
    for name in norm_names(model):
        if not is_buffer(name):
            kept, now = received[name] + first.update[name], other[name] + second.update[name]
            assert np.abs(now - kept).max() < 5e-3, "trained on from its own"
    elsewhere = next(n for n in other if n not in norm_names(model) and other[n].std() > 0.01)
    assert np.abs(second.update[elsewhere]).max() < 5e-3, "all else is from the global model"


def test_a_site_measures_with_its_own_norms(tmp_path: Path) -> None:
    """Oracle: a model put together here, of the site's norms from its disk and all else from the message."""
    site, rule, device = tiny_site(tmp_path), LocalRule(local_norms=True), torch.device("cpu")
    _train(site, replace(train_request(1), rule=rule))
    kept, sent, mixed = kept_at(tmp_path / "site-1", 1)["memory"], tiny_weights(seed=3), build(TINY_MODEL)
    cases = prepare(site.data, TINY, tmp_path / "cache").validation
    load_weights(mixed, sent)
    as_sent = validate(mixed, cases, TINY, device=device)
    own = {name: kept[f"norms:{name}"] if name in norm_names(mixed) else value for name, value in sent.items()}
    load_weights(mixed, own)
    expected = validate(mixed, cases, TINY, device=device)
    assert abs(expected.loss - as_sent.loss) > 1e-4
    answer = real(site)(message_with(EvaluateRequest(RUN, 1, TINY, sent, rule).encode(), EVALUATE))
    assert isinstance(answer, Message)
    told = EvaluateReply.decode(answer.content).validation
    assert (told.dice, told.loss) == (expected.dice, pytest.approx(expected.loss, rel=1e-6))
    before = _train(site, replace(train_request(2, sent), rule=rule)).validation
    assert (before.dice, before.loss) == (expected.dice, pytest.approx(expected.loss, rel=1e-6))


def test_the_last_models_norms_are_the_mean_of_the_sites(played: Play) -> None:
    whole = played("fedbn", "fp32")
    record = whole.records[-1]
    shares = [site.share for site in record.sites]
    kept = [kept_at(whole.sites / site.site, 3)["memory"] for site in record.sites]
    last, names = last_model(whole.run), sorted(norm_names(build(TINY_MODEL)))
    assert any(name.endswith("running_mean") for name in names)
    for name in names:
        values = [memory[f"norms:{name}"].astype(np.float64) for memory in kept]
        if not name.endswith(("running_var", "num_batches_tracked")):  # pooled as variances, and counted
            assert not np.array_equal(*values)
            np.testing.assert_allclose(last[name], np.average(values, axis=0, weights=shares), rtol=1e-5, atol=1e-6)


# --- SCAFFOLD --------------------------------------------------------------------------------------------------------


def test_control_variates_travel_both_ways_and_are_checked(tmp_path: Path) -> None:
    strategy = named_strategy("scaffold")
    sites = sites_in(tmp_path / "sites", 3)

    def torn(message: Message) -> Message:
        answer = sites[3](message)
        assert isinstance(answer, Message)
        if message.metadata.message_type == TRAIN:
            records = {name: record for name, record in answer.content.items() if name != CONTROL}
            return Message(RecordDict(records), reply_to=message)
        return answer

    grid = TinyGrid({**sites, 3: torn})
    events = federate(grid, tmp_path / "run", tiny_settings(strategy=strategy, rounds=2, training=QUICK))
    (one, two) = [event.record for event in events if isinstance(event, RoundFinished)]
    for record in (one, two):
        assert [site.site for site in record.sites] == ["site-1", "site-2"]
        assert [item.reason for item in record.set_aside] == [
            "its reply lacks control variates, and the strategy says otherwise"
        ]
    sent = [TrainRequest.decode(m.content) for m in grid.sent if m.metadata.message_type == TRAIN]
    first, second = (next(request for request in sent if request.round == number) for number in (1, 2))
    assert first.control is not None
    assert second.control is not None
    assert not any(value.any() for value in first.control.values())
    assert any(value.any() for value in second.control.values())
    assert one.sites[0].bytes_up > 1.9 * len(b"".join(v.tobytes() for v in tiny_weights().values()))


def test_control_variates_travel_as_the_exchange_says(tmp_path: Path, played: Play) -> None:
    """Lossy exchanges shrink them too, both ways."""
    records = {"fp32": played("scaffold", "fp32").records[1]}
    for exchange in ("fp16", "compact"):
        settings = tiny_settings(strategy=named_strategy("scaffold"), exchange=exchange, rounds=2, training=QUICK)
        events = federate(TinyGrid(sites_in(tmp_path / exchange, 2)), tmp_path / f"run-{exchange}", settings)
        records[exchange] = next(event.record for event in reversed(events) if isinstance(event, RoundFinished))
    assert not any(record.set_aside for record in records.values())
    sizes = {name: [(site.bytes_up, site.bytes_down) for site in record.sites] for name, record in records.items()}
    assert len(sizes["fp32"]) == 2
    for one, other, most in (("fp16", "fp32", 0.6), ("compact", "fp16", 0.7)):
        for small, large in zip(np.ravel(sizes[one]), np.ravel(sizes[other]), strict=True):
            assert small < most * large, sizes


@pytest.mark.parametrize(
    ("name", "exchange"),
    [
        ("scaffold", "fp32"),
        ("feddyn", "compact"),
        *(pytest.param(*names, marks=pytest.mark.slow) for names in (("scaffold", "compact"), ("feddyn", "fp32"))),
    ],
)
def test_what_the_server_remembers_is_the_sum_of_what_sites_do(tmp_path: Path, name: str, exchange: str) -> None:
    """Also when a trained reply was lost (site-3, round 2), a site was away (site-2, round 3), and one joins late."""
    sites = sites_in(tmp_path / "sites", 4)
    grid = TinyGrid(sites)
    grid.offline = {4}

    def first(message: Message) -> Message:
        if message.metadata.message_type == TRAIN:
            grid.offline = {1: {4}, 2: {2, 4}}.get(asked_round(message), set())
        answer = sites[1](message)
        assert isinstance(answer, Message)
        return answer

    def losing(message: Message) -> Message:
        answer = sites[3](message)
        assert isinstance(answer, Message)
        lost = message.metadata.message_type == TRAIN and asked_round(message) == 2
        return Message(Error(1, "lost on its way"), reply_to=message) if lost else answer

    grid.sites |= {1: first, 3: losing}
    settings = tiny_settings(strategy=named_strategy(name), exchange=exchange, rounds=5, training=QUICK)
    events = federate(grid, tmp_path / "run", settings)
    took_part = [[site.site for site in e.record.sites] for e in events if isinstance(e, RoundFinished)]
    all_four = ["site-1", "site-2", "site-3", "site-4"]
    assert took_part[:3] == [all_four[:3], ["site-1", "site-2"], ["site-1", "site-3"]]
    assert took_part[-1] == all_four
    newest = newest_state(tmp_path / "run")
    assert newest is not None
    kind, prefix = {"scaffold": ("control", "control:"), "feddyn": ("dynamic", "dynamic:")}[name]
    server = read_state(newest).memory[f"strategy/{kind}"]
    kept = [load_file(path) for path in sorted((tmp_path / "sites").rglob("memory-0005.safetensors"))]
    assert len(kept) == 4
    for parameter, value in server.items():
        total = np.sum([memory[prefix + parameter].astype(np.float64) for memory in kept], axis=0)
        np.testing.assert_allclose(value, total, atol=1e-6 * max(1e-2, np.abs(total).max()), rtol=1e-4)
    assert any(value.any() for value in server.values())


# --- Ditto -----------------------------------------------------------------------------------------------------------


def test_the_personal_model_stays_and_is_held_near_the_global_one(tmp_path: Path) -> None:
    distances = []
    plain = _train(one_window_site(tmp_path / "plain"), train_request(1))
    for strength in (1e-3, 1000.0):
        site = one_window_site(tmp_path / str(strength))
        reply = _train(site, replace(train_request(1), rule=LocalRule(personal=strength)))
        assert same(reply.update, plain.update), "the update is that of plain training"
        personal = weights_of(load(site.work / "run-1" / "personal-0001.safetensors"))
        received = tiny_weights()
        distances.append(sum(float(np.square(personal[n] - received[n]).sum()) for n in received if not is_buffer(n)))
    assert distances[1] < 0.5 * distances[0]


def one_window_site(folder: Path) -> SiteSettings:
    return tiny_site(folder, draw=ball_of_one_window)


def _train(site: SiteSettings, request: TrainRequest) -> TrainReply:
    answer = real(site)(message_with(request.encode(), TRAIN))
    assert isinstance(answer, Message)
    return TrainReply.decode(answer.content)
