"""What goes wrong without ill will: sites that hang or leave, bad links, full disks, old certificates, wrong clocks.

Every fault is caused for real. The run completes with the rest, or stops with one line that says what to do. They take
minutes; what each part does about such faults is tested with that part, in milliseconds.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import libfaketime
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from segformer3d.addresses import LOOPBACK, Address
from server.coordinator import open_coordinator

from .federation import LARGER, Simulated, running
from .federation import federation_file as file_of_any
from .kill_matrix import same_weights
from .links import Link
from .rig import Rig

pytestmark = pytest.mark.slow
LAST = "site-3"  # the unlucky one


def federation_file(**settings: int | str) -> str:
    return file_of_any(**{**LARGER, **settings})


@pytest.fixture(scope="module")
def simulated(larger: Simulated) -> Simulated:
    return larger


@pytest.fixture(scope="module")
def rig(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One of three sites may be missing."""
    with running(simulated, tmp_path_factory.mktemp("rig")) as made:
        yield made


@pytest.fixture(autouse=True)
def _all_is_well_again(rig: Rig) -> Iterator[None]:
    yield
    rig.wait("the sites", lambda: all(rig.is_connected(name) for name in rig.site_data))


def records(run: Path) -> list[dict[str, Any]]:
    """The finished rounds of a run."""
    try:
        return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return []


def sites_of(run: Path) -> list[int]:
    """How many sites each round had."""
    return [len(record["sites"]) for record in records(run)]


def reasons(run: Path) -> list[str]:
    """Why the unlucky site was set aside, round by round."""
    return [item["reason"] for r in records(run) for item in r["set_aside"] if item["site"] == LAST]


def wait_for_round(rig: Rig, run: Path, number: int) -> None:
    """Wait until a round's requests are out."""

    def begun() -> bool:
        path = run / "progress.json"
        return path.exists() and json.loads(path.read_text())["round"] >= number

    rig.wait(f"round {number}", begun, pause_s=0.05)


def test_a_site_that_hangs_for_two_rounds_and_comes_back(rig: Rig) -> None:
    run = rig.begin_run(federation_file(rounds=5, minimum_sites=2, round_deadline_s=20, again_s=5))
    wait_for_round(rig, run, 1)
    hung = [rig.process_of(LAST, part) for part in ("client.supernode", "client.worker")]
    for process in hung:
        process.suspend()
    try:
        rig.wait("two rounds", lambda: len(records(run)) >= 2 or (run / "outcome.json").exists())
    finally:
        for process in hung:
            process.resume()
    assert rig.outcome(run) is None, rig.logs()
    assert sites_of(run)[0] == 2
    assert sites_of(run)[-1] == 3
    first, *later = reasons(run)
    assert first == "it did not answer within 20 s"
    # SuperLink has no heartbeat of it meanwhile: after a minute of that, on a slow machine, it says what it knows.
    assert set(later) <= {first, "the site went offline"}


@pytest.mark.parametrize("minimum", [2, 3])
def test_a_site_that_leaves_for_good(rig: Rig, simulated: Simulated, minimum: int) -> None:
    """With enough others the run completes; else it stops, and goes on exactly when the site is back."""
    run = rig.begin_run(federation_file(minimum_sites=minimum, round_deadline_s=20, again_s=5))
    wait_for_round(rig, run, 2)
    rig.leave(LAST)
    reason = rig.outcome(run)
    if minimum == 2:
        assert reason is None, rig.logs()
        assert sites_of(run)[-1] == 2
    else:
        assert reason is not None
        assert re.match(r"round \d got 2 good replies of at least 3 \(site-3: .+\); the state after", reason), reason
    rig.join(LAST)
    if minimum == 3:
        rig.do("server", "run", "--resume", run.name, "--folder", rig.coordinator)
        assert rig.outcome(run) is None, rig.logs()
        assert same_weights(run, simulated.folder)


@pytest.fixture(scope="module")
def link(rig: Rig) -> Iterator[Link]:
    """The unlucky site's way to the gate."""
    with Link(Address(LOOPBACK, rig.port)) as made:
        rig.leave(LAST)
        rig.set_way(LAST, f"{LOOPBACK}:{made.port}")
        rig.join(LAST)
        yield made
        rig.leave(LAST)
        rig.set_way(LAST, f"{LOOPBACK}:{rig.port}")
        rig.join(LAST)


def slow_down(link: Link, rig: Rig) -> None:
    link.delay_s = 0.25


def stall(link: Link, rig: Rig) -> None:
    link.stalled = True
    time.sleep(20)
    link.stalled = False


def cut_again_and_again(link: Link, rig: Rig) -> None:
    for _ in range(20):
        link.cut()
        time.sleep(0.5)


def lose_the_receipt(link: Link, rig: Rig) -> None:
    """The reply arrives, the answer to it does not, and the connection breaks."""
    log = rig.folder / LAST / "work" / "supernode.log"
    before = log.read_text().count("Sending: train")
    rig.wait("the reply", lambda: log.read_text().count("Sending: train") > before, pause_s=0.001)
    link.swallowing = True
    time.sleep(1)
    link.cut()
    link.swallowing = False


