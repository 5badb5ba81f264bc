"""Whether a measured row may stand beside published ones: by the same protocol, on exactly the cases it holds out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from segformer3d.cases import CaseFiles
from segformer3d.held_out import held_out_of
from segformer3d.protocols import PUBLISHED_NAME, Protocol


@dataclass(frozen=True)
class PublishedCases:
    """How the cases that were measured stand to those that the published protocol of the task holds out.

    Attributes:
        sentence: how many of the held-out cases or patients are among them, in words.
        missing: held-out cases or patients that are not, or not with all of their cases.
        others: cases that are measured and not held out.
    """

    sentence: str
    missing: int
    others: int

    @property
    def exact(self) -> bool:
        """Whether they are all of the held-out cases and no other."""
        return not self.missing and not self.others

    def __str__(self) -> str:
        return f"{self.sentence}, {self.missing} missing or incomplete, {self.others} cases that it does not hold out"

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        return {"exact": self.exact, **asdict(self)}


def published_part(cases: Sequence[CaseFiles], task: str) -> PublishedCases | None:
    """What cases, those that could be measured, are of a task's published protocol; None where it has none."""
    published = held_out_of(task)
    if published is None:
        return None
    others = sum(published.name_of(case) is None for case in cases)
    return PublishedCases(published.count(cases), len(published.missing(cases)), others)


def why_not_comparable(protocol: Protocol, part: PublishedCases | None) -> str:
    """Why published rows are no measure for a result; empty where they are."""
    if protocol.name != PUBLISHED_NAME:
        return "it was measured by another protocol (--protocol published measures as the papers do)"
    if part is None or not part.exact:
        told = "" if part is None else f": {part}"
        return f"it was measured on other cases than theirs{told} (--cases published takes exactly these)"
    return ""
