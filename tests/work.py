"""What tests cost: a pytest plugin that measures the work of each, and with `--budget` refuses what is too much.

Work is CPU time, in seconds: of the test, of its own fixtures and of every process that they start, so that a busy
machine does not change it. What a fixture of a wider scope needs is its own entry, once, however many tests share it.
"""

import json
import os
import resource
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil
import pytest

from .shares import write_times

TEST_LIMIT, SHARED_LIMIT, NOTABLE = 40.0, 60.0, 20.0  # seconds of work
NOTABLE_ELAPSED = 30.0  # seconds from start to end
LOOK_S, FRESH_S = 0.5, 0.05  # how often the meter looks at processes by itself, and when again for who asks
PROPERTY = "segfed cost"
REMEDY = (
    "give it a smaller federation or a fixture that others share (CONTRIBUTING.md has the list), or mark it slow and "
    "leave a cheaper one in its place"
)


@dataclass(frozen=True)
class Cost:
    """Of a test, or of a shared fixture (whose name then follows the test that needed it first), in seconds."""

    name: str
    work: float
    elapsed: float
    shared: bool

    @property
    def limit(self) -> float:
        return SHARED_LIMIT if self.shared else TEST_LIMIT


class Meter:
    """CPU seconds of this process and of all that it has ever started.

    Two sums, neither of which can be too large: what the system says of the children that were waited for and of those
    that live, and what each process was last seen to have used. The first misses whom nobody waited for (a killed
    parent's children), the second the last moments of each.
    """

    def __init__(self) -> None:
        self._seen: dict[psutil.Process, float] = {}
        self._live: set[psutil.Process] = set()
        self._through_parents, self._looked = 0.0, -FRESH_S
        self._most = 0.0
        self._lock = threading.Lock()
        threading.Thread(target=self._look_for_ever, daemon=True).start()

    def read(self) -> float:
        """Seconds so far."""
        with self._lock:
            self._look_again()
            self._most = max(self._most, time.process_time() + max(self._through_parents, sum(self._seen.values())))
            return self._most

    def living(self) -> set[psutil.Process]:
        """The processes that live now."""
        with self._lock:
            self._look_again()
            return set(self._live)

    def _look_for_ever(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with self._lock:
                self._look()

    def _look_again(self) -> None:
        """Milliseconds, which thousands of tests need not pay that are quicker than any process starts."""
        if time.monotonic() - self._looked > FRESH_S:
            self._look()

    def _look(self) -> None:
        """Note what each process has used, and the seconds of those below this one and of whom they waited for."""
        began = time.monotonic()  # on a busy machine much may end before this look does
        waited = resource.getrusage(resource.RUSAGE_CHILDREN)  # first: who ends meanwhile shall not count twice
        children = set(_descendants(os.getpid()))
        beneath, self._live = 0.0, children | self._live
        for process in list(self._live):
            try:
                used = process.cpu_times()
            except psutil.Error:  # it has ended
                self._live.discard(process)
                continue
            self._seen[process] = used.user + used.system
            if process in children:
                beneath += used.user + used.system + used.children_user + used.children_system
        self._through_parents, self._looked = waited.ru_utime + waited.ru_stime + beneath, began


def _descendants(pid: int) -> Iterator[psutil.Process]:
    """As the kernel lists them, by thread: psutil would read of every process of the machine, several times as long."""
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            for child in map(int, thread.read_text().split()):
                with suppress(psutil.Error):  # so has the process
                    yield psutil.Process(child)
                yield from _descendants(child)


class Costs:
    """Measures where tests run; collects, tells and judges where they are reported."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._within = [(0.0, 0.0)]  # work and time of shared fixtures in what is being set up, innermost last
        self._begun: tuple[float, float] = (0.0, 0.0)
        self._before: set[psutil.Process] = set()
        self._found: list[Cost] = []
        self.told: list[Cost] = []

    @cached_property
    def _meter(self) -> Meter:
        """From the first test on: the process that only deals tests to others looks at nothing."""
        return Meter()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        self._within, self._found, self._before = [(0.0, 0.0)], [], self._meter.living()
        self._begun = self._now()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        with self._measured(f"{request.node.nodeid or 'tests'}: {fixturedef.argname}"):
            return (yield)

    @contextmanager
    def _measured(self, name: str) -> Iterator[None]:
        """A shared fixture's own part, without those that it asks for."""
        began = self._now()
        self._within.append((0.0, 0.0))
        try:
            yield
        finally:
            work, elapsed = (after - before for after, before in zip(self._now(), began, strict=True))
            inner_work, inner_elapsed = self._within.pop()
            outer_work, outer_elapsed = self._within[-1]
            self._within[-1] = (outer_work + work, outer_elapsed + elapsed)
            self._found.append(Cost(name, work - inner_work, elapsed - inner_elapsed, shared=True))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        if call.when == "teardown":
            work, elapsed = (after - before for after, before in zip(self._now(), self._begun, strict=True))
            shared_work, shared_elapsed = self._within[0]
            own = Cost(item.nodeid, work - shared_work, elapsed - shared_elapsed, shared=False)
            slow = item.get_closest_marker("slow") is not None
            costs = [[cost.name, cost.work, cost.elapsed, cost.shared] for cost in [own, *self._found]]
            item.user_properties.append((PROPERTY, {"slow": slow, "costs": costs}))
        if call.excinfo is not None and str(call.excinfo.value).startswith("Timeout"):
            for process in self._meter.living() - self._before:
                with suppress(psutil.Error):
                    process.kill()
        return (yield)

    def _now(self) -> tuple[float, float]:
        return self._meter.read(), time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if report.when == "teardown" and name == PROPERTY:
                self.told += [Cost(*cost) for cost in value["costs"] if not value["slow"]]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        lines = [
            f"{cost.work:6.1f} s of work, {cost.elapsed:6.1f} s from start to end: {cost.name}"
            for cost in sorted(self.told, key=lambda cost: -cost.work)
            if cost.work > NOTABLE or cost.elapsed > NOTABLE_ELAPSED
        ]
        if lines:
            terminalreporter.section(f"more than {NOTABLE:g} s of work, or {NOTABLE_ELAPSED:g} s from start to end")
            for line in lines:
                terminalreporter.write_line(line)
        for cost in self.too_much():
            terminalreporter.write_line(
                f"{cost.name} takes {cost.work:.0f} s of work, and may take {cost.limit:g}: {REMEDY}", red=True
            )

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if hasattr(self._config, "workerinput"):
            return
        if exitstatus == pytest.ExitCode.OK and self._config.getoption("budget") and self.too_much():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        path = self._config.getoption("costs")
        if path:
            told: dict[str, list[float]] = {}
            for cost in self.told:  # a fixture with several parameters is measured once for each
                work, elapsed = told.get(cost.name, (0.0, 0.0))
                told[cost.name] = [round(work + cost.work, 2), round(elapsed + cost.elapsed, 2)]
            Path(path).write_text(json.dumps(told, indent=0) + "\n")
        if self._config.getoption("times"):
            write_times([(cost.name, cost.elapsed) for cost in self.told])

    def too_much(self) -> list[Cost]:
        """What breaks the budget."""
        return [cost for cost in self.told if cost.work > cost.limit]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("segfed")
    group.addoption("--budget", action="store_true", help="fail when a test that is not slow takes too much work")
    group.addoption("--costs", metavar="FILE", help="write the work and the time of every test to a JSON file")
    group.addoption("--times", action="store_true", help="write how long each share takes to tests/times.json")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Costs(config), "segfed costs")
