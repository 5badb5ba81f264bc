"""Flower's simulation engine on Ray. One start serves every check: it takes 10 seconds and more."""

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
def test_flowers_engine_gives_the_same_bits_and_survives_its_sites(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    descendants: Callable[[], list[str]],
) -> None:
    settings = EngineSettings(2, tmp_path / "engine.log")
    weights: list[np.ndarray] = []

    def main(grid: Grid) -> None:
        weights.append(federate(grid, rounds=4))
        nodes = site_nodes(grid)
        check_the_sites(grid, nodes)
        check_an_exception(grid, nodes)
        check_a_death(grid, nodes)
        check_that_strangers_are_refused()
        grid.push_messages([order(node, VALUES, "wait", (0, 1, 2), str(tmp_path / "end")) for node in nodes.values()])
        assert wait_until(lambda: sum(at_work(tmp_path / "end", site).exists() for site in range(SITES)) == 2)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)  # the sites' processes find their modules from anywhere
    environment = dict(os.environ)
    with pytest.raises(KeyboardInterrupt):
        run_federation("ray", make_server_app(lambda grid, context: main(grid)), toy_source(), SITES, settings)
    assert descendants() == []
    assert capfd.readouterr() == ("", "")
    added = set(os.environ) - set(environment)
    assert added <= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV"}  # set where Flower's backend is imported, and harmless
    gc.collect()

    local = make_server_app(lambda grid, context: weights.append(federate(grid, rounds=4)))
    run_local(local, toy_source(), SITES, EngineSettings(1, settings.log))
    assert weights[0].tobytes() == weights[1].tobytes()


def check_the_sites(grid: Grid, nodes: dict[int, int]) -> None:
    assert sorted(nodes) == [0, 1, 2]
    replies = list(grid.send_and_receive([question(node) for node in nodes.values()]))
    assert {reply.content["about"]["num-partitions"] for reply in replies} == {SITES}
    assert {reply.content["about"]["cwd"] for reply in replies} == {str(Path.cwd())}


def check_an_exception(grid: Grid, nodes: dict[int, int]) -> None:
    (reply,) = grid.send_and_receive([order(nodes[1], VALUES, "raise", sites=(1,))])
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "the toy broke" in (reply.error.reason or "")


def check_a_death(grid: Grid, nodes: dict[int, int]) -> None:
    replies = grid.send_and_receive([order(node, VALUES, "exit", sites=(2,)) for node in nodes.values()])
    assert [reply.metadata.src_node_id for reply in replies if reply.has_error()] == [nodes[2]]
    again = grid.send_and_receive([question(node) for node in nodes.values()])
    memories = {reply.metadata.src_node_id: reply.content["last"]["command"] for reply in again}
    assert memories == {nodes[0]: "exit", nodes[1]: "exit", nodes[2]: ""}


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
