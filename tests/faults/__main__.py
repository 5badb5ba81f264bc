"""`python -m tests.faults [NAME ...]`: plant one fault after another and see whether the tests notice.

The faults are those of `planted.toml` and, if it is there, of `drawn.toml`; names choose some of them. Each worker has
a copy of the tree of its own. A fault counts as caught only where the test that fails passes without it.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

FOLDER, TREE = Path(__file__).parent, Path(__file__).resolve().parents[2]
LISTS = ("planted.toml", "drawn.toml")
LIMIT_S, LOOK_S = 600.0, 0.2
HEAD = "| fault | file | outcome | seconds |\n| --- | --- | --- | ---: |"
# What pytest ends with when it has neither passed nor failed: the failure of a test would say something else.
_CODES = {
    2: "does not import",
    3: "pytest broke",
    4: "pytest could not begin: no such test, or a broken conftest.py",
    5: "no test was run",
}
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """A fault: what is wrong, in which file, the text that becomes another, and the tests that should notice it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a fault, and how long that took."""

    fault: Fault
    text: str
    caught: bool
    seconds: float

    def row(self) -> str:
        cells = (self.fault.name, f"`{self.fault.file}`", self.text, f"{self.seconds:.0f}")
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


@dataclass(frozen=True)
class Bench:
    """Where faults are tried: which tests are known to be sound without any, and whether all is to stop."""

    sound: dict[tuple[str, ...], bool] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)


def read_faults(folder: Path = FOLDER) -> tuple[Fault, ...]:
    """All faults, in the order of the lists."""
    listed = [fault for name in LISTS if (folder / name).is_file() for fault in _read(folder / name)]
    return tuple(Fault(**{**fault, "tests": tuple(fault["tests"])}) for fault in listed)


def _read(path: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = tomllib.loads(path.read_text(encoding="utf-8"))["fault"]
    return found


def copy_tree(tree: Path, place: Path) -> Path:
    """The files that git knows or would add, and beside them the shared data, where the tests look for them."""
    command = ["git", "-C", str(tree), "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (tree / name).is_file():  # one that was removed may still be known
            (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, place / "tree" / name)
    if (tree.parent / "shared").is_dir():
        (place / "shared").symlink_to((tree.parent / "shared").resolve())
    return place / "tree"


def is_there(tree: Path, test: str) -> bool:
    """Whether a tree has the file, and the test in it, that a pytest argument names."""
    file, _, rest = test.partition("::")
    name = rest.partition("[")[0].rpartition("::")[2]
    path = tree / file
    return path.exists() and (not name or re.search(rf"def {name}\b", path.read_text(encoding="utf-8")) is not None)


def play(fault: Fault, copy: Path, bench: Bench) -> Outcome:
    """Plant a fault in a copy, run its tests, and take it out again."""
    began = time.monotonic()
    text, caught = _verdict(fault, copy, bench)
    return Outcome(fault, text, caught, time.monotonic() - began)


def _verdict(fault: Fault, copy: Path, bench: Bench) -> tuple[str, bool]:
    path = copy / fault.file
    before = path.read_bytes() if path.is_file() else b""
    found = before.count(fault.old.encode())
    if found != 1:
        return f"does not apply: text {f'found {found} times' if found else 'not found'}", False
    tests = tuple(test for test in fault.tests if is_there(copy, test))
    if not tests:
        return "its tests are not in this tree", False
    path.write_bytes(before.replace(fault.old.encode(), fault.new.encode()))
    try:
        code, said = run_pytest(copy, tests, bench)
    finally:
        path.write_bytes(before)
    if code == 0:
        return ("ESCAPED" if " passed" in said else "its tests were skipped"), False
    if code is None:
        failing, told = tests, f"caught by a time-out in {tests[0]}"
    else:
        failed = _FAILED.findall(said)
        if code != 1 or not failed or "::" not in failed[0]:
            return _CODES[2] if failed and code == 1 else _CODES.get(code, f"pytest ended with {code}"), False
        failing, told = (failed[0],), f"caught by {failed[0]}"
    if failing not in bench.sound:
        bench.sound[failing] = run_pytest(copy, failing, bench)[0] == 0
    return (told, True) if bench.sound[failing] else (f"the test fails without the fault, too: {failing[0]}", False)


def run_pytest(copy: Path, tests: Sequence[str], bench: Bench) -> tuple[int | None, str]:
    """Run tests until the first failure: pytest's exit code, None after too long, and what it printed."""
    for stale in copy.rglob("__pycache__"):  # as old as the second, and as long as the text, in which a fault was there
        shutil.rmtree(stale, ignore_errors=True)
    options = ["-x", "-q", "-rfE", "--color=no", "-p", "no:cacheprovider"]
    values = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=copy,
            env=values,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        deadline = time.monotonic() + LIMIT_S
        while process.poll() is None and time.monotonic() < deadline and not bench.stop.is_set():
            time.sleep(LOOK_S)
        code = process.poll()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        output.seek(0)
        return code, output.read()


def play_all(faults: Sequence[Fault], tree: Path, workers: int) -> Iterator[Outcome]:
    """The outcomes in the order of the faults, each as soon as those before it are there."""
    bench, free = Bench(), Queue[Path]()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, ThreadPoolExecutor(workers) as pool:
        for number in range(workers):
            free.put(copy_tree(tree, Path(folder) / str(number)))
        try:
            yield from pool.map(lambda fault: _in_turn(fault, free, bench), faults)
        finally:
            bench.stop.set()
            pool.shutdown(cancel_futures=True)


def _in_turn(fault: Fault, free: "Queue[Path]", bench: Bench) -> Outcome:
    copy = free.get()
    try:
        return play(fault, copy, bench)
    finally:
        free.put(copy)


def main(say: Callable[[str], None] = lambda line: print(line, flush=True)) -> int:
    """Play the faults that were asked for; 1 if one of them was not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults whose names contain one of these texts")
    parser.add_argument("--tree", type=Path, default=TREE, help="a checkout: its product and its tests (default: this)")
    parser.add_argument("--workers", type=int, default=2, help="faults that are tried at the same time (default: 2)")
    parser.add_argument("--out", type=Path, help="a file for the table, in Markdown")
    asked = parser.parse_args()
    names = [name.lower() for name in asked.names]
    faults = [fault for fault in read_faults() if not names or any(name in fault.name.lower() for name in names)]
    if not faults or not (asked.tree / ".git").exists() or asked.workers < 1:
        parser.error("give names of faults, a checkout of git, and at least one worker")
    lines, caught = [HEAD], 0
    say(HEAD)
    for outcome in play_all(faults, asked.tree.resolve(), asked.workers):
        lines.append(outcome.row())
        caught += outcome.caught
        say(lines[-1])
    lines += ["", f"{caught} of {len(faults)} caught"]
    say("\n".join(lines[-2:]))
    if asked.out is not None:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0 if caught == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
