"""A process of its own for each contender: its allocator, its memory and its caches are nobody else's."""

import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from segformer3d.allocator import keep_freed_memory

Deeds = Mapping[str, Callable[[Any], Any]]


class Worker:
    """A process that does what it is asked to. A context manager; leaving it ends the process.

    Args:
        make: an importable function (or `partial` of one) that is called there and returns what it can do, by name.
        product: whether the process runs as segfed's programs do (freed memory is kept), or as it comes.
        threads: for PyTorch.
    """

    def __init__(self, make: Callable[[], Deeds], *, product: bool, threads: int) -> None:
        self._connection, theirs = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=_serve, args=(theirs, make, product, threads))
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join(timeout=10)
        self._process.kill()

    def ask(self, deed: str, argument: Any = None) -> Any:
        """Have it do something, and wait for what comes of it.

        Raises:
            EOFError: the process died; what it printed says why.
        """
        self._connection.send((deed, argument))
        return self._connection.recv()


def _serve(connection: Connection, make: Callable[[], Deeds], product: bool, threads: int) -> None:
    if product:
        keep_freed_memory()
    torch.set_num_threads(threads)
    deeds = make()
    while True:
        try:
            deed, argument = connection.recv()
        except EOFError:
            return
        connection.send(deeds[deed](argument))


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """How long a call takes; by CUDA's own events on a GPU, whose work goes on after the call has returned."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def tensor_peak_mb(run: Callable[[], object], device: torch.device) -> float:
    """The most MB that PyTorch had handed out for tensors during the run, which makes all that it uses itself."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(sizes), default=0) / 1e6


def process_peak_mb(run: Callable[[], object]) -> float:
    """MB that the process grew by at its largest during its first run: tensors, scratch space, code on first use."""
    before = process_memory("self")["VmRSS"]
    run()
    return (process_memory("self")["VmHWM"] - before) / 1e3


def process_memory(process: str) -> dict[str, int]:
    """The memory figures of /proc/PROCESS/status, in kB; empty when the process has gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}
