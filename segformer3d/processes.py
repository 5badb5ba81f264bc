"""Work spread over processes that end when they should: at the end, at an error, at Ctrl-C, and with their parent."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import TypeVar

from segformer3d.errors import SegfedError
from segformer3d.files import storage_errors

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
            with interrupts_kept_here():
                futures = [pool.submit(function, item) for item in items]
            return _collected(futures, on_result)
        except BrokenProcessPool as error:
            raise ProcessError(
                "a worker process died, most likely because memory ran out; use fewer at the same time"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(active_children()) - before:
                child.terminate()
            raise


def _collected(futures: Sequence[Future[Result]], on_result: Callable[[Result], object] | None) -> list[Result]:
    """All results; an exception as soon as there is one, however long the work before it takes."""
    pending, told = set(futures), 0
    while pending:
        done, pending = wait_for(pending, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        while told < len(futures) and futures[told] not in pending:
            _told(futures[told].result(), on_result)
            told += 1
    return [future.result() for future in futures]


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back in this thread until the end of the `with` block; processes started in it never get it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def interrupts_kept_here() -> Iterator[None]:
    """Ctrl-C is for this process to handle: those that the `with` block starts never get it."""
    resource_tracker.ensure_running()  # starting the first process would start it, and let Ctrl-C through again
    with interrupts_held():
        yield


def _told(result: Result, on_result: Callable[[Result], object] | None) -> Result:
    if on_result is not None:
        on_result(result)
    return result


def _end_with_the_parent() -> None:
    die_with_parent(lambda: os.kill(os.getpid(), signal.SIGKILL))


def die_with_parent(end: Callable[[], object]) -> None:
    """Call `end` when the process that started this one is gone: nobody waits for the work any more."""
    parent = parent_process()
    if parent is not None:
        gone = parent.sentinel
        threading.Thread(target=lambda: (wait([gone]), end()), daemon=True).start()


def print_to(log: Path) -> None:
    """Append everything that this process prints from now on, down to a native crash, to a file.

    Raises:
        StorageError: the file cannot be written.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with storage_errors(log):
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
