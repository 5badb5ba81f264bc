"""The local engine: the same bits however many sites work at once, and no site can break the run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from segformer3d.errors import ConfigurationError, FederationError
from segformer3d.files import StorageError
from simulations.engines import ClientSource, EngineSettings, run_local

from .conftest import wait_until
from .toy_federation import at_work, federate, make_server_app, order, question, site_nodes, toy_source

SITES = 3
VALUES = np.zeros(1000, np.float32)  # as many as those of `federate`


@pytest.fixture
def one(tmp_path: Path) -> EngineSettings:
    return EngineSettings(1, tmp_path / "logs" / "engine.log")


@pytest.fixture
def two(tmp_path: Path) -> EngineSettings:
    return EngineSettings(2, tmp_path / "logs" / "engine.log")


def run(
    settings: EngineSettings, main: Callable[[Grid], None], sites: int = SITES, source: ClientSource | None = None
) -> None:
    run_local(make_server_app(lambda grid, context: main(grid)), source or toy_source(), sites, settings)


def test_in_this_process_sites_know_themselves_and_an_exception_is_a_reply(
    one: EngineSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    def main(grid: Grid) -> None:
        check_the_sites(grid)
        check_an_exception(grid)

    run(one, main)
    assert "Traceback" in one.log.read_text()
    assert capfd.readouterr() == ("", "")


def test_two_processes_give_the_same_bits_and_survive_their_sites(
    one: EngineSettings,
    two: EngineSettings,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    descendants: Callable[[], list[str]],
) -> None:
    """One start serves every check. Oracle of the bits: sums in a fixed order, and memory in the contexts alone."""
    weights: list[np.ndarray] = []

    def main(grid: Grid) -> None:
        weights.append(federate(grid, rounds=4))
        check_the_sites(grid)
        check_an_exception(grid)
        check_a_slow_site(grid, tmp_path / "slow")
        check_deaths(grid)
        assert wait_until(lambda: len(descendants()) == 2), "nothing that a dead site has started lives on"
        wait = [order(node, VALUES, "wait", (0, 1, 2), str(tmp_path / "end")) for node in grid.get_node_ids()]
        grid.push_messages(wait)
        assert wait_until(lambda: sum(at_work(tmp_path / "end", site).exists() for site in range(SITES)) == 2)
        assert len(descendants()) == 2
        raise FederationError("enough")

    with pytest.raises(FederationError, match=r"^enough$"):
        run(two, main, source=toy_source(output="warning of a library\n"))
    assert descendants() == []
    assert capfd.readouterr() == ("", "")
    assert "Traceback" in two.log.read_text()
    assert "warning of a library" in two.log.read_text()
    run(one, lambda grid: weights.append(federate(grid, rounds=4)))
    assert weights[0].tobytes() == weights[1].tobytes()
    assert np.abs(weights[0]).max() > 0


def check_the_sites(grid: Grid) -> None:
    """They know their number, and messages are numbered."""
    nodes = list(grid.get_node_ids())
    replies = grid.send_and_receive([question(node) for node in nodes])
    assert sorted(reply.content["about"]["partition-id"] for reply in replies) == [0, 1, 2]
    assert {reply.content["about"]["num-partitions"] for reply in replies} == {SITES}
    assert {reply.metadata.src_node_id for reply in replies} == set(nodes)
    assert {reply.metadata.run_id for reply in replies} == {grid.run.run_id}
    assert len({reply.metadata.message_id for reply in replies} - {""}) == SITES


def check_an_exception(grid: Grid) -> None:
    """At a site it is its reply, and leaves its memory as it was."""
    nodes = site_nodes(grid)
    grid.send_and_receive([order(nodes[1], VALUES, "work")])
    (reply,) = grid.send_and_receive([order(nodes[1], VALUES, "raise", sites=(1,))])
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert reply.error.reason == "<class 'RuntimeError'>:<'the toy broke'>"
    assert reply.metadata.src_node_id == nodes[1]
    (memory,) = grid.send_and_receive([question(nodes[1])])
    assert memory.content["last"]["command"] == "work"


def check_deaths(grid: Grid) -> None:
    """They cost the site's message alone, and are noticed even if what the site started lives on (the orphan)."""
    nodes = site_nodes(grid)
    grid.send_and_receive([order(node, VALUES, "work") for node in nodes.values()])
    for death, described in (("exit", "exit status 3"), ("crash", "SIGSEGV"), ("orphan", "SIGKILL, often too little")):
        replies = grid.send_and_receive([order(node, VALUES, death, sites=(2,)) for node in nodes.values()])
        (error,) = [reply for reply in replies if reply.has_error()]
        assert error.metadata.src_node_id == nodes[2]
        assert error.error.code == ErrorCode.CLIENT_APP_CRASHED
        assert described in (error.error.reason or "")
        again = grid.send_and_receive([question(node) for node in nodes.values()])
        memories = {reply.metadata.src_node_id: reply.content["last"]["command"] for reply in again}
        assert memories == {nodes[0]: death, nodes[1]: death, nodes[2]: "work"}


