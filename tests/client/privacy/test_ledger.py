"""The ledger never forgets a spend that a training was allowed to start on, whatever is done to it.

Oracles: what `charge` returned before a real process was killed; the bytes on the disk; the accountant itself.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import libfaketime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.limits import RefusalError
from client.privacy.accounting import Event, spent
from client.privacy.cohort import Cohort, Member
from client.privacy.ledger import LEDGER, BudgetError, Ledger, LedgerError, read_ledger
from client.privacy.ledger_commands import plan_and_print, show_and_print, verify_and_print
from client.privacy.ledger_lines import Contents, merged, rounded_up
from segformer3d.audit import verify
from segformer3d.errors import ConfigurationError, DataError, SegfedError
from segformer3d.files import StorageError
from tests.examples import NIGHT

EVENT = Event(0.5, 2.0, 4)
QUESTION = "a" * 64
DELTA = 1e-5
SECRET = "Erika-Mustermann"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def cohort(*patients: str) -> Cohort:
    """Patients with one case each, whose files are told by the patient's name."""
    return Cohort(tuple(Member(name, (digest(name),)) for name in patients or (SECRET, "p02", "p03")))


def charge(ledger: Ledger, run: str = "run-1", number: int = 1, limit: float | None = None) -> float:
    return ledger.charge(run, number, EVENT, QUESTION, limit, DELTA)


def write(path: Path, spends: int = 3) -> Path:
    """A ledger with some spends and a release: spends + 2 lines."""
    with Ledger.open(path, cohort()) as ledger:
        for number in range(spends):
            charge(ledger, number=number + 1)
        ledger.note_release("run-1", 1, "b" * 64)
    return path


