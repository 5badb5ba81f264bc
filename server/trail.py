"""The coordinator's audit trail: a line for every message and for every decision about one, in `audit.jsonl`.

What was in a message is told by its size and its SHA-256, which is the one that the site writes into its own trail.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Error, RecordDict

from client.records import digest_of
from client.weights import printable
from segformer3d.audit import append_record
from server.mailbox import Unusable
from server.records import Event, RoundFinished, RunFinished, SiteAskedAgain, SiteReplied, SiteSetAside, message_bytes

TRAIL = "audit.jsonl"


class Trail:
    """Writes the trail of one run.

    Args:
        path: the file; all runs of a coordinator share it.
        run: the run's name.
        name_of: the registered name of a node.
    """

    def __init__(self, path: Path, run: str, name_of: Callable[[int], str | None]) -> None:
        self._path = path
        self._run = run
        self._name_of = name_of

    def message(self, what: str, node: int, phase: str, group: str, content: RecordDict | Error | Unusable) -> None:
        """A message went out or came in."""
        told: dict[str, Any] = {"peer": self._name_of(node) or f"node {node}", "kind": phase, "round": int(group)}
        if isinstance(content, RecordDict):
            told |= {"bytes": message_bytes(content), "sha256": digest_of(content)}
        elif isinstance(content, Error):
            told |= {"error": content.code, "reason": printable(content.reason or "")}
        else:
            told |= {"reason": content.reason}
        self._write(what, **told)

    def event(self, event: Event) -> None:
        """What was decided."""
        match event:
            case SiteReplied(phase, number, site, _):
                self._write("used", peer=site, kind=phase, round=number)
            case SiteSetAside(number, what):
                self._write("set aside", peer=what.site, kind=what.phase, round=number, reason=what.reason)
            case SiteAskedAgain(number, what):
                self._write("asked again", peer=what.site, kind=what.phase, round=number, reason=what.reason)
            case RoundFinished(record):
                self._write("round finished", round=record.round, sites=[site.site for site in record.sites])
            case RunFinished(record):
                self._write("run finished", rounds=record.rounds)

    def _write(self, what: str, **told: Any) -> None:
        append_record(self._path, run=self._run, what=what, **told)