def check_a_slow_site(grid: Grid, end: Path) -> None:
    """It misses the deadline and holds up nobody."""
    nodes = site_nodes(grid)
    (slow,) = grid.push_messages([order(nodes[0], VALUES, "wait", sites=(0,), argument=str(end))])
    (next_,) = grid.push_messages([order(nodes[0], VALUES, "next")])
    replies = grid.send_and_receive([order(nodes[site], VALUES) for site in (1, 2, 1, 2)])
    assert sorted(int(reply.content["metrics"]["site"]) for reply in replies) == [1, 1, 2, 2]
    assert not grid.send_and_receive([order(nodes[0], VALUES, "last")], timeout=0.2)
    end.touch()
    assert [pull(grid, message_id).content["metrics"]["site"] for message_id in (slow, next_)] == [0, 0]
    assert not grid.pull_messages([slow])  # it has been given out
    (memory,) = grid.send_and_receive([question(nodes[0])])
    assert memory.content["last"]["command"] == "last"  # one after another, as they were sent


def pull(grid: Grid, message_id: str) -> Message:
    """A reply, however long it takes."""
    while not (replies := list(grid.pull_messages([message_id]))):
        pass
    return replies[0]


def test_one_at_a_time_the_server_can_close_a_round_between_two_sites(one: EngineSettings) -> None:
    def main(grid: Grid) -> None:
        nodes = site_nodes(grid)
        orders = [order(node, VALUES, "sleep", sites=(0, 1, 2), argument="0.3") for node in nodes.values()]
        assert len(list(grid.send_and_receive(orders, timeout=0.1))) == 1
        assert len(list(grid.send_and_receive([order(node, VALUES) for node in nodes.values()]))) == SITES

    run(one, main)


def ask_one_site(grid: Grid) -> None:
    """So that one process starts."""
    grid.send_and_receive([question(grid.get_node_ids()[0])])


@pytest.mark.parametrize("parallel", [1, 2], ids=["in this process", "in two processes"])
def test_a_mistake_in_the_sites_settings_is_one_clear_line(tmp_path: Path, parallel: int) -> None:
    settings = EngineSettings(parallel, tmp_path / "engine.log")
    with pytest.raises(ValueError, match=r"^site 2 has no folder$"):
        run(settings, ask_one_site, source=toy_source(complaint="site 2 has no folder"))


def test_a_client_app_that_cannot_be_imported_ends_the_run(two: EngineSettings) -> None:
    with pytest.raises(FederationError, match=r"ended while it started \(exit status 1\); see .*engine.log"):
        run(two, ask_one_site, source=ClientSource("no_such_module:make"))
    assert "ModuleNotFoundError" in two.log.read_text()


@pytest.mark.parametrize("parallel", [1, 2], ids=["in this process", "in two processes"])
def test_a_message_for_an_unknown_node_is_refused(tmp_path: Path, parallel: int) -> None:
    with pytest.raises(ValueError, match="no site has the node id 7"):
        run(
            EngineSettings(parallel, tmp_path / "engine.log"),
            lambda grid: list(grid.push_messages([order(7, VALUES)])),
        )


def test_a_log_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"^cannot write .*engine.log: "):
        run(EngineSettings(1, tmp_path / "file" / "engine.log"), ask_one_site)


def test_a_federation_needs_a_site(two: EngineSettings) -> None:
    with pytest.raises(ConfigurationError, match="at least 1 site, got 0"):
        run(two, ask_one_site, sites=0)
