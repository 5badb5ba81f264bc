"""Sites that work in this process, one after another: no start-up, and Ctrl-C and debuggers reach the training loop."""

from flwr.app import Message
from flwr.clientapp import ClientApp

from simulations.engines.handling import answer, give_id
from simulations.engines.parcels import Parcel, pack_message, unpack_message


class InProcess:
    """A desk that works while replies are collected: one message a call, so that the server can look at its clock.

    Only messages that are still asked for are worked on: what the server has given up on costs no time.
    """

    def __init__(self, app: ClientApp, contexts: dict[int, Parcel]) -> None:
        self._app = app
        self._contexts = contexts  # by node id
        self._waiting: dict[str, Message] = {}

    def hand_in(self, message: Message) -> str:
        """Keep the message until its reply is asked for."""
        message_id = give_id(message)
        self._waiting[message_id] = message
        return message_id

    def collect(self, message_ids: set[str], wait: float) -> list[Message]:
        """Work on the oldest of these messages, however long that takes; returns its reply."""
        for message_id in self._waiting:
            if message_id in message_ids:
                return [self._answer(self._waiting.pop(message_id))]
        return []

    def _answer(self, message: Message) -> Message:
        node_id = message.metadata.dst_node_id
        self._contexts[node_id], reply = answer(self._app, self._contexts[node_id], pack_message(message))
        answered = unpack_message(reply)
        give_id(answered)
        return answered
