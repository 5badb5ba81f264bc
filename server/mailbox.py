"""Messages out, answers in: the one place that talks to Flower's Grid.

Each open message is asked for by itself, so that a reply that cannot even be unpacked is blamed on the site that was
asked, and takes no other reply with it. A site may be asked the same twice, as an answer may be lost on the way: the
first answer counts. What comes for a message that was closed (a round that is over) is never looked at.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from segformer3d.errors import SegfedError
from server.pulling import AT_ONCE, Pulling

# A message outlives its deadline by this, so that Flower does not declare a reply lost before the round is over.
GRACE_S = 60.0
# What unpacking a reply raises when its bytes are not what they should be.
_UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RecursionError,
    DecodeError,
    UnexpectedObjectContentError,
)


@dataclass(frozen=True)
class Unusable:
    """Something came, but nothing that can be read."""

    reason: str
    remedy: str


# "sent" or "received", Flower's id of the site, the message's type, the round as text, and what was in the message.
Audit = Callable[[str, int, str, str, RecordDict | Error | Unusable], None]


@dataclass(frozen=True)
class Answer:
    """What came back for one message.

    Attributes:
        node: Flower's id of the site that was asked.
        phase: the message's type.
        content: the reply's records, an error in their place, or neither.
        seconds: since the site was asked, for the first time if it was asked again because it kept silent.
    """

    node: int
    phase: str
    content: RecordDict | Error | Unusable
    seconds: float


@dataclass(frozen=True)
class _Open:
    node: int
    phase: str
    group: str
    sent: float
    since: float  # when the site was first asked this and did not answer


class Mailbox:
    """The messages that are still to be answered.

    Args:
        grid: Flower's way to the sites.
        audit: told of every message that goes out or comes in.
        pulling: how replies are fetched.
    """

    def __init__(self, grid: Grid, audit: Audit | None = None, pulling: Pulling = AT_ONCE) -> None:
        self._grid = grid
        self._audit = audit
        self._pulling = pulling
        self._pulls: dict[str, Future[list[Message]]] = {}  # under way, by message
        self._open: dict[str, _Open] = {}

    def pause_after(self, waited: float) -> float:
        """Seconds to the next look when one has waited for so many."""
        return self._pulling.pause_after(waited)

    def online(self) -> set[int]:
        """Flower's ids of the sites that are connected now."""
        return set(self._grid.get_node_ids())

    def waiting(self, phase: str) -> set[int]:
        """Whose answer to a message of this type is missing."""
        return {item.node for item in self._open.values() if item.phase == phase}

    def send(self, phase: str, group: str, nodes: Sequence[int], records: RecordDict, deadline_s: float) -> list[int]:
        """Send the same content to several sites; returns those that it could not be sent to."""
        ttl = deadline_s + GRACE_S
        messages = [Message(records, node, phase, ttl=ttl, group_id=group) for node in nodes]
        sent = time.monotonic()
        since = {o.node: min(o.since, sent) for o in self._open.values() if o.phase == phase}
        ids = list(self._grid.push_messages(messages))
        if len(ids) != len(messages):  # some grids leave failures out instead of returning None in their place
            ids = [message.metadata.message_id if message.metadata.message_id in ids else "" for message in messages]
        opened = {i: node for i, node in zip(ids, nodes, strict=True) if i}
        self._open.update({i: _Open(node, phase, group, sent, since.get(node, sent)) for i, node in opened.items()})
        if self._audit:
            for node in opened.values():
                self._audit("sent", node, phase, group, records)
        return [node for i, node in zip(ids, nodes, strict=True) if not i]

    def look(self, deadline: float) -> Iterator[Answer]:
        """What has come since the last look. Some engines let a site work only while one looks: mind the clock."""
        for message_id in list(self._open):
            if message_id in self._open:
                yield from self._pull(message_id)
            if time.monotonic() >= deadline:
                return

    def silent(self, phase: str, usual: Callable[[int], float]) -> set[int]:
        """Sites to ask again: no answer for longer than usual, and then for twice as long as before, and so on."""
        now, asked = time.monotonic(), [item for item in self._open.values() if item.phase == phase]
        last = {item.node: item for item in sorted(asked, key=lambda item: item.sent)}
        return {o.node for o in last.values() if now - o.sent > max(usual(o.node), o.sent - o.since)}

    def close_overdue(self, phase: str, allowed: Callable[[int], float]) -> set[int]:
        """Wait no longer for sites whose answer of this type takes more seconds than they are allowed; returns them."""
        now = time.monotonic()
        late = {o.node for o in self._open.values() if o.phase == phase and now - o.since > allowed(o.node)}
        self._close(phase, late)
        return late

    def close(self, phase: str) -> set[int]:
        """Wait no longer for answers of this type; returns who owes one."""
        late = self.waiting(phase)
        self._close(phase, late)
        return late

    def _close(self, phase: str, nodes: Collection[int]) -> None:
        self._open = {i: o for i, o in self._open.items() if o.phase != phase or o.node not in nodes}
        self._pulls = {i: pull for i, pull in self._pulls.items() if i in self._open}

    def _pull(self, message_id: str) -> list[Answer]:
        item = self._open[message_id]
        pull = self._pulls.pop(message_id, None) or self._pulling.begin(partial(self._replies, message_id))
        if not pull.done():
            self._pulls[message_id] = pull
            return []
        contents: list[RecordDict | Error | Unusable]
        try:
            replies = pull.result()
            contents = [reply.error if reply.has_error() else reply.content for reply in replies]
        except SegfedError:  # the engine itself cannot go on
            raise
        except _UNREADABLE as error:
            contents = [Unusable(f"its reply cannot be unpacked ({type(error).__name__})", "restart the site")]
        if contents:
            self._close(item.phase, {item.node})
        if self._audit:
            for content in contents:
                self._audit("received", item.node, item.phase, item.group, content)
        twice = [Unusable("it answered twice; its first answer counts", "restart the site") for _ in contents[1:]]
        seconds = time.monotonic() - item.since
        return [Answer(item.node, item.phase, content, seconds) for content in [*contents[:1], *twice]]

    def _replies(self, message_id: str) -> list[Message]:
        return [m for m in self._grid.pull_messages([message_id]) if m.metadata.reply_to_message_id == message_id]
