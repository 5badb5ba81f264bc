"""Flower's simulation engine on Ray. One start serves every check: it takes 10 seconds, and each of its processes 3."""

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from segformer3d.errors import ConfigurationError, FederationError
from simulations.engines import EngineSettings, run_federation, run_local, run_ray

from .conftest import wait_until
from .toy_federation import at_work, federate, make_server_app, order, question, site_nodes, toy_source

SITES = 3
VALUES = np.zeros(1000, np.float32)


# Ray leaves its pipes to /dev/null, and processes that it has killed, to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("sites", "at_once"), [(2, 1), pytest.param(3, 2, marks=pytest.mark.slow)], ids=["in one process", "in two"]
)
def test_flowers_engine_gives_the_same_bits_and_survives_its_sites(
    sites: int,
    at_once: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    descendants: Callable[[], list[str]],
) -> None:
    settings = EngineSettings(at_once, tmp_path / "engine.log")
    weights: list[np.ndarray] = []

    def main(grid: Grid) -> None:
        weights.append(federate(grid, rounds=4))
        nodes = site_nodes(grid)
        assert sorted(nodes) == list(range(sites))
        check_the_sites(grid, nodes)
        check_an_exception(grid, nodes)
        check_a_death(grid, nodes)
        check_that_strangers_are_refused()
        grid.push_messages(
            [order(node, VALUES, "wait", range(sites), str(tmp_path / "end")) for node in nodes.values()]
        )
        assert wait_until(lambda: sum(at_work(tmp_path / "end", site).exists() for site in range(sites)) == at_once)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)  # the sites' processes find their modules from anywhere
    environment = dict(os.environ)
    with pytest.raises(KeyboardInterrupt):
        run_federation("ray", make_server_app(lambda grid, context: main(grid)), toy_source(), sites, settings)
    assert descendants() == []
    assert capfd.readouterr() == ("", "")
    added = set(os.environ) - set(environment)
    assert added <= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV"}  # set where Flower's backend is imported, and harmless
    gc.collect()

    local = make_server_app(lambda grid, context: weights.append(federate(grid, rounds=4)))
    run_local(local, toy_source(), sites, EngineSettings(1, settings.log))
    assert weights[0].tobytes() == weights[1].tobytes()


def check_the_sites(grid: Grid, nodes: dict[int, int]) -> None:
    replies = list(grid.send_and_receive([question(node) for node in nodes.values()]))
    assert {reply.content["about"]["num-partitions"] for reply in replies} == {len(nodes)}
    assert {reply.content["about"]["cwd"] for reply in replies} == {str(Path.cwd())}


def check_an_exception(grid: Grid, nodes: dict[int, int]) -> None:
    (reply,) = grid.send_and_receive([order(nodes[1], VALUES, "raise", sites=(1,))])
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "the toy broke" in (reply.error.reason or "")


def check_a_death(grid: Grid, nodes: dict[int, int]) -> None:
    last = max(nodes)
    replies = grid.send_and_receive([order(node, VALUES, "exit", sites=(last,)) for node in nodes.values()])
    assert [reply.metadata.src_node_id for reply in replies if reply.has_error()] == [nodes[last]]
    again = grid.send_and_receive([question(node) for node in nodes.values()])
    memories = {reply.metadata.src_node_id: reply.content["last"]["command"] for reply in again}
    assert memories == {node: "exit" if site != last else "" for site, node in nodes.items()}


def check_that_strangers_are_refused() -> None:
    address = ray.get_runtime_context().gcs_address
    stranger = f"from ray._raylet import GcsClient; GcsClient(address={address!r}); print('let in')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", stranger]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        answer = process.stdout.readline()
        process.kill()  # it would try again for 20 seconds
    assert "InvalidAuthToken" in answer


def test_a_mistake_in_the_sites_settings_is_raised_before_ray_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^site 2 has no folder$"):
        run_ray(
            make_server_app(lambda grid, context: None),
            toy_source(complaint="site 2 has no folder"),
            SITES,
            EngineSettings(2, tmp_path / "engine.log"),
        )


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_ray_that_does_not_start_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 100)  # too long a name for Ray's sockets
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(FederationError, match=r"^Ray does not start \(.*\); the local engine does without it$"):
        run_ray(
            make_server_app(lambda grid, context: None), toy_source(), SITES, EngineSettings(2, tmp_path / "engine.log")
        )
    assert list(folder.iterdir()) == []
    gc.collect()