@pytest.mark.parametrize(
    "fault", [slow_down, stall, cut_again_and_again, lose_the_receipt], ids=lambda fault: fault.__name__
)
def test_a_bad_link_costs_time_and_nothing_else(
    rig: Rig, simulated: Simulated, link: Link, fault: Callable[[Link, Rig], None]
) -> None:
    run = rig.begin_run(federation_file(again_s=120))
    wait_for_round(rig, run, 2)
    try:
        fault(link, rig)
        assert rig.outcome(run) is None, rig.logs()
    finally:
        link.delay_s = 0
    assert sites_of(run) == [LARGER["sites"]] * LARGER["rounds"]
    assert same_weights(run, simulated.folder)


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Callable[[], None]]:
    """A disk of its own for a folder, with what was in it; the value fills it up."""
    ballast = place / "ballast"

    def fill() -> None:
        with ballast.open("wb") as file:
            while True:
                try:
                    file.write(bytes(2**16))
                    file.flush()
                except OSError:
                    return

    kept = place.with_name(f"{place.name}-before")
    place.rename(kept)
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)], check=False)
    try:
        if mounted.returncode:
            pytest.skip("needs root, to mount a small disk")
        shutil.copytree(kept, place, dirs_exist_ok=True)
        yield fill
    finally:
        shutil.copytree(place, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("ballast"))
        if not mounted.returncode:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()
        kept.rename(place)


def test_a_full_disk_at_a_site_is_told_and_mended(rig: Rig) -> None:
    work = rig.folder / LAST / "work"
    rig.leave(LAST)
    with small_disk(work, 64) as fill:
        rig.join(LAST)
        run = rig.begin_run(federation_file(rounds=6, minimum_sites=2, again_s=4))
        wait_for_round(rig, run, 2)
        fill()
        rig.wait("a round without it", lambda: 2 in sites_of(run))
        (work / "ballast").unlink()
        assert rig.outcome(run) is None, rig.logs()
        assert "its disk is full" in reasons(run)
        assert sites_of(run)[-1] == 3
        rig.leave(LAST)
    rig.join(LAST)


def test_a_full_disk_at_the_coordinator_stops_the_run_and_loses_nothing(rig: Rig, simulated: Simulated) -> None:
    with small_disk(rig.coordinator / "runs", 32) as fill:
        run = rig.begin_run(federation_file())
        rig.wait("a round", lambda: len(records(run)) >= 1)
        fill()
        rig.wait("the end of the program", lambda: not rig.processes_of("coordinator", "flwr-serverapp"))
        shown = rig.do("server", "status", rig.coordinator)
        (rig.coordinator / "runs" / "ballast").unlink()
        assert rig.outcome(run) is None, rig.logs()
        assert "disk is full" in shown, shown
        assert same_weights(run, simulated.folder)


def test_an_expired_certificate_keeps_sites_out_until_it_is_renewed(rig: Rig) -> None:
    coordinator = open_coordinator(rig.coordinator)
    rig.end("coordinator")
    expire(coordinator.pair("gate")[0], coordinator.pair("authority")[1])
    rig.start_coordinator()
    checked = rig.attempt("site", "check", rig.folder / LAST)
    assert checked.returncode == 1
    assert re.search(r"TLS +FAIL +certificate has expired +the coordinator renews it", checked.stdout), checked.stdout
    rig.end("coordinator")
    listen = ("--listen", f"{LOOPBACK}:{rig.port}")
    rig.do("server", "init", rig.coordinator, "--host", LOOPBACK, "--port", rig.port, *listen)
    rig.start_coordinator()


def expire(certificate: Path, authority_key: Path) -> None:
    """Issue it again, for last year."""
    old = x509.load_pem_x509_certificate(certificate.read_bytes())
    signer = serialization.load_pem_private_key(authority_key.read_bytes(), None)
    begin = datetime.now(UTC) - timedelta(days=400)
    builder = x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), old.serial_number)
    builder = builder.not_valid_before(begin).not_valid_after(begin + timedelta(days=365))
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    new = builder.sign(signer, hashes.SHA384())  # type: ignore[arg-type]
    certificate.write_bytes(new.public_bytes(serialization.Encoding.PEM))


@pytest.mark.parametrize("shift", ["+10m", "-10m"])
def test_a_clock_ten_minutes_off_keeps_a_site_out_and_is_told(rig: Rig, shift: str) -> None:
    variables = fake_clock(shift)
    rig.leave(LAST)
    rig.start_site(LAST, **variables)
    run = rig.begin_run(federation_file(rounds=2, minimum_sites=2))
    assert rig.outcome(run) is None, rig.logs()
    assert sites_of(run) == [2, 2]
    checked = rig.attempt("site", "check", rig.folder / LAST, **variables)
    assert checked.returncode == 1
    assert re.search(r"clock +FAIL +(600|599|601) s (ahead of|behind)", checked.stdout), checked.stdout
    rig.end(LAST)
    rig.join(LAST)


def fake_clock(shift: str) -> dict[str, str]:
    """Environment variables under which a process sees another time."""
    (library,) = Path(libfaketime.__file__).parent.rglob("libfaketime.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": shift,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
