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
VALUES = np.arange(4, dtype=np.float32)


@pytest.fixture(params=[1, 2], ids=["in this process", "in two processes"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> EngineSettings:
    return EngineSettings(request.param, tmp_path / "logs" / "engine.log")


@pytest.fixture
def two(tmp_path: Path) -> EngineSettings:
    return EngineSettings(2, tmp_path / "engine.log")


def run(
    settings: EngineSettings, main: Callable[[Grid], None], sites: int = SITES, source: ClientSource | None = None
) -> None:
    run_local(make_server_app(lambda grid, context: main(grid)), source or toy_source(), sites, settings)


def federated(settings: EngineSettings) -> np.ndarray:
    results: list[np.ndarray] = []
    run(settings, lambda grid: results.append(federate(grid, rounds=4)))
    return results[0]


def test_the_weights_do_not_depend_on_how_many_sites_work_at_once(tmp_path: Path) -> None:
    # Oracle: determinism; the toy's order of sums is fixed and its memory lives in the contexts alone.
    results = [federated(EngineSettings(parallel, tmp_path / "engine.log")) for parallel in (1, 2)]
    assert results[0].tobytes() == results[1].tobytes()
    assert np.abs(results[0]).max() > 0


def test_sites_know_their_number_and_messages_are_numbered(settings: EngineSettings) -> None:
    def main(grid: Grid) -> None:
        nodes = list(grid.get_node_ids())
        replies = grid.send_and_receive([question(node) for node in nodes])
        assert sorted(reply.content["about"]["partition-id"] for reply in replies) == [0, 1, 2]
        assert {reply.content["about"]["num-partitions"] for reply in replies} == {SITES}
        assert {reply.metadata.src_node_id for reply in replies} == set(nodes)
        assert {reply.metadata.run_id for reply in replies} == {grid.run.run_id}
        assert len({reply.metadata.message_id for reply in replies} - {""}) == SITES

    run(settings, main)


def test_an_exception_at_a_site_is_its_reply_and_leaves_its_memory_as_it_was(settings: EngineSettings) -> None:
    def main(grid: Grid) -> None:
        nodes = site_nodes(grid)
        grid.send_and_receive([order(nodes[1], VALUES, "work")])
        (reply,) = grid.send_and_receive([order(nodes[1], VALUES, "raise", sites=(1,))])
        assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        assert reply.error.reason == "<class 'RuntimeError'>:<'the toy broke'>"
        assert reply.metadata.src_node_id == nodes[1]
        (memory,) = grid.send_and_receive([question(nodes[1])])
        assert memory.content["last"]["command"] == "work"

    run(settings, main)
    assert "Traceback" in settings.log.read_text()


def test_a_site_whose_process_dies_costs_its_message_alone(two: EngineSettings) -> None:
    def main(grid: Grid) -> None:
        nodes = site_nodes(grid)
        grid.send_and_receive([order(node, VALUES, "work") for node in nodes.values()])
        for death, described in (("exit", "exit status 3"), ("crash", "SIGSEGV"), ("oom", "SIGKILL, often too little")):
            replies = grid.send_and_receive([order(node, VALUES, death, sites=(2,)) for node in nodes.values()])
            (error,) = [reply for reply in replies if reply.has_error()]
            assert error.metadata.src_node_id == nodes[2]
            assert error.error.code == ErrorCode.CLIENT_APP_CRASHED
            assert described in (error.error.reason or "")
            again = grid.send_and_receive([question(node) for node in nodes.values()])
            memories = {reply.metadata.src_node_id: reply.content["last"]["command"] for reply in again}
            assert memories == {nodes[0]: death, nodes[1]: death, nodes[2]: "work"}

    run(two, main)


def test_a_death_is_noticed_even_if_what_the_site_started_lives_on(
    two: EngineSettings, descendants: Callable[[], list[str]]
) -> None:
    def main(grid: Grid) -> None:
        node = site_nodes(grid)[2]
        (reply,) = grid.send_and_receive([order(node, VALUES, "orphan", sites=(2,))])
        assert reply.error.code == ErrorCode.CLIENT_APP_CRASHED
        assert wait_until(lambda: len(descendants()) <= 2)

    run(two, main)
    assert descendants() == []


def test_a_slow_site_misses_the_deadline_and_holds_up_nobody(two: EngineSettings, tmp_path: Path) -> None:
    end = tmp_path / "end"

    def main(grid: Grid) -> None:
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

    run(two, main)


def pull(grid: Grid, message_id: str) -> Message:
    """A reply, however long it takes."""
    while not (replies := list(grid.pull_messages([message_id]))):
        pass
    return replies[0]


def test_one_at_a_time_the_server_can_close_a_round_between_two_sites(tmp_path: Path) -> None:
    def main(grid: Grid) -> None:
        nodes = site_nodes(grid)
        orders = [order(node, VALUES, "sleep", sites=(0, 1, 2), argument="0.3") for node in nodes.values()]
        assert len(list(grid.send_and_receive(orders, timeout=0.1))) == 1
        assert len(list(grid.send_and_receive([order(node, VALUES) for node in nodes.values()]))) == SITES

    run(EngineSettings(1, tmp_path / "engine.log"), main)


def test_what_the_server_raises_reaches_the_caller_and_ends_the_sites(
    two: EngineSettings, tmp_path: Path, descendants: Callable[[], list[str]]
) -> None:
    end = tmp_path / "end"

    def main(grid: Grid) -> None:
        grid.push_messages([order(node, VALUES, "wait", (0, 1, 2), str(end)) for node in grid.get_node_ids()])
        assert wait_until(lambda: sum(at_work(end, site).exists() for site in range(SITES)) == 2)
        assert len(descendants()) == 2
        raise FederationError("enough")

    with pytest.raises(FederationError, match=r"^enough$"):
        run(two, main)
    assert descendants() == []


def test_a_mistake_in_the_sites_settings_is_one_clear_line(settings: EngineSettings) -> None:
    with pytest.raises(ValueError, match=r"^site 2 has no folder$"):
        run(settings, federate_once, source=toy_source(complaint="site 2 has no folder"))


def test_a_client_app_that_cannot_be_imported_ends_the_run(two: EngineSettings) -> None:
    with pytest.raises(FederationError, match=r"ended while it started \(exit status 1\); see .*engine.log"):
        run(two, federate_once, source=ClientSource("no_such_module:make"))
    assert "ModuleNotFoundError" in two.log.read_text()


def federate_once(grid: Grid) -> None:
    federate(grid, rounds=1)


def test_nothing_is_printed(settings: EngineSettings, capfd: pytest.CaptureFixture[str]) -> None:
    def main(grid: Grid) -> None:
        nodes = site_nodes(grid)
        grid.send_and_receive([order(node, VALUES, "raise", sites=(1,)) for node in nodes.values()])

    in_processes = settings.parallel > 1
    run(settings, main, source=toy_source(output="warning of a library\n" if in_processes else ""))
    assert capfd.readouterr() == ("", "")
    assert ("warning of a library" in settings.log.read_text()) == in_processes


def test_a_message_for_an_unknown_node_is_refused(settings: EngineSettings) -> None:
    with pytest.raises(ValueError, match="no site has the node id 7"):
        run(settings, lambda grid: list(grid.push_messages([order(7, VALUES)])))


def test_a_log_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"^cannot write .*engine.log: "):
        run(EngineSettings(1, tmp_path / "file" / "engine.log"), federate_once)


def test_a_federation_needs_a_site(two: EngineSettings) -> None:
    with pytest.raises(ConfigurationError, match="at least 1 site, got 0"):
        run(two, federate_once, sites=0)
