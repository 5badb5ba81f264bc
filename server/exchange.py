"""One question to the sites and their checked answers: what a round and the final evaluation have in common."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from flwr.app import Error, RecordDict

from client.contract import PREPARE, EvaluateReply, PrepareReply, TrainReply
from client.failures import read_error
from client.weights import Weights
from segformer3d.errors import ReplyError
from server.mailbox import Answer, Mailbox, Unusable
from server.records import Event, SiteReplied, message_bytes
from server.replies import SetAside, check_evaluate, check_train, set_aside
from server.roster import Member, Roster

Reply = TypeVar("Reply", TrainReply, EvaluateReply)


@dataclass(frozen=True, eq=False)
class Question(Generic[Reply]):
    """What is asked of every site.

    Attributes:
        phase: the message's type.
        round: the round, or for an evaluation the rounds behind the model.
        records: the request.
        deadline_s: how long to wait.
        read: makes a checked reply of what came and of what its site said about its data, or raises ReplyError.
    """

    phase: str
    round: int
    records: RecordDict
    deadline_s: float
    read: Callable[[RecordDict, PrepareReply], Reply]


@dataclass(frozen=True, eq=False)
class Received(Generic[Reply]):
    """A reply that passed its checks, the seconds it took, and the bytes that went down and came up for it."""

    reply: Reply
    seconds: float
    bytes_down: int
    bytes_up: int


def read_train(
    records: RecordDict, ready: PrepareReply, *, round_number: int, weights: Weights, longest: Callable[[], float]
) -> TrainReply:
    """A checked reply to a train message that carried these weights, with an update no longer than `longest()`.

    Raises:
        ReplyError: it must not be used.
    """
    reply = TrainReply.decode(records)
    check_train(reply, ready, round_number, weights, longest())
    return reply


def read_evaluate(records: RecordDict, ready: PrepareReply, *, round_number: int) -> EvaluateReply:
    """A checked reply to an evaluate message.

    Raises:
        ReplyError: it must not be used.
    """
    reply = EvaluateReply.decode(records)
    check_evaluate(reply, ready, round_number)
    return reply


class Exchange:
    """Asks the sites of a run, and tells on everyone who gives no good answer.

    Args:
        mailbox: how to reach them.
        roster: gets the answers of newcomers that come in meanwhile.
        put_aside: told of every site whose answer is not used.
        emit: told of every good answer.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        roster: Roster,
        put_aside: Callable[[SetAside], None],
        emit: Callable[[Event], None],
    ) -> None:
        self._mailbox = mailbox
        self._roster = roster
        self._put_aside = put_aside
        self._emit = emit

    def ask(self, question: Question[Reply], members: Sequence[Member]) -> list[Received[Reply]]:
        """Good replies by site name. It takes no longer than the deadline, however many answer."""
        asked = {member.node: member for member in members}
        phase, deadline_s = question.phase, question.deadline_s
        deadline = time.monotonic() + deadline_s
        for node in self._mailbox.send(phase, str(question.round), list(asked), question.records, deadline_s):
            self._put_aside(
                SetAside(asked[node].site, phase, "the request could not be sent to it", "restart the site")
            )
        bytes_down = message_bytes(question.records)
        received = {}
        for answer in self._mailbox.answers(phase, deadline):
            if answer.phase == PREPARE:
                self._roster.take(answer)
                continue
            item = self._read(question, asked[answer.node], answer, bytes_down)
            if item is not None:
                received[item.reply.site] = item
        for node in sorted(self._mailbox.close(phase)):
            reason = f"it did not answer within {deadline_s:g} s"
            self._put_aside(SetAside(asked[node].site, phase, reason, "check the site, or allow a longer deadline"))
        return [received[site] for site in sorted(received)]

    def _read(
        self, question: Question[Reply], member: Member, answer: Answer, bytes_down: int
    ) -> Received[Reply] | None:
        content, site = answer.content, member.site
        if isinstance(content, Unusable):
            self._put_aside(SetAside(site, answer.phase, content.reason, content.remedy))
            return None
        if isinstance(content, Error):
            failure = read_error(content, site, answer.phase)
            self._put_aside(SetAside(site, answer.phase, failure.reason, failure.remedy))
            return None
        try:
            reply = question.read(content, member.ready)
        except ReplyError as error:
            self._put_aside(set_aside(site, answer.phase, error))
            return None
        self._emit(SiteReplied(answer.phase, question.round, site, answer.seconds))
        return Received(reply, answer.seconds, bytes_down, message_bytes(content))
