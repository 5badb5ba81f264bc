"""How long a site may take for a round, from how long it took before: computing and its link are both in that.

A fixed deadline is too long for a site that died and too short for one behind a slow link. A site may take a few times
as long as the longest of its last rounds, and two minutes at least; before its first round the run's deadline holds.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any

LEAST_S, SHORTEST_SILENCE_S = 120.0, 30.0
REMEMBERED = 5  # rounds


class Pace:
    """The pace of all sites of a run.

    Args:
        factor: how many times as long as before a site may take; 0 for as long as the deadline allows.
        history: finished rounds as JSON values, see `server.records`.
    """

    def __init__(self, factor: float, history: Iterable[Mapping[str, Any]] = ()) -> None:
        self._factor = factor
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        for record in history:
            for site in record["sites"]:
                self.note(site["site"], site["seconds"])

    def note(self, site: str, seconds: float) -> None:
        """A site took so long, from its request's sending to its reply's arrival."""
        self._seconds[site].append(seconds)

    def silence(self, site: str, longest_s: float | None) -> float:
        """Seconds without an answer after which a site is asked again, in case its answer was lost.

        Twice as long as it takes at most, half a minute at least; before its first round, as the longest of those who
        have answered (None: nobody has).
        """
        known = self._seconds.get(site) or ([] if longest_s is None else [longest_s])
        return max(SHORTEST_SILENCE_S, 2 * max(known)) if known else math.inf

    def patience(self, site: str, deadline_s: float) -> float:
        """Seconds that a site may take for a round whose deadline is this."""
        known = self._seconds.get(site)
        if not self._factor or not known:
            return deadline_s
        return min(deadline_s, max(LEAST_S, self._factor * max(known)))
