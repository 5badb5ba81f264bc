"""How replies are fetched: at once, or beside everything else.

Flower tells of a reply before all of it has arrived, and then waits for the rest: for minutes on a slow link, for hours
when a site broke off. Nobody else's reply, and no deadline, may wait for that.
"""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def at_once(work: Callable[[], T]) -> "Future[T]":
    """Do it now; for engines in this process, whose sites work while they are looked at."""
    future: Future[T] = Future()
    _do(work, future)
    return future


def beside(work: Callable[[], T]) -> "Future[T]":
    """Do it in a thread of its own, which keeps nobody from leaving."""
    future: Future[T] = Future()
    Thread(target=_do, args=(work, future), daemon=True).start()
    return future


def _do(work: Callable[[], T], future: "Future[T]") -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
        future.set_exception(error)
