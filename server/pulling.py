"""How replies are fetched: at once, or beside everything else.

Flower tells of a reply before all of it has arrived, and then waits for the rest: for minutes on a slow link, for hours
when a site broke off. Nobody else's reply, and no deadline, may wait for that.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread

from flwr.app import Message

Replies = list[Message]


@dataclass(frozen=True)
class Pulling:
    """How replies are fetched, and how long one waits between two looks.

    Attributes:
        begin: fetches by the function that it is given; what it returns may not be done yet.
        share: of the time waited so far that is waited before the next look: a late look costs no more than that.
        shortest_s, longest_s: limits of it.
    """

    begin: Callable[[Callable[[], Replies]], "Future[Replies]"]
    share: float
    shortest_s: float
    longest_s: float

    def pause_after(self, waited: float) -> float:
        """Seconds to the next look when one has waited for so many."""
        return min(max(self.share * waited, self.shortest_s), self.longest_s)


def _at_once(work: Callable[[], Replies]) -> "Future[Replies]":
    future: Future[Replies] = Future()
    _do(work, future)
    return future


def _beside(work: Callable[[], Replies]) -> "Future[Replies]":
    """In a thread of its own, which keeps nobody from leaving."""
    future: Future[Replies] = Future()
    Thread(target=_do, args=(work, future), daemon=True).start()
    return future


def _do(work: Callable[[], Replies], future: "Future[Replies]") -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
        future.set_exception(error)


# For engines in this process, whose sites work while they are looked at.
AT_ONCE = Pulling(_at_once, share=0.002, shortest_s=0.005, longest_s=1.0)
# Between machines: a look is a request for each site that has not answered, and some 10 ms of work for SuperLink: twice
# a second and with 20 sites that is nearly half of a core.
BESIDE = Pulling(_beside, share=0.005, shortest_s=0.5, longest_s=3.0)
