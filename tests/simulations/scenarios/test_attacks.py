"""Hostile sites in whole federations of a tiny model: what they send, and what the server's record shows of it.

Oracles: the honest run of the same seed, of which all but the last site's replies of the first round are the same.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.contract import TrainReply
from client.weights import is_buffer, parameter_norm
from segformer3d.training_reports import TrainingReport, ValidationReport
from server.app import make_server_app
from server.records import ROUNDS_FILE
from simulations.engines import EngineSettings, run_local
from simulations.scenarios import SCENARIOS
from simulations.scenarios.attacks import ATTACKS, FACTOR, NOISE_FACTOR, falsified, flip_labels
from tests.client.tiny_site import TINY, ball_of_one_window, tiny_site, tiny_weights
from tests.server.tiny_federation import moved, tiny_settings, tiny_state
from tests.simulations.tiny_source import tiny_source

SITES, SEED = 3, 7
Rounds = list[dict[str, Any]]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Rounds]:
    """`federation(attack)` runs two rounds of three sites, the last of which is hostile; the server's records."""

    def run(
        attack: str | None, labels: bool = False, parallel: int = 1, exchange: str = "fp32", rounds: int = 2
    ) -> Rounds:
        folder = tmp_path_factory.mktemp("federation")
        names = [(f"site-{number}", number) for number in range(1, SITES + 1)]
        sites = [tiny_site(folder, name, seed=seed, draw=ball_of_one_window) for name, seed in names]
        if labels:
            flip_labels([site.data for site in sites], SEED, TINY)
        settings = tiny_settings(rounds=rounds, exchange=exchange)
        server = make_server_app(settings, folder / "run", tiny_state(settings), lambda event: None)
        run_local(server, tiny_source(sites, attack), SITES, EngineSettings(parallel, folder / "engine.log"))
        return [json.loads(line) for line in (folder / "run" / ROUNDS_FILE).read_text().splitlines()]

    return run


@pytest.fixture(scope="module")
def honest(federation: Callable[..., Rounds]) -> Rounds:
    return federation(None)


def norms(record: dict[str, Any]) -> list[float]:
    return [site["update_norm"] for site in record["sites"]]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_in_the_record_and_is_not_set_aside(
    federation: Callable[..., Rounds], honest: Rounds, attack: str
) -> None:
    found = federation(attack)
    assert norms(found[0])[:-1] == norms(honest[0])[:-1]
    factor = NOISE_FACTOR if attack == "random" else FACTOR
    assert norms(found[0])[-1] == pytest.approx(factor * norms(honest[0])[-1], rel=1e-5)
    assert all(len(record["sites"]) == SITES and not record["set_aside"] for record in found)
    assert found[0]["step_norm"] > 1.5 * honest[0]["step_norm"]
    assert found[1]["sites"][0]["loss"] != honest[1]["sites"][0]["loss"]


def test_reversed_labels_are_in_the_record(federation: Callable[..., Rounds], honest: Rounds) -> None:
    found = federation(None, labels=True)
    assert norms(found[0])[:-1] == norms(honest[0])[:-1]
    assert norms(found[0])[-1] != norms(honest[0])[-1]
    assert found[0]["agreement"] < honest[0]["agreement"]


@pytest.mark.parametrize("exchange", ["fp16", "compact"])
def test_an_attack_travels_as_the_exchange_says(federation: Callable[..., Rounds], exchange: str) -> None:
    plain, found = (federation(attack, exchange=exchange, rounds=1) for attack in (None, "sign"))
    assert all(len(record["sites"]) == SITES and not record["set_aside"] for record in found)
    assert norms(found[0])[-1] == pytest.approx(FACTOR * norms(plain[0])[-1], rel=0.2)
    assert found[0]["step_norm"] > 1.5 * plain[0]["step_norm"]
    assert found[0]["sites"][-1]["bytes_up"] == pytest.approx(plain[0]["sites"][-1]["bytes_up"], rel=0.1)


@pytest.mark.slow
def test_an_attack_is_the_same_however_many_sites_work_at_once(federation: Callable[..., Rounds]) -> None:
    one, two = (federation("random", parallel=parallel) for parallel in (1, 2))
    for first, second in zip(one, two, strict=True):
        assert norms(first) == norms(second)
        assert first["step_norm"] == second["step_norm"]


# --- What is sent ----------------------------------------------------------------------------------------------------


@pytest.fixture
def reply() -> TrainReply:
    update = moved(tiny_weights(), 0.01)
    return TrainReply("site-4", "run-1", 2, update, TrainingReport(1, 4, 4, 2, 1), ValidationReport((0.5,), 1, 2, 1))


@pytest.mark.parametrize("attack", ATTACKS)
def test_buffers_stay_honest_and_number_types_too(reply: TrainReply, attack: str) -> None:
    found = falsified(attack, reply, SEED)
    assert list(found) == list(reply.update)
    for name, value in found.items():
        assert (value.dtype, value.shape) == (reply.update[name].dtype, reply.update[name].shape)
        assert np.array_equal(value, reply.update[name]) is is_buffer(name)


@pytest.mark.parametrize(("attack", "factor"), [("sign", -10), ("scaled", 10)])
def test_the_update_is_turned_round_or_stretched(reply: TrainReply, attack: str, factor: float) -> None:
    for name, value in falsified(attack, reply, SEED).items():
        if not is_buffer(name):
            np.testing.assert_allclose(value, factor * reply.update[name], rtol=1e-6)


def test_noise_is_gaussian_of_the_length_that_is_said_and_new_every_round(reply: TrainReply) -> None:
    found, again = (falsified("random", reply, SEED) for _ in range(2))
    assert all(np.array_equal(found[name], again[name]) for name in found)
    assert parameter_norm(found) == pytest.approx(NOISE_FACTOR * parameter_norm(reply.update), rel=1e-6)
    drawn = np.concatenate([value.ravel() for name, value in found.items() if not is_buffer(name)])
    assert abs(drawn.mean()) < 4 * drawn.std() / np.sqrt(drawn.size)
    assert np.mean(np.abs(drawn) < drawn.std()) == pytest.approx(0.6827, abs=0.02)
    for other in (replace(reply, round=3), replace(reply, site="site-5")):
        assert not np.array_equal(falsified("random", other, SEED)["decoder.fuse.weight"], found["decoder.fuse.weight"])
    assert not np.array_equal(falsified("random", reply, 8)["decoder.fuse.weight"], found["decoder.fuse.weight"])


def test_every_attack_is_a_scenario() -> None:
    assert {scenario.attack for scenario in SCENARIOS.values()} - {None} == set(ATTACKS)
