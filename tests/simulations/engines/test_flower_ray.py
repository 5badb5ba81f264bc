"""Flower's simulation engine on Ray. One start serves every check: it takes 10 seconds and more."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from segformer3d.errors import ConfigurationError
from simulations.engines import EngineSettings, run_federation, run_local, run_ray

from .conftest import wait_until
from .toy_federation import at_work, federate, make_server_app, order, question, site_nodes, toy_source

SITES = 3
VALUES = np.arange(4, dtype=np.float32)


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
        grid.push_messages([order(node, VALUES, "wait", (0, 1, 2), str(tmp_path / "end")) for node in nodes.values()])
        assert wait_until(lambda: sum(at_work(tmp_path / "end", site).exists() for site in range(SITES)) == 2)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)  # the sites' processes find their modules from anywhere
    environment = dict(os.environ)
    with pytest.raises(KeyboardInterrupt):
        run_federation("ray", make_server_app(lambda grid, context: main(grid)), toy_source(), SITES, settings)
    assert descendants() == []
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == environment

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


def test_a_mistake_in_the_sites_settings_is_raised_before_ray_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^site 2 has no folder$"):
        run_ray(
            make_server_app(lambda grid, context: None),
            toy_source(complaint="site 2 has no folder"),
            SITES,
            EngineSettings(2, tmp_path / "engine.log"),
        )
