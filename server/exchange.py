"""One question to the sites and their checked answers: what a round and the final evaluation have in common."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from flwr.app import ArrayRecord, Error, RecordDict

from client.contract import PREPARE, TRAIN, EvaluateReply, EvaluateRequest, PrepareReply, TrainReply, TrainRequest
from client.exchange.parcel import open_update
from client.exchange.variates import open_control
from client.failures import read_error
from client.weights import Weights, decode_weights
from segformer3d.errors import ReplyError
from server.downlink import Delivery
from server.mailbox import Answer, Mailbox, Unusable
from server.pace import Pace
from server.records import Event, SiteAskedAgain, SiteReplied, message_bytes
from server.repeats import Failure, Repeats
from server.replies import SetAside, check_evaluate, check_train, set_aside
from server.roster import Member, Roster

Reply = TypeVar("Reply", TrainReply, EvaluateReply)

LATE = "check the site, or allow a longer deadline"


@dataclass(frozen=True, eq=False)
class Question(Generic[Reply]):
    """What is asked of every site.

    Attributes:
        phase: the message's type.
        round: the round, or for an evaluation the rounds behind the model.
        delivery: the request, as each site gets it.
        deadline_s: how long to wait at most.
        pace: how long its sites take for a round.
        again_s: how long to wait for a site that failed and is asked again, when all others are done; 0: nobody is
            asked again.
        read: makes a checked reply of what came and of what its site said about its data, or raises ReplyError.
    """

    phase: str
    round: int
    delivery: Delivery
    deadline_s: float
    pace: Pace
    again_s: float
    read: Callable[[RecordDict, PrepareReply], Reply]

    def patience(self, site: str) -> float:
        """Seconds that this site may take."""
        return self.pace.patience(site, self.deadline_s)


@dataclass(frozen=True, eq=False)
class Received(Generic[Reply]):
    """A reply that passed its checks, the seconds it took, and the bytes that went down and came up for it."""

    reply: Reply
    seconds: float
    bytes_down: int
    bytes_up: int


def read_train(
    records: RecordDict, ready: PrepareReply, *, request: TrainRequest, digest: str, longest: Callable[[], float]
) -> TrainReply:
    """A checked reply to this request for the model with this digest, with an update no longer than `longest()`.

    Raises:
        ReplyError: it must not be used.
    """

    def open_it(arrays: ArrayRecord) -> Weights:
        codec = request.exchange.up
        return decode_weights(arrays) if codec is None else open_update(arrays, codec, digest, request.weights)

    variates = partial(open_control, exchange=request.exchange, parameters=request.control or {})
    reply = TrainReply.decode(records, open_it, variates)
    check_train(reply, ready, request, longest())
    return reply


def read_evaluate(records: RecordDict, ready: PrepareReply, *, request: EvaluateRequest) -> EvaluateReply:
    """A checked reply to this request.

    Raises:
        ReplyError: it must not be used.
    """
    reply = EvaluateReply.decode(records)
    check_evaluate(reply, ready, request)
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
        """Good replies by site name. It takes no longer than the deadline, however many answer.

        A site that fails is asked again while others are at work, and then for `question.again_s` at most. One that
        keeps silent is asked again too: a message may be lost, and an answer that is finished costs the site nothing.
        """
        asked = {member.node: member for member in members}
        received: dict[str, Received[Reply]] = {}
        deadline, last_good = time.monotonic() + question.deadline_s, time.monotonic()
        repeats = Repeats(question.again_s)
        self._send(question, asked, list(asked), repeats)
        patience: Callable[[int], float] = lambda node: question.patience(asked[node].site)  # noqa: E731
        began = time.monotonic()
        while self._goes_on(question, repeats, last_good) and time.monotonic() < deadline:
            for answer in self._mailbox.look(deadline):
                if answer.phase == PREPARE:
                    self._roster.take(answer)
                    continue
                outcome = self._read(question, asked[answer.node], answer)
                if isinstance(outcome, Received):
                    received[outcome.reply.site], last_good = outcome, time.monotonic()
                elif outcome.lacks_base and question.delivery.send_whole(asked[answer.node].site):
                    self._send(question, asked, [answer.node], repeats)
                else:
                    self._failed(question, answer.node, outcome, repeats)
            self._ask_again(question, asked, repeats)
            self._give_up(question, asked, self._mailbox.close_overdue(question.phase, patience))
            self._ask_silent(question, asked, max((item.seconds for item in received.values()), default=None))
            if self._goes_on(question, repeats, last_good):
                pause = self._mailbox.pause_after(time.monotonic() - began)
                time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        for failure in repeats.given_up():
            self._put_aside(failure)
        self._give_up(question, asked, self._mailbox.close(question.phase))
        if question.phase == TRAIN:
            for member in members:
                self._roster.note_round(member, good=member.site in received)
        return [received[site] for site in sorted(received)]

    def _give_up(self, question: Question[Reply], asked: Mapping[int, Member], nodes: Collection[int]) -> None:
        for node in sorted(nodes):
            site = asked[node].site
            reason = f"it did not answer within {question.patience(site):.0f} s"
            self._put_aside(SetAside(site, question.phase, reason, LATE))

    def _ask_again(self, question: Question[Reply], asked: Mapping[int, Member], repeats: Repeats) -> None:
        due = repeats.due()
        online = self._mailbox.online() if due else set()
        nodes = [node for node in due if node in online]
        for node in nodes:
            repeats.asked(node)
        if nodes:
            self._send(question, asked, nodes, repeats)

    def _ask_silent(self, question: Question[Reply], asked: Mapping[int, Member], longest_s: float | None) -> None:
        if not question.again_s:
            return
        usual: Callable[[int], float] = lambda node: question.pace.silence(asked[node].site, longest_s)  # noqa: E731
        silent = self._mailbox.silent(question.phase, usual)
        nodes = sorted(silent & self._mailbox.online()) if silent else []
        unsent = self._put(question, asked, nodes)
        for node in nodes:
            if node not in unsent:
                what = SetAside(asked[node].site, question.phase, "it has not answered for longer than usual", LATE)
                self._emit(SiteAskedAgain(question.round, what))

    def _goes_on(self, question: Question[Reply], repeats: Repeats, last_good: float) -> bool:
        if self._mailbox.waiting(question.phase):
            return True
        return repeats.hopeful(last_good)

    def _send(
        self, question: Question[Reply], asked: Mapping[int, Member], nodes: Sequence[int], repeats: Repeats
    ) -> None:
        for node in self._put(question, asked, nodes):
            why = SetAside(asked[node].site, question.phase, "the request could not be sent to it", "restart the site")
            self._failed(question, node, Failure(why, final=False), repeats)

    def _put(self, question: Question[Reply], asked: Mapping[int, Member], nodes: Sequence[int]) -> list[int]:
        """Send the question to these sites; returns those that it could not be sent to."""
        phase, group, unsent = question.phase, str(question.round), list[int]()
        for records, some in question.delivery.groups({node: asked[node].site for node in nodes}):
            unsent += self._mailbox.send(phase, group, some, records, question.deadline_s)
        return unsent

    def _failed(self, question: Question[Reply], node: int, failure: Failure, repeats: Repeats) -> None:
        if failure.final or not question.again_s:
            self._put_aside(failure.what)
        else:
            repeats.add(node, failure.what)
            self._emit(SiteAskedAgain(question.round, failure.what))

    def _read(self, question: Question[Reply], member: Member, answer: Answer) -> Received[Reply] | Failure:
        content, site, phase = answer.content, member.site, answer.phase
        if isinstance(content, Unusable):
            return Failure(SetAside(site, phase, content.reason, content.remedy), final=False)
        if isinstance(content, Error):
            told = read_error(content, site, phase)
            return Failure(SetAside(site, phase, told.reason, told.remedy), told.final, told.lacks_base)
        try:
            reply = question.read(content, member.ready)
        except ReplyError as error:  # the same question would get the same reply
            return Failure(set_aside(site, phase, error), final=True)
        self._emit(SiteReplied(phase, question.round, site, answer.seconds))
        return Received(reply, answer.seconds, question.delivery.bytes_down(site), message_bytes(content))
