"""Work spread over processes that end when they should: at the end, at an error, and at Ctrl-C."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import TypeVar

from segformer3d.errors import SegfedError

Item = TypeVar("Item")
Result = TypeVar("Result")


# A process takes a second to start; so many bytes of compressed scans are read and measured in that time.
WORTH_A_PROCESS = 50 * 10**6


class ProcessError(SegfedError):
    """A worker process died."""


def choose_processes(paths: Iterable[Path]) -> int:
    """As many processes as there are cores to read these files, or fewer where starting them would take longer."""
    total = sum(path.stat().st_size for path in paths if path.is_file())
    return max(1, min(len(os.sched_getaffinity(0)), total // WORTH_A_PROCESS))


def map_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    processes: int,
    on_result: Callable[[Result], object] | None = None,
) -> list[Result]:
    """`[function(item) for item in items]`, in this process or, where more than one is asked for, in fresh ones.

    `on_result` is told each result in turn. For the rest see `map_in_processes`.
    """
    if processes > 1 and len(items) > 1:
        return map_in_processes(function, items, processes, on_result)
    return [_told(function(item), on_result) for item in items]


def map_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    processes: int,
    on_result: Callable[[Result], object] | None = None,
) -> list[Result]:
    """`[function(item) for item in items]` in fresh processes, `processes` at a time, the first items first.

    Function, items and results must be importable or plain values. `on_result` is told each result here, in the order
    of the items. An exception of the function is raised here, and so is Ctrl-C; either ends all processes at once
    rather than when they have finished, and so does the death of this process.

    Raises:
        ProcessError: a process died, most likely for want of memory.
    """
    before = set(active_children())
    with ProcessPoolExecutor(
        min(processes, len(items)), mp_context=get_context("spawn"), initializer=_end_with_the_parent
    ) as pool:
        try:
            futures = [pool.submit(function, item) for item in items]
            return [_told(future.result(), on_result) for future in futures]
        except BrokenProcessPool as error:
            raise ProcessError(
                "a worker process died, most likely because memory ran out; use fewer at the same time"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(active_children()) - before:
                child.terminate()
            raise


def _told(result: Result, on_result: Callable[[Result], object] | None) -> Result:
    if on_result is not None:
        on_result(result)
    return result


def _end_with_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
    die_with_parent(lambda: os.kill(os.getpid(), signal.SIGKILL))


def die_with_parent(end: Callable[[], object]) -> None:
    """Call `end` when the process that started this one is gone: nobody waits for the work any more."""
    parent = parent_process()
    if parent is not None:
        gone = parent.sentinel
        threading.Thread(target=lambda: (wait([gone]), end()), daemon=True).start()


def print_to(log: Path) -> None:
    """Append everything that this process prints, down to a native crash, to a file."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
