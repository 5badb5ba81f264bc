"""A hostile site: one that answers like any other, with updates or labels that are meant to spoil the model.

`sign`      its update turned round and ten times as long: what the others climb, it climbs down (Li et al., "RSA:
            Byzantine-robust stochastic aggregation", AAAI 2019, with a factor of 4)
`scaled`    its update ten times as long, so that it outweighs eight; with reversed labels, its model takes the place of
            the others' (Bagdasaryan et al., "How to backdoor federated learning", AISTATS 2020)
`random`    Gaussian noise ninety times as long as its honest update; shorter noise hardly harms a mean
labels      it trains as it should on reversed labels, value l of L becoming L - 1 - l (Fang et al., "Local model
            poisoning attacks to Byzantine-robust federated learning", USENIX Security 2020)

The server's checks let such lengths pass (`server.replies`), as an attacker knows; with a factor of 1 a sign would be
outvoted by seven of eight even in a mean. Stretching an honest update would be no attack: it is a longer step the right
way. Buffers of norms stay honest, which keeps a reply inconspicuous.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.contract import ARRAYS, CONTROL, TRAIN, TrainReply
from client.envelope import CONFIG
from client.exchange.parcel import pack_update, read_parcel
from client.exchange.settings import named_exchange
from client.records import record_of
from client.weights import Weights, is_buffer, layout_of, parameter_norm
from segformer3d.model import skeleton
from segformer3d.task import Task, task_from_json
from segformer3d.training import Part
from simulations.scenarios.rewriting import relabel

ATTACKS: Mapping[str, str] = {
    "sign": "turned round and ten times as long",
    "scaled": "learnt from reversed labels and ten times as long",
    "random": "noise, ninety times as long",
}
FACTOR, NOISE_FACTOR = 10.0, 90.0


class HostileClientApp(ClientApp):
    """An honest ClientApp, whose replies of some sites are falsified on their way out.

    Args:
        honest: answers every message.
        attacks: a name of `ATTACKS` by the number of a hostile site, Flower's `partition-id`.
    """

    def __init__(self, honest: ClientApp, attacks: Mapping[int, str]) -> None:
        super().__init__()
        self._honest = honest
        self._attacks = attacks

    def __call__(self, message: Message, context: Context) -> Message:
        """The honest reply, or what is made of it; SCAFFOLD's control variates stay as they are."""
        reply = self._honest(message, context)
        attack = self._attacks.get(int(context.node_config["partition-id"]))
        if attack is None or message.metadata.message_type != TRAIN or ARRAYS not in reply.content:
            return reply
        variates = {name: record for name, record in reply.content.items() if name == CONTROL}
        honest = RecordDict({name: record for name, record in reply.content.items() if name != CONTROL})
        return Message(RecordDict({**_falsified_reply(attack, message.content, honest), **variates}), reply_to=message)


def _falsified_reply(attack: str, request: RecordDict, reply: RecordDict) -> RecordDict:
    """The reply with another update, which travels as the run's exchange says."""
    asked = record_of(request, CONFIG, ConfigRecord)
    seed, codec = int(asked["seed"]), named_exchange(str(asked["exchange"])).up  # type: ignore[arg-type]
    if codec is None:
        told = TrainReply.decode(reply)
        return replace(told, update=falsified(attack, told, seed)).encode()
    parcel = read_parcel(record_of(reply, ARRAYS, ArrayRecord))
    layout = layout_of(skeleton(task_from_json(json.loads(str(asked["task"]))).model))
    told = TrainReply.decode(reply, lambda _: parcel.values(layout))
    key = _part(told, seed).random_key(1)
    update, payload = pack_update(falsified(attack, told, seed), parcel.header.base, codec, key)
    return replace(told, update=update, payload=payload).encode()


def falsified(attack: str, reply: TrainReply, seed: int) -> Weights:
    """The update that a hostile site sends in place of its honest one: a function of both, seed, site and round."""
    if attack == "random":
        generator = np.random.default_rng(_part(reply, seed).random_key())
        return _noise(reply.update, generator, NOISE_FACTOR * parameter_norm(reply.update))
    factor = {"sign": -FACTOR, "scaled": FACTOR}[attack]
    return _parameters(reply.update, lambda _, value: factor * value)


def _part(reply: TrainReply, seed: int) -> Part:
    return Part(reply.round - 1, reply.round, 1, seed, f"{reply.site}/hostile")


def _noise(update: Weights, generator: np.random.Generator, length: float) -> Weights:
    drawn = _parameters(update, lambda name, value: generator.standard_normal(value.shape))
    factor = length / (parameter_norm(drawn) or 1.0)
    return _parameters(drawn, lambda _, value: factor * value)


def _parameters(update: Weights, change: Callable[[str, Any], Any]) -> Weights:
    """An update with other parameters, taken in the order of their names, of the same number types."""
    changed = {n: np.asarray(change(n, update[n]), update[n].dtype) for n in sorted(update) if not is_buffer(n)}
    return {name: changed.get(name, value) for name, value in update.items()}


def flip_labels(sites: Sequence[Path], seed: int, task: Task) -> None:
    """Reverse the label values of the last site. No chance is in it.

    Raises:
        DataError: a label lies outside the site's folder.
        StorageError: the disk is full or the folder cannot be written.
    """
    relabel(sites[-1], partial(reverse, values=tuple(sorted(task.label_values))))


def reverse(label: np.ndarray[Any, Any], values: Sequence[int]) -> np.ndarray[Any, Any]:
    """Each value becomes the one as far from the other end; a value that is not among them stays."""
    turned = label.copy()
    for value, other in zip(values, reversed(values), strict=True):
        turned[label == value] = other
    return turned
