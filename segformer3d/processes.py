"""Work spread over processes that end when they should: at the end, at an error, and at Ctrl-C."""

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from typing import TypeVar

from segformer3d.errors import SegfedError

Item = TypeVar("Item")
Result = TypeVar("Result")


class ProcessError(SegfedError):
    """A worker process died."""


def map_in_processes(function: Callable[[Item], Result], items: Sequence[Item], processes: int) -> list[Result]:
    """`[function(item) for item in items]` in fresh processes, `processes` at a time, the first items first.

    Function, items and results must be importable or plain values. An exception of the function is raised here, and
    so is Ctrl-C; either ends all processes at once rather than when they have finished.

    Raises:
        ProcessError: a process died, most likely for want of memory.
    """
    before = set(active_children())
    with ProcessPoolExecutor(
        min(processes, len(items)), mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent
    ) as pool:
        try:
            futures = [pool.submit(function, item) for item in items]
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise ProcessError(
                "a worker process died, most likely because memory ran out; use fewer at the same time"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(active_children()) - before:
                child.terminate()
            raise


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
