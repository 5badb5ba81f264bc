"""The grid that a ServerApp sees in every engine: Flower's public interface over a desk that takes messages in."""

import time
from collections.abc import Iterable
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

POLL_SECONDS = 0.05


class Desk(Protocol):
    """Where messages are handed in and replies are collected."""

    def hand_in(self, message: Message) -> str:
        """Accept a message for `message.metadata.dst_node_id` without waiting for anything; returns its new id."""

    def collect(self, message_ids: set[str], wait: float) -> list[Message]:
        """The finished replies to these messages, each of them once; waits `wait` seconds for the first at most."""


class EngineGrid(Grid):
    """A fixed set of nodes that are always there.

    Messages are not lost, not repeated and not expired: a reply that comes after the server's deadline can still be
    pulled. `pull_messages` returns within `POLL_SECONDS`, except where this process itself does a site's work.
    """

    def __init__(self, run: Run, node_ids: Iterable[int], desk: Desk) -> None:
        self._run = run
        self._node_ids = tuple(node_ids)
        self._desk = desk
        self._open: set[str] = set()

    def set_run(self, run: Run) -> None:
        """Replace what `run` says."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that this grid belongs to."""
        return self._run

    def get_node_ids(self) -> list[int]:
        """The nodes of all sites, in no particular order."""
        return list(self._node_ids)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message from the server; the constructor of `Message` does the same."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; returns their ids.

        Raises:
            ValueError: a message is for a node that is not in this grid.
        """
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that have arrived to these messages since they were last pulled, in any order."""
        asked = self._open.intersection(message_ids)
        replies = self._desk.collect(asked, POLL_SECONDS) if asked else []
        self._open.difference_update(reply.metadata.reply_to_message_id for reply in replies)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and wait for the replies, `timeout` seconds at most; late replies are not in the list."""
        missing = set(self.push_messages(messages))
        end = float("inf") if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while missing and time.monotonic() < end:
            arrived = self.pull_messages(missing)
            missing.difference_update(reply.metadata.reply_to_message_id for reply in arrived)
            replies.extend(arrived)
        return replies

    def _push(self, message: Message) -> str:
        if message.metadata.dst_node_id not in self._node_ids:
            raise ValueError(f"no site has the node id {message.metadata.dst_node_id}")
        message_id = self._desk.hand_in(message)
        self._open.add(message_id)
        return message_id
