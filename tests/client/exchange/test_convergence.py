"""Rounds of a federation whose answer is known: sites with f_k(w) = |w - a_k|² / 2 agree on the mean of the a_k.

Oracle: the mean. Each round goes through the messages of both ways, with feedback of what is lost at both ends.
"""

from functools import cache

import numpy as np
import pytest

from client.exchange.coding import flat
from client.exchange.parcel import open_update, pack_change, pack_update, record_of_payload
from client.exchange.settings import EXCHANGES

SIZE, RATE, ROUNDS = 1700, 0.05, 250


@cache
def distances(name: str, feedback: bool = True) -> list[float]:
    """How far the exact model is from the answer after each round, over how far it was."""
    exchange, found = EXCHANGES[name], list[float]()
    assert exchange.up is not None
    generator = np.random.default_rng(0)
    wanted = generator.normal(0, 1, (3, SIZE)).astype(np.float32) * np.geomspace(0.01, 1, SIZE, dtype=np.float32)
    exact, held = {"w": np.zeros(SIZE, np.float32)}, None
    lost, answer = np.zeros((3, SIZE), np.float32), wanted.mean(axis=0)
    for number in range(ROUNDS):
        change = pack_change(exact, held, exchange)
        held = change.model
        total = np.zeros(SIZE)
        for k, target in enumerate(wanted):
            update = {"w": RATE * (target - held["w"]) + lost[k]}
            _, payload = pack_update(update, change.digest, exchange.up, (k, number))
            arrived = flat(open_update(record_of_payload(payload), exchange.up, change.digest, update))
            if feedback:
                lost[k] = update["w"] - arrived
            total += arrived.astype(np.float64) / 3
        exact = {"w": (exact["w"] + total).astype(np.float32)}
        found.append(float(np.linalg.norm(exact["w"] - answer) / np.linalg.norm(answer)))
    return found


@pytest.mark.parametrize("name", [name for name, exchange in EXCHANGES.items() if not exchange.plain])
def test_sites_agree_on_the_answer(name: str) -> None:
    """Sites pull different ways for ever, so the updates never vanish; only their mean does, and what is lost must."""
    early, late = distances(name)[19], distances(name)[-1]
    plain = (1 - RATE) ** 20
    assert early == pytest.approx(plain, rel=0.35 if name == "sparse" else 0.1)
    assert late < {"sparse": 0.15, "int2": 0.06, "compact": 0.03, "int4": 0.02}.get(name, 0.001)


@pytest.mark.parametrize("name", ["sparse", "int2", "compact"])
def test_without_feedback_they_do_not(name: str) -> None:
    assert distances(name, feedback=False)[-1] > 2 * distances(name)[-1]
