"""Sites that have failed and are asked again: which, when, and how long one waits for them."""

import time
from dataclasses import dataclass

from server.replies import SetAside

SHORTEST_AGAIN_S = 2.0


@dataclass(frozen=True)
class Failure:
    """Why an answer is not used, whether the same question would get the same, or a whole model would do."""

    what: SetAside
    final: bool
    lacks_base: bool = False


class Repeats:
    """Sites that have failed and are to be asked again, after pauses that grow.

    Args:
        patience_s: how long one waits for a site when all others are done; the longest pause is a tenth of it.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._longest = max(SHORTEST_AGAIN_S, patience_s / 10)
        self._at: dict[int, float] = {}
        self._pause: dict[int, float] = {}
        self._first: dict[int, float] = {}
        self._last: dict[int, SetAside] = {}

    def hopeful(self, last_good: float) -> bool:
        """Whether any site is worth waiting for when all others are done and the last good reply came then."""
        now = time.monotonic()
        return any(now < max(last_good, self._first[node]) + self._patience_s for node in self._at)

    def add(self, node: int, why: SetAside) -> None:
        """A site has failed."""
        pause = self._pause.get(node, SHORTEST_AGAIN_S)
        self._first.setdefault(node, time.monotonic())
        self._at[node], self._last[node] = time.monotonic() + pause, why
        self._pause[node] = min(2 * pause, self._longest)

    def due(self) -> list[int]:
        """Whom to ask now, until `asked` is told."""
        now = time.monotonic()
        return sorted(node for node, at in self._at.items() if at <= now)

    def asked(self, node: int) -> None:
        """A site has been asked again."""
        self._at.pop(node, None)

    def given_up(self) -> list[SetAside]:
        """Why those who are still waiting failed last."""
        return [self._last[node] for node in sorted(self._at)]
