"""What a run costs on the line: the bytes of the messages that it sends and fetches, whether they were of use or not.

An answer that comes when nobody waits for it any more, or a second one, is never fetched.
"""

from flwr.app import Error, RecordDict

from server.mailbox import Audit, Unusable
from server.records import message_bytes


class Traffic:
    """Counts messages as a `server.mailbox.Audit`, and passes them on to another."""

    def __init__(self, audit: Audit | None) -> None:
        self._audit = audit
        self._down = self._up = 0

    def message(self, what: str, node: int, phase: str, group: str, content: RecordDict | Error | Unusable) -> None:
        """A message went out or came in."""
        if isinstance(content, RecordDict):
            if what == "sent":
                self._down += message_bytes(content)
            else:
                self._up += message_bytes(content)
        if self._audit is not None:
            self._audit(what, node, phase, group, content)

    def take(self) -> tuple[int, int]:
        """Bytes down and up since they were taken last."""
        taken, self._down, self._up = (self._down, self._up), 0, 0
        return taken