def head_of(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def steps_of(contents: Contents) -> int:
    return sum(event.steps for event in contents.events)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that tests copy before they damage it."""
    return write(tmp_path_factory.mktemp("whole") / LEDGER)


def copy(whole: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole.parent, folder)
    return folder / whole.name


@pytest.fixture
def path(tmp_path: Path, whole: Path) -> Path:
    """A ledger of the test's own."""
    return copy(whole, tmp_path / "site")


def refuse(path: Path, match: str | None = None) -> str:
    """Whoever reads or opens the ledger is told one line, and the ledger stays as it is."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(LedgerError, match=match) as refused:
        read_ledger(path)
    with pytest.raises(LedgerError, match=match), Ledger.open(path, cohort()):
        pass
    text = str(refused.value)
    assert "\n" not in text
    assert SECRET not in text
    after = {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith(".lock")}
    assert after == {name: content for name, content in before.items() if not name.endswith(".lock")}
    return text


def test_what_was_charged_is_read_again(path: Path) -> None:
    found = read_ledger(path)
    assert (found.contents.lines, found.unfinished, found.behind) == (5, 0, False)
    assert [(spend.run, spend.round, spend.event, spend.question) for spend in found.contents.spends] == [
        ("run-1", number, EVENT, QUESTION) for number in (1, 2, 3)
    ]
    assert [(release.run, release.round, release.reply) for release in found.contents.releases] == [
        ("run-1", 1, "b" * 64)
    ]
    assert found.contents.events == (Event(0.5, 2.0, 12),)
    with Ledger.open(path, cohort()) as ledger:
        assert ledger.contents == found.contents
        assert ledger.spent(DELTA) == spent([Event(0.5, 2.0, 12)], DELTA)
        assert charge(ledger) == spent([Event(0.5, 2.0, 16)], DELTA) == ledger.spent(DELTA)


def test_it_is_a_record_as_every_other_and_its_head_speaks_of_its_end(path: Path) -> None:
    found = verify(path)
    assert json.loads(head_of(path).read_text()) == {"line": found.lines, "digest": found.digest}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["open", "spend", "spend", "spend", "release"]
    now = datetime.now(UTC)
    assert all(timedelta(0) <= now - datetime.fromisoformat(line["time"]) < timedelta(minutes=5) for line in lines)


def test_no_patient_is_named_and_only_the_owner_can_read_it(path: Path) -> None:
    text = path.read_text() + head_of(path).read_text()
    for name in (SECRET, "p02", digest(SECRET), digest("p02")):
        assert name not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other = write(path.parent / "other" / LEDGER)
    assert (
        json.loads(path.read_text().splitlines()[0])["members"]
        != json.loads(other.read_text().splitlines()[0])["members"]
    ), "the salt is random"


# A process that is killed before every statement, and in the middle of every write


KILLED = textwrap.dedent(
    """
    import os, resource, shutil, signal, sys
    from pathlib import Path
    from client.privacy import ledger as module
    from client.privacy.accounting import Event
    from client.privacy.cohort import Cohort, Member

    folder, kind, start, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    module.spent = lambda events, delta: 1.0  # the accountant is not what is stopped here
    os.fsync = lambda file: None  # the kernel outlives the process: syncing is for power failures, and takes minutes
    members = tuple(Member(name, (name[-1] * 64,)) for name in ("p1", "p2", "p3"))
    cohort = Cohort(members)
    parts = ("privacy/ledger.py", "privacy/ledger_file.py", "segformer3d/files.py")  # all that touch the disk

    def work(place):
        with module.Ledger.open(place / module.LEDGER, cohort) as ledger:
            for number in (1, 2):
                ledger.charge("killed", number, Event(0.5, 2.0, 1), "c" * 64, None, 1e-5)
                os.write(told, b"x")
            ledger.note_release("killed", 2, "d" * 64)

    def die_at_statement(number):
        left = number

        def trace(frame, event, argument):
            nonlocal left
            if not any(part in frame.f_code.co_filename for part in parts):
                return None
            left -= event == "line"
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)

    def die_at_byte(number):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # writes what fits, and kills at the next byte
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))

    for number in range(start, 100_000, step):
        place = folder / f"{number:05}"
        shutil.copytree(folder / "before", place)
        told = os.open(place / "returned", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        child = os.fork()
        if child == 0:
            (die_at_statement if kind == "statement" else die_at_byte)(number)
            work(place)
            sys.settrace(None)
            os._exit(0)
        os.close(told)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            break
        if not os.WIFSIGNALED(status):
            sys.exit(f"the child at {number} failed: {status}")
    """
)


def charged_by_the_killed(contents: Contents) -> int:
    return sum(spend.run == "killed" for spend in contents.spends)


def kill_everywhere(folder: Path, kind: str, start: int, step: int) -> Iterator[tuple[Path, int]]:
    """What processes leave that are killed at one place after the other, with how many charges had returned."""
    arguments = [str(folder), kind, str(start), str(step)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for place in sorted(folder.glob("[0-9]*")):
        yield place, len((place / "returned").read_bytes())


STATES = ["new", "old", "behind", "unfinished"]


def before_the_crash(folder: Path, state: str) -> None:
    """`folder/before`: no ledger, one of two of the three patients, or one whose last writer was killed."""
    place = folder / "before"
    place.mkdir()
    if state == "new":
        return
    members = tuple(Member(name, (name[-1] * 64,)) for name in ("p1", "p2"))
    with Ledger.open(place / LEDGER, Cohort(members)) as ledger:
        charge(ledger)
        head = head_of(place / LEDGER).read_bytes()
        charge(ledger)
    if state == "behind":
        head_of(place / LEDGER).write_bytes(head)
    if state == "unfinished":
        content = (place / LEDGER).read_bytes()
        (place / LEDGER).write_bytes(content[:-9])
        head_of(place / LEDGER).write_bytes(head)


def looks_of(path: Path) -> tuple[object, ...]:
    if not path.exists():
        return (head_of(path).exists(),)
    found = read_ledger(path)
    return found.contents.lines, found.unfinished > 0, found.behind, head_of(path).exists()


def check_after_the_crash(place: Path, state: str, returned: int, seen_before: set[tuple[object, ...]]) -> None:
    """Of every place the ledger is read; of the places that look alike, one is used again."""
    path, before = place / LEDGER, {"new": 0, "old": 2, "behind": 2, "unfinished": 1}[state]
    if path.exists():
        seen = read_ledger(path).contents
        assert returned <= charged_by_the_killed(seen) <= returned + 1
        assert len(seen.spends) == before + charged_by_the_killed(seen)
    else:
        assert (state, returned) == ("new", 0)
    looks = (returned, *looks_of(path))
    if looks in seen_before:
        return
    seen_before.add(looks)
    members = tuple(Member(name, (name[-1] * 64,)) for name in ("p1", "p2", "p3"))
    with Ledger.open(path, Cohort(members)) as ledger:
        assert returned <= charged_by_the_killed(ledger.contents) <= returned + 1
        ledger.note_release("after", 1, "e" * 64)
    found = read_ledger(path)
    assert (found.unfinished, found.behind) == (0, False)
    assert returned <= charged_by_the_killed(found.contents) <= returned + 1


@pytest.mark.parametrize("state", STATES)
def test_killed_before_any_statement_it_never_under_counts(tmp_path: Path, state: str) -> None:
    """Before each at night; by day before some, which are others for each state."""
    before_the_crash(tmp_path, state)
    start, step = (0, 1) if NIGHT in os.environ else (2 * STATES.index(state), 2 * len(STATES) + 1)
    seen: set[int] = set()
    looks: set[tuple[object, ...]] = set()
    for place, returned in kill_everywhere(tmp_path, "statement", start, step):
        check_after_the_crash(place, state, returned, looks)
        seen.add(returned)
    assert len(looks) >= 8
    assert seen == {0, 1, 2}, "the process was stopped before, between and after its charges"


def test_killed_at_any_byte_of_its_writes_it_never_under_counts(tmp_path: Path) -> None:
    before_the_crash(tmp_path, "old")
    size = (tmp_path / "before" / LEDGER).stat().st_size
    seen, torn = set(), 0
    for place, returned in kill_everywhere(tmp_path, "byte", size, 11 if NIGHT in os.environ else 37):
        torn += not (place / LEDGER).read_bytes().endswith(b"\n")
        check_after_the_crash(place, "old", returned, set())
        seen.add(returned)
    assert seen == {0, 1, 2}
    assert torn > 20, "half lines were seen"


def test_everything_is_synced_before_a_charge_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power failure may take is what was not synced: the line is, before its head is; then the folder is."""
    done: list[str] = []

    def note(what: str, place: Path) -> None:
        name = place.name if place.is_dir() else ("temporary " if place.name.startswith(".") else "") + place.suffix
        done.append(f"{what} {name}")

    def fsync(file: int, real: Callable[[int], None] = os.fsync) -> None:
        note("sync", Path(f"/proc/self/fd/{file}").readlink())
        real(file)

    def replace(source: Path, target: Path, real: Callable[[Path, Path], None] = os.replace) -> None:
        real(source, target)
        note("replace", Path(target))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    append = ["sync .jsonl", "sync temporary .head", "replace .head", "sync site"]
    with Ledger.open(path, cohort()) as ledger:
        assert done == []
        charge(ledger)
        assert done == append
    done.clear()
    with Ledger.open(path.parent / "new" / LEDGER, cohort()) as ledger:
        new = ["sync temporary .jsonl", "replace .jsonl", "sync new", *append[:3], "sync new"]
        assert done == new


# Damage


def test_every_flipped_byte_is_refused(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "flipped"

    @given(st.integers(0, whole.stat().st_size - 1), st.integers(1, 255))
    def check(place: int, change: int) -> None:
        path = copy(whole, folder)
        content = bytearray(path.read_bytes())
        content[place] ^= change
        path.write_bytes(content)
        refuse(path, "restore it and its .head together")

    check()


def test_every_truncation_is_refused(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "truncated"

    @given(st.integers(0, whole.stat().st_size - 1))
    def check(length: int) -> None:
        path = copy(whole, folder)
        os.truncate(path, length)
        refuse(path, "restore it and its .head together")

    check()


def test_a_head_that_was_touched_says_the_same_or_is_refused(
    whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, size = tmp_path_factory.getbasetemp() / "head", head_of(whole).stat().st_size
    lines = read_ledger(whole).contents

    @given(st.integers(0, size - 1), st.integers(0, 255))
    def check(place: int, change: int) -> None:
        path = copy(whole, folder)
        content = bytearray(head_of(path).read_bytes())
        content[place] ^= change
        head_of(path).write_bytes(content if change else content[:place])
        try:
            found = read_ledger(path)
        except LedgerError:
            refuse(path)
        else:  # a space that became a tab
            assert found.contents == lines

    check()


def test_lines_that_are_removed_added_or_moved_are_refused(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    changes = {
        "the first removed": lines[1:],
        "one removed": [*lines[:2], *lines[3:]],
        "the last removed": lines[:-1],
        "all but the first removed": lines[:1],
        "swapped": [lines[0], lines[2], lines[1], *lines[3:]],
        "doubled": [*lines, lines[-1]],
        "an empty one": [*lines, b"\n"],
        "no object": [*lines[:2], b"[]\n", *lines[3:]],
        "nested": [*lines[:2], b"[" * 100_000 + b"\n", *lines[3:]],
        "a torn one that is not the last": [*lines[:2], lines[2][:-9], *lines[3:]],
        "empty": [],
    }
    for what, changed in changes.items():
        path.write_bytes(b"".join(changed))
        print(what, refuse(path, "is damaged"))


@pytest.mark.parametrize("left", [1, 2, 4])
def test_a_lost_end_is_called_what_it_is(path: Path, left: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:left]))
    refuse(path, "lines are missing at its end: its head speaks of line 5")


def append_by_hand(path: Path, move_head: bool, **fields: object) -> None:
    """A line that continues the chain as it should, from somebody who knows how."""
    lines = path.read_bytes().splitlines()
    values = {"line": len(lines) + 1, "time": "2999-01-01T00:00:00.000+00:00", "before": hash_of(lines[-1]), **fields}
    text = json.dumps({name: value for name, value in values.items() if value is not None}).encode()
    path.write_bytes(path.read_bytes() + text + b"\n")
    if move_head:
        head_of(path).write_text(json.dumps({"line": len(lines) + 1, "digest": hash_of(text)}))


def hash_of(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


SPEND = {"kind": "spend", "run": "r", "round": 1, "event": EVENT.to_json(), "question": QUESTION}


@pytest.mark.parametrize(
    "fields",
    [
        SPEND | {"kind": "refund"},
        SPEND | {"kind": ["spend"]},
        SPEND | {"kind": None},
        SPEND | {"patient": "p01"},
        SPEND | {"question": None},
        SPEND | {"question": "a" * 63},
        SPEND | {"question": 1},
        SPEND | {"run": ""},
        SPEND | {"run": "two\nlines"},
        SPEND | {"run": "\ud800"},
        SPEND | {"run": 7},
        SPEND | {"round": 0},
        SPEND | {"round": True},
        SPEND | {"round": 1.0},
        SPEND | {"event": None},
        SPEND | {"event": []},
        SPEND | {"event": {"sampling_rate": 0.5, "noise_multiplier": 1.0}},
        SPEND | {"event": EVENT.to_json() | {"steps": -4}},
        SPEND | {"event": EVENT.to_json() | {"sampling_rate": 1.5}},
        SPEND | {"event": EVENT.to_json() | {"noise_multiplier": float("nan")}},
        SPEND | {"event": EVENT.to_json() | {"noise_multiplier": float("inf")}},
        SPEND | {"event": EVENT.to_json() | {"noise_multiplier": "2"}},
        SPEND | {"time": "yesterday"},
        SPEND | {"time": "2999-01-01T00:00:00"},
        SPEND | {"time": "2999-01-01T00:00:00+02:00"},
        SPEND | {"time": 5},
        SPEND | {"line": 7},
        SPEND | {"before": "0" * 64},
        {"kind": "release", "run": "r", "round": 1, "reply": "x"},
        {"kind": "members", "members": []},
        {"kind": "members", "members": [{"patient": "p01", "sources": []}]},
        {"kind": "open", "salt": "0" * 64, "members": [{"patient": "0" * 64, "sources": ["0" * 64]}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("move_head", [True, False])
def test_a_line_outside_the_rules_is_refused_by_its_number(path: Path, fields: dict, move_head: bool) -> None:
    append_by_hand(path, move_head, **fields)
    refuse(path, "is damaged: line 6 ")


def test_a_first_line_that_is_not_the_opening_is_refused(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    for line in (
        {"line": 1, "time": "2020-01-01T00:00:00+00:00", **SPEND, "before": "0" * 64},
        {"line": 1, "time": "2020-01-01T00:00:00+00:00", "kind": "open", "salt": "", "members": [], "before": "0" * 64},
    ):
        path.write_text(json.dumps(line) + "\n")
        refuse(path, "is damaged: line 1 ")


def test_a_ledger_that_is_gone_is_refused(path: Path) -> None:
    path.unlink()
    assert "only its head ledger.jsonl.head is left" in refuse(path)


def test_a_head_that_is_gone_is_refused(path: Path) -> None:
    head_of(path).unlink()
    assert "lines may be missing at its end" in refuse(path)


def test_a_ledger_or_a_head_from_an_older_copy_is_refused(path: Path, tmp_path: Path) -> None:
    old = copy(path, tmp_path / "old")
    with Ledger.open(path, cohort()) as ledger:
        for _ in range(2):
            charge(ledger)
    new = copy(path, tmp_path / "new")
    shutil.copy(old, path)
    refuse(path, "lines are missing at its end: its head speaks of line 7")
    shutil.copy(new, path)
    shutil.copy(head_of(old), head_of(path))
    refuse(path, "its head speaks of line 5, and more than one line stands behind that")


def test_another_ledger_in_its_place_is_refused(path: Path, tmp_path: Path) -> None:
    shutil.copy(write(tmp_path / "other" / LEDGER), path)
    refuse(path, "line 5 is not the one that its head speaks of")


def test_a_line_that_was_never_finished_is_cut_off_and_nothing_else(path: Path) -> None:
    whole = path.read_bytes()
    for torn in (b"{", b'{"line": 6, "time": "2026', b"\0" * 100, b"\xff"):
        path.write_bytes(whole + torn)
        found = read_ledger(path)
        assert (found.unfinished, len(found.contents.spends)) == (len(torn), 3)
        assert path.read_bytes() == whole + torn, "reading changes nothing"
        with Ledger.open(path, cohort()) as ledger:
            assert len(ledger.contents.spends) == 3
        assert path.read_bytes() == whole


def test_a_line_without_its_head_counts(path: Path) -> None:
    old = head_of(path).read_bytes()
    with Ledger.open(path, cohort()) as ledger:
        charge(ledger)
    head_of(path).write_bytes(old)
    assert (read_ledger(path).behind, steps_of(read_ledger(path).contents)) == (True, 16)
    with Ledger.open(path, cohort()) as ledger:
        assert steps_of(ledger.contents) == 16
    assert not read_ledger(path).behind
    head_of(path).write_bytes(old)
    path.write_bytes(path.read_bytes() + b"{")
    refuse(path, "behind line 6 stands what no crash leaves there")


# Two at once


HOLDER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from client.privacy.accounting import Event
    from client.privacy.cohort import Cohort, Member
    from client.privacy.ledger import Ledger
    member = Member(sys.argv[2], (sys.argv[3],))
    with Ledger.open(Path(sys.argv[1]), Cohort((member,))) as ledger:
        ledger.charge("held", 1, Event(0.5, 2.0, 4), "c" * 64, None, 1e-5)
        print("holds", flush=True)
        sys.stdin.read()
    """
)


@contextmanager
def held(path: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has charged the ledger and keeps it open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), SECRET, digest(SECRET)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_until_the_first_ends(path: Path) -> None:
    with held(path) as process:
        with pytest.raises(LedgerError, match="another run is using the privacy ledger") as refused:
            charge_once(path)
        assert "wait for it to end" in str(refused.value)
        assert steps_of(read_ledger(path).contents) == 16, "it can be read meanwhile"
        process.kill()
        process.wait()
        charge_once(path)
    assert [spend.run for spend in read_ledger(path).contents.spends][-2:] == ["held", "run-1"]


def charge_once(path: Path) -> None:
    with Ledger.open(path, cohort()) as ledger:
        charge(ledger)


def test_another_name_of_the_file_is_the_same_ledger(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(path)
    (tmp_path / "folder").symlink_to(path.parent)
    with Ledger.open(path, cohort()):
        for name in (tmp_path / "link.jsonl", tmp_path / "folder" / LEDGER):
            with pytest.raises(LedgerError, match="another run"), Ledger.open(name, cohort()):
                pass


def test_a_second_thread_is_refused(path: Path) -> None:
    with ThreadPoolExecutor(1) as pool, Ledger.open(path, cohort()):
        thread = pool.submit(charge_once, path)
        with pytest.raises(LedgerError, match="another run"):
            thread.result()
    charge_once(path)


def test_a_forked_process_does_not_keep_the_lock(path: Path) -> None:
    """As the processes that read cases are forked while a training holds the ledger."""
    forks = "import os, time; os.fork() or (time.sleep(5), os._exit(0))"
    arguments = [sys.executable, "-c", HOLDER.replace("sys.stdin.read()", forks), str(path), SECRET, digest(SECRET)]
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    charge_once(path)


CHARGERS = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from client.privacy.accounting import Event, spent
    from client.privacy.cohort import Cohort, Member
    from client.privacy.ledger import Ledger, LedgerError, read_ledger

    spent((Event(0.5, 2.0, 4),), 1e-5)  # what the accountant imports is imported once
    path, cohort = Path(sys.argv[1]), Cohort((Member(sys.argv[2], (sys.argv[3],)),))

    def charge_many(run):
        done = 0
        while done < 6:
            read_ledger(path)  # whole at any moment
            try:
                with Ledger.open(path, cohort) as ledger:
                    ledger.charge(run, done + 1, Event(0.5, 2.0, 4), "c" * 64, None, 1e-5)
            except LedgerError as error:
                assert "another run" in str(error), error
            else:
                done += 1

    children = []
    for name in "abc":
        child = os.fork()
        if child == 0:
            charge_many(name)
            os._exit(0)
        children.append(child)
    sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
    """
)


def test_processes_that_charge_at_once_lose_nothing(path: Path) -> None:
    subprocess.run([sys.executable, "-c", CHARGERS, str(path), SECRET, digest(SECRET)], check=True)
    rounds = [(spend.run, spend.round) for spend in read_ledger(path).contents.spends if spend.run != "run-1"]
    assert sorted(rounds) == [(name, number) for name in "abc" for number in range(1, 7)]


def test_a_ledger_that_something_else_touches_meanwhile_takes_no_line(path: Path, tmp_path: Path) -> None:
    spare, other = copy(path, tmp_path / "spare"), write(tmp_path / "other" / LEDGER, spends=4)
    with Ledger.open(path, cohort()) as ledger:
        path.write_bytes(path.read_bytes() + b"{")
        with pytest.raises(LedgerError, match="changed by something else"):
            charge(ledger)
        shutil.copy(other, path)
        with pytest.raises(LedgerError, match="is damaged"):
            charge(ledger)
        shutil.copy(head_of(other), head_of(path))
        with pytest.raises(LedgerError, match="changed by something else"):
            charge(ledger)
        path.unlink()
        with pytest.raises(LedgerError, match="it is gone"):
            charge(ledger)
        head_of(path).unlink()
        with pytest.raises(LedgerError, match="changed by something else"):
            charge(ledger)
        shutil.copytree(spare.parent, path.parent, dirs_exist_ok=True)
        charge(ledger)
    assert steps_of(read_ledger(path).contents) == 16


def test_a_closed_ledger_takes_no_line(path: Path) -> None:
    with Ledger.open(path, cohort()) as ledger:
        pass
    content = path.read_bytes()
    with pytest.raises(LedgerError, match="open it again"):
        charge(ledger)
    assert path.read_bytes() == content


# The budget


def test_two_runs_compose_and_the_third_is_refused_with_nothing_written(tmp_path: Path) -> None:
    path, limit = tmp_path / LEDGER, spent([EVENT, EVENT], DELTA) + 1e-9
    for run in ("first", "second"):
        with Ledger.open(path, cohort()) as ledger:
            charge(ledger, run, limit=limit)
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with Ledger.open(path, cohort()) as ledger:
        with pytest.raises(BudgetError) as refused:
            charge(ledger, "third", limit=limit)
        assert [spend.run for spend in ledger.contents.spends] == ["first", "second"]
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files
        charge(ledger, "third", limit=spent([EVENT] * 3, DELTA))
    text = str(refused.value)
    assert "round 1 of run third" in text
    assert f"limit is {limit:g}" in text
    assert rounded_up(spent([EVENT] * 3, DELTA)) in text
    assert isinstance(refused.value, RefusalError), "the site answers with it"


def test_a_limit_of_another_kind_of_training_holds_too(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / LEDGER, cohort()) as ledger:
        charge(ledger)
        other = Event(0.1, 1.0, 100)
        both = spent([EVENT, other], DELTA)
        with pytest.raises(BudgetError):
            ledger.charge("run-1", 2, other, QUESTION, both * 0.999, DELTA)
        assert ledger.charge("run-1", 2, other, QUESTION, both, DELTA) == both
        assert ledger.events == (EVENT, other)


def test_an_epsilon_that_is_no_number_is_within_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.privacy.ledger.spent", lambda events, delta: float("nan"))
    with Ledger.open(tmp_path / LEDGER, cohort()) as ledger:
        with pytest.raises(BudgetError):
            charge(ledger, limit=8.0)
        assert not ledger.events


@given(st.lists(st.builds(Event, st.sampled_from([0.1, 0.5, 1]), st.sampled_from([1, 1.0, 2.0]), st.integers(1, 9))))
def test_merging_keeps_every_step(events: list[Event]) -> None:
    def steps(found: list[Event] | tuple[Event, ...], rate: float, noise: float) -> int:
        return sum(e.steps for e in found if (e.sampling_rate, e.noise_multiplier) == (rate, noise))

    found = merged(events)
    assert len({(event.sampling_rate, event.noise_multiplier) for event in found}) == len(found)
    for event in events:
        mechanism = (event.sampling_rate, event.noise_multiplier)
        assert steps(found, *mechanism) == steps(events, *mechanism)


def test_epsilons_are_rounded_up() -> None:
    assert [rounded_up(value) for value in (0.0, 8.0, 8.0000001, 7.9991, 1234.5671, float("inf"))] == [
        "0",
        "8",
        "8.001",
        "8",
        "1234.568",
        "inf",
    ]


# The cohort


def test_renaming_the_folder_or_the_run_resets_nothing(path: Path, tmp_path: Path) -> None:
    path.parent.rename(tmp_path / "renamed")
    with Ledger.open(tmp_path / "renamed" / LEDGER, cohort()) as ledger:
        assert charge(ledger, "a new name") == spent([EVENT] * 4, DELTA)


@pytest.mark.parametrize(
    ("member", "lines"),
    [
        (Member(SECRET, (digest(SECRET),)), 5),
        (Member(SECRET, (digest("exported again"),)), 6),
        (Member("a new name", (digest(SECRET),)), 6),
        (Member("a new name", (digest("another visit"), digest("p02"))), 6),
    ],
    ids=["the same", "exported again", "renamed", "renamed with a new visit"],
)
def test_a_patient_stays_known_by_the_id_or_by_a_file(path: Path, member: Member, lines: int) -> None:
    with Ledger.open(path, Cohort((member,))) as ledger:
        assert ledger.contents.lines == lines
        assert charge(ledger) == spent([EVENT] * 4, DELTA)


def test_a_patient_who_changes_step_by_step_stays_known(path: Path) -> None:
    """New files under the old id, then a new id for the new files: neither is what the first line holds."""
    for member in (Member("p02", (digest("new"),)), Member("other", (digest("new"),)), Member("other", (digest("x"),))):
        with Ledger.open(path, Cohort((member,))) as ledger:
            assert steps_of(ledger.contents) == 12


def test_newcomers_are_written_down_once_and_inherit_everything(path: Path) -> None:
    for _ in range(2):
        with Ledger.open(path, cohort(SECRET, "new-1", "new-2")) as ledger:
            assert steps_of(ledger.contents) == 12
            assert ledger.contents.lines == 6
    line = json.loads(path.read_text().splitlines()[-1])
    assert (line["kind"], len(line["members"])) == ("members", 2)
    assert "new-1" not in path.read_text()
    with Ledger.open(path, cohort("new-2")) as ledger, pytest.raises(BudgetError):
        charge(ledger, limit=spent([EVENT] * 3, DELTA))


def test_another_cohort_is_refused(path: Path) -> None:
    content = path.read_bytes()
    with pytest.raises(LedgerError, match="belongs to another cohort") as refused, Ledger.open(path, cohort("x", "y")):
        pass
    assert "set ledger = ... in site.toml" in str(refused.value)
    assert path.read_bytes() == content


def test_an_empty_cohort_is_refused_before_there_is_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the cohort is empty"), Ledger.open(tmp_path / LEDGER, Cohort(())):
        pass
    assert not list(tmp_path.iterdir())


# The clock


def test_a_clock_that_runs_backwards_is_refused(path: Path) -> None:
    content = path.read_bytes()

    def clock(seconds: float) -> Callable[[], datetime]:
        return lambda: datetime.now(UTC) + timedelta(seconds=seconds)

    told = r"the clock runs backwards: .*; set this computer's clock"
    with Ledger.open(path, cohort(), clock(-3600)) as ledger, pytest.raises(LedgerError, match=told):
        charge(ledger)
    with pytest.raises(LedgerError, match="the clock"), Ledger.open(path, cohort(SECRET, "new"), clock(-3600)):
        pass
    assert path.read_bytes() == content
    with Ledger.open(path, cohort(), clock(-100)) as ledger:
        charge(ledger)
    assert read_ledger(path).contents.lines == 6


def test_a_real_clock_that_was_ahead_is_noticed_once_it_is_right(path: Path) -> None:
    (library,) = Path(libfaketime.__file__).parent.rglob("libfaketime.so.1")
    with held(path, LD_PRELOAD=str(library), FAKETIME="+10m"):
        pass
    with Ledger.open(path, cohort()) as ledger, pytest.raises(LedgerError, match="the clock runs backwards"):
        charge(ledger)
    assert steps_of(read_ledger(path).contents) == 16


# A disk that is full


FullDisk = Callable[[int], AbstractContextManager[None]]


def test_a_full_disk_leaves_a_usable_ledger(path: Path, full_disk: FullDisk) -> None:
    size = path.stat().st_size
    for room in (0, 1, 100, 250):
        with Ledger.open(path, cohort()) as ledger:
            with full_disk(size + room), pytest.raises(StorageError, match=r"ledger\.jsonl: .*free space"):
                charge(ledger)
            assert path.stat().st_size == size + room
            with pytest.raises(LedgerError, match="open it again"):
                charge(ledger)
    with Ledger.open(path, cohort()) as ledger:
        assert steps_of(ledger.contents) == 12
        charge(ledger)
    assert steps_of(read_ledger(path).contents) == 16


def test_a_full_disk_leaves_no_half_ledger(tmp_path: Path, full_disk: FullDisk) -> None:
    with full_disk(100), pytest.raises(StorageError), Ledger.open(tmp_path / LEDGER, cohort()):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.jsonl.lock"]
    write(tmp_path / LEDGER)


def test_a_head_that_cannot_be_written_charges_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken, Ledger.open(path, cohort()) as ledger:
        broken.setattr(os, "replace", full)
        with pytest.raises(StorageError, match="No space left"):
            charge(ledger)
        with pytest.raises(LedgerError, match="open it again"):
            charge(ledger)
        with pytest.raises(LedgerError, match="another run"):  # the lock is still held
            charge_once(path)
    for _ in range(3):  # as long as the disk is full, no try costs anything more
        with monkeypatch.context() as broken:
            broken.setattr(os, "replace", full)
            with pytest.raises(StorageError), Ledger.open(path, cohort()):
                pass
    with Ledger.open(path, cohort()) as ledger:
        assert steps_of(ledger.contents) == 16, "more than was trained, never less"


def test_a_folder_in_the_way_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / LEDGER).mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot write"), Ledger.open(tmp_path / "file" / LEDGER, cohort()):
        pass
    with pytest.raises(LedgerError, match="cannot read"), Ledger.open(tmp_path / "folder" / LEDGER, cohort()):
        pass


# The commands


def test_show_tells_what_each_run_cost_and_all_of_them(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger.open(path, cohort(SECRET, "new")) as ledger:
        ledger.charge("[red]second", 7, Event(0.25, 1.5, 20), QUESTION, None, DELTA)
        ledger.charge("[red]second", 7, Event(0.25, 1.5, 20), QUESTION, None, DELTA)
        ledger.charge("[red]second", 9, Event(0.5, 1.5, 1), QUESTION, None, DELTA)
    for argument in (str(path), str(path.parent)):
        show_and_print(argument, None)
        text = capsys.readouterr().out
        first, second = (next(line for line in text.splitlines() if name in line) for name in ("run-1", "[red]second"))
        assert "1-3 " in first
        assert "12 steps, noise 2, rate 0.5" in first
        assert first.split()[-2:] == ["1", rounded_up(spent([Event(0.5, 2.0, 12)], DELTA))]
        assert "7, 9 (+1 again)" in second
        events = [Event(0.5, 2.0, 12), Event(0.25, 1.5, 40), Event(0.5, 1.5, 1)]
        assert second.split()[-1] == rounded_up(spent(events[1:], DELTA))
        assert f"epsilon {rounded_up(spent(events, DELTA))} at delta 1e-05" in text
        assert SECRET not in text
    show_and_print(str(path), 1e-3)
    assert f"epsilon {rounded_up(spent(events, 1e-3))} at delta 0.001" in capsys.readouterr().out


def test_show_of_a_ledger_without_a_charge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / LEDGER, spends=0)
    show_and_print(str(tmp_path), None)
    assert "nothing was charged yet: epsilon 0" in capsys.readouterr().out


def test_verify_tells_lines_and_digest_and_what_a_crash_left(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify_and_print(str(path))
    found = verify(path)
    assert capsys.readouterr().out == (f"{found.lines} lines hang together; the digest of the last is {found.digest}\n")
    path.write_bytes(path.read_bytes() + b"{")
    verify_and_print(str(path.parent))
    assert "its training never started" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-1])
    append_by_hand(path, move_head=False, **SPEND)
    verify_and_print(str(path))
    assert "one line behind" in capsys.readouterr().out
    append_by_hand(path, move_head=False, **SPEND)
    with pytest.raises(LedgerError, match="is damaged"):
        verify_and_print(str(path))


def test_plan_tells_rounds_that_fit_and_noise_that_is_needed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit = 8.0
    plan_and_print(str(path), limit, DELTA, 0.5, 2, 3.0)
    text = capsys.readouterr().out
    before = Event(0.5, 2.0, 12)
    assert f"spent so far: epsilon {rounded_up(spent([before], DELTA))} of 8 at delta 1e-05" in text
    numbers = [line.split() for line in text.splitlines() if line[:1].isdigit()]
    fitting, needed = dict(numbers[:1]), dict(numbers[1:])
    rounds = int(fitting["3"])
    assert spent([before, Event(0.5, 3.0, 2 * rounds)], DELTA) <= limit
    assert spent([before, Event(0.5, 3.0, 2 * rounds + 2)], DELTA) > limit
    assert list(needed) == ["10", "20", "50", "100"]
    for rounds, noise in ((int(count), float(noise)) for count, noise in needed.items()):
        assert limit * 0.97 < spent([before, Event(0.5, noise, 2 * rounds)], DELTA) <= limit


def test_plan_has_defaults_and_knows_when_nothing_is_left(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan_and_print(str(path), 0.5, None, None, None, None)
    text = capsys.readouterr().out
    assert "nothing is left" in text
    assert "rounds that fit" not in text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.0, None, None, None, None), "limit"),
        ((float("nan"), None, None, None, None), "limit"),
        ((8.0, 0.0, None, None, None), "delta"),
        ((8.0, 1.0, None, None, None), "delta"),
        ((8.0, None, 0.0, None, None), "sampling_rate"),
        ((8.0, None, None, 0, None), "steps"),
        ((8.0, None, None, None, -1.0), "noise_multiplier"),
    ],
)
def test_a_plan_of_nonsense_is_refused(path: Path, values: tuple[float | None, ...], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        plan_and_print(str(path), *values)  # type: ignore[arg-type]


def test_commands_without_a_ledger_say_so(tmp_path: Path) -> None:
    for command in (lambda: show_and_print(str(tmp_path), None), lambda: verify_and_print(str(tmp_path / "none"))):
        with pytest.raises(SegfedError, match="there is no ledger"):
            command()
    with pytest.raises(ConfigurationError, match="delta must be in"):
        show_and_print(str(tmp_path), 2.0)
