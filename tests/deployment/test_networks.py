"""A site on another host, in a network namespace: a slow link, a hospital's proxy; and nobody phones home."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from segformer3d.addresses import LOOPBACK, Address

from ..commands import command, federation
from .federation import ROUNDS, SITES, Simulated, federation_file
from .kill_matrix import same_weights
from .links import HERE, Link, inside_of, namespace
from .rig import ROOT, Rig, environment

REMOTE, HOST = f"site-{SITES}", "coordinator.example"


@pytest.fixture(scope="module")
def wide(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A coordinator that other hosts reach, with all sites but one beside it."""
    with Rig(tmp_path_factory.mktemp("wide"), simulated.sites, simulated.threads, (LOOPBACK, HERE, HOST)) as made:
        made.start_coordinator()
        made.join(*(name for name in made.site_data if name != REMOTE))
        yield made


def play(rig: Rig, host: str, simulated: Simulated) -> list[dict[str, object]]:
    """A run with the last site inside a namespace; its rounds."""
    rig.start_site(REMOTE, prefix=inside_of(host))
    try:
        rig.wait("the site", lambda: rig.is_connected(REMOTE))
        run = rig.begin_run(federation_file())
        assert rig.outcome(run) is None, rig.logs()
        assert same_weights(run, simulated.folder)
        return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    finally:
        rig.leave(REMOTE)


@pytest.mark.slow
def test_a_site_behind_two_megabits_a_second(wide: Rig, simulated: Simulated) -> None:
    wide.set_way(REMOTE, f"{HERE}:{wide.port}")
    with namespace("segfed-slow", "2mbit"):
        slow = play(wide, "segfed-slow", simulated)
    assert [len(record["sites"]) for record in slow] == [SITES] * ROUNDS


@pytest.mark.slow
def test_a_site_behind_a_proxy_that_knows_the_coordinators_name(wide: Rig, simulated: Simulated) -> None:
    """The site resolves no names and reaches nothing but the proxy."""
    coordinator = Address(HOST, wide.port)
    with (
        namespace("segfed-proxied"),
        Link(None, {coordinator: Address(LOOPBACK, wide.port)}, host=HERE) as proxy,
    ):
        wide.set_way(REMOTE, str(coordinator), f"http://{HERE}:{proxy.port}")
        inside = inside_of("segfed-proxied")
        checked = wide.attempt("site", "check", wide.folder / REMOTE, prefix=inside)
        assert checked.returncode == 0, checked.stdout
        assert f"{coordinator} through http://{HERE}:{proxy.port}" in checked.stdout
        play(wide, "segfed-proxied", simulated)
        assert set(proxy.visited) == {coordinator}


ALONE = """
ip link set lo up || exit 77
echo BEFORE; cat /proc/net/snmp /proc/net/snmp6
"$@" || exit 1
echo AFTER; cat /proc/net/snmp /proc/net/snmp6
python3 -c 'import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b"?", ("192.0.2.1", 53))' 2> /dev/null
echo TRIED; cat /proc/net/snmp /proc/net/snmp6
"""
DEPLOYED = "tests/deployment/test_federation.py::test_the_final_weights_are_those_of_the_simulation"


def test_a_training_phones_nobody(dataset: Path, config: Path, tmp_path: Path) -> None:
    play_alone(*command("train", "--data", dataset, "--config", config, "--epochs", 1, "--out", tmp_path / "model"))
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_simulation_phones_nobody(dataset: Path, config: Path, tmp_path: Path) -> None:
    said = play_alone(*command(*federation(dataset, config, tmp_path / "run"), "--rounds", 1))
    assert "run folder" in said


@pytest.mark.slow
def test_a_deployed_federation_phones_nobody() -> None:
    assert " passed" in play_alone(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", DEPLOYED)


def play_alone(*words: str) -> str:
    """A command in a namespace without any route but loopback. The kernel counts whoever tries to leave it."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", ALONE, "sh", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment(),
    )
    if "Operation not permitted" in done.stderr or done.returncode == 77:
        pytest.skip("needs root and network namespaces")
    assert done.returncode == 0, done.stdout + done.stderr
    before, after, tried = (attempts(done.stdout.split(f"{name}\n")[1]) for name in ("BEFORE", "AFTER", "TRIED"))
    assert after == before
    assert tried == after + 1, "the counter counts"
    return done.stdout


def attempts(tables: str) -> int:
    """Packets that had nowhere to go, in the kernel's tables of a namespace."""
    names, values = re.findall(r"^Ip: (.+)$", tables, re.M)[:2]
    ipv4 = dict(zip(names.split(), map(int, values.split()), strict=True))
    (ipv6,) = re.findall(r"^Ip6OutNoRoutes\s+(\d+)$", tables, re.M)[:1]
    return ipv4["OutNoRoutes"] + int(ipv6)
