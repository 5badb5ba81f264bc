"""A Grid in this process and sites that answer by arithmetic, so that whole runs take milliseconds.

A site is a function from a request message to the reply, to several replies, or to none; what real sites do is tested
with the client.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.contract import (
    PREPARE,
    TRAIN,
    EvaluateReply,
    EvaluateRequest,
    PrepareReply,
    PrepareRequest,
    TrainReply,
    TrainRequest,
)
from client.weights import COUNTER, MEAN, VARIANCE, Weights
from segformer3d.settings import TrainingSettings
from segformer3d.training_reports import TrainingReport, ValidationReport
from server.federation import FederationSettings
from server.records import Event
from server.rounds import Federation
from server.state import ServerState, begin

from ..client.tiny_site import RUN, TINY, tiny_weights

Site = Callable[[Message], Message | Sequence[Message] | None]
Change = Callable[[RecordDict], RecordDict]


class TinyGrid(Grid):
    """Answers when messages are pushed, or when they have been pulled `patience` times in vain."""

    def __init__(self, sites: Mapping[int, Site], patience: int = 0) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.sites = dict(sites)
        self.offline: set[int] = set()
        self.sent: list[Message] = []
        self.on_pull: Callable[[str], None] = lambda message_id: None
        self._patience = patience
        self._asked: dict[str, int] = {}
        self._replies: dict[str, list[Message]] = {}
        self._numbers = count(1)

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        return Run.create_empty(1)

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return [node for node in self.sites if node not in self.offline]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        message_id = f"m{next(self._numbers)}"
        message.metadata.__dict__["_message_id"] = message_id
        self.sent.append(message)
        answer = self.sites[message.metadata.dst_node_id](message)
        self._replies[message_id] = [answer] if isinstance(answer, Message) else list(answer or ())
        return message_id

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        (message_id,) = message_ids
        self.on_pull(message_id)
        self._asked[message_id] = self._asked.get(message_id, 0) + 1
        return self._replies.pop(message_id, []) if self._asked[message_id] > self._patience else []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        raise NotImplementedError


@dataclass
class TinySite:
    """A site that moves every parameter by `step` and reports what it is told to.

    Attributes:
        change: what happens to the content of a reply of each message type, on its way.
        failing: rounds in which `change` applies to training; all of them when empty.
    """

    name: str
    cases: int = 4
    step: float = 0.01
    validation_cases: int = 2
    dice: Callable[[int], float] = lambda rounds: 0.5 + 0.01 * rounds
    change: dict[str, Change] = field(default_factory=dict)
    failing: tuple[int, ...] = ()

    def __call__(self, message: Message) -> Message | None:
        kind = message.metadata.message_type
        content, round_number = self._reply(message.content, kind)
        if kind in self.change and (not self.failing or round_number in self.failing):
            content = self.change[kind](content)
        return Message(content, reply_to=message)

    def _reply(self, records: RecordDict, kind: str) -> tuple[RecordDict, int]:
        if kind == PREPARE:
            run = PrepareRequest.decode(records).run
            return PrepareReply(self.name, run, self.cases, self.validation_cases, 0, (0.1,), 0.5).encode(), 0
        if kind == TRAIN:
            request = TrainRequest.decode(records)
            samples = self.cases * request.local_epochs
            steps = -(-samples // request.training.batch_size)
            training = TrainingReport(1.0 / request.round, self.cases, samples, steps, 0.5)
            report = self._validation(request.round - 1)
            update = moved(request.weights, self.step)
            return TrainReply(self.name, request.run, request.round, update, training, report).encode(), request.round
        last = EvaluateRequest.decode(records)
        return EvaluateReply(self.name, last.run, last.round, self._validation(last.round)).encode(), last.round

    def _validation(self, rounds: int) -> ValidationReport:
        return ValidationReport((self.dice(rounds),), 1.0, self.validation_cases, 0.25)


def moved(weights: Weights, step: float) -> dict[str, Any]:
    """An update whose every number is known."""
    return {name: _moved(name, value, step) for name, value in weights.items()}


def _moved(name: str, value: Any, step: float) -> Any:
    if name.endswith(COUNTER):
        return value + 2
    if name.endswith(MEAN):
        return np.full_like(value, step)
    return np.full_like(value, 1 + step) if name.endswith(VARIANCE) else np.full_like(value, step)


def silent(message: Message) -> None:
    """A site that never answers."""


def failing(kind: str, error: Error, site: Site) -> Site:
    """A site that answers messages of this type with an error."""

    def answer(message: Message) -> Any:
        return Message(error, reply_to=message) if message.metadata.message_type == kind else site(message)

    return answer


def answering_late(kind: str, seconds: float, site: Site) -> Site:
    """A site that keeps the caller waiting, as one does that works in the server's process."""

    def answer(message: Message) -> Any:
        if message.metadata.message_type == kind:
            time.sleep(seconds)
        return site(message)

    return answer


def tiny_settings(**changes: Any) -> FederationSettings:
    """Three rounds of at least two sites."""
    settings = FederationSettings(
        TINY,
        rounds=3,
        minimum_sites=2,
        round_deadline_s=60.0,
        prepare_deadline_s=60.0,
        again_s=0,
        seed=7,
        training=TrainingSettings(learning_rate=0.001),
    )
    return replace(settings, **changes)


def tiny_state(settings: FederationSettings, run: str = RUN) -> ServerState:
    """The beginning of a run."""
    return begin(run, settings, tiny_weights())


def federate(
    grid: Grid, folder: Path, settings: FederationSettings | None = None, state: ServerState | None = None
) -> list[Event]:
    """A whole run; its events. What it raises comes through, with the events so far in its notes."""
    events: list[Event] = []
    settings = settings or tiny_settings()
    Federation(grid, settings, folder, state or tiny_state(settings), events.append).run()
    return events
