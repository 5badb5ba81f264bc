"""What an engine is told, and how a process makes the ClientApp."""

from pathlib import Path

import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from segformer3d.errors import ConfigurationError
from simulations.engines import ClientSource, EngineSettings, run_federation

from .toy_federation import toy_source


@pytest.mark.parametrize("parallel", [0, -1, 1.5, True, "2"])
def test_parallel_is_a_whole_number_of_sites(parallel: object) -> None:
    with pytest.raises(ConfigurationError, match=f"parallel must be a whole number of at least 1, got {parallel!r}"):
        EngineSettings(parallel, Path("engine.log"))  # type: ignore[arg-type]


def test_no_more_workers_than_sites() -> None:
    assert [EngineSettings(3, Path("engine.log")).workers(sites) for sites in (1, 3, 9)] == [1, 3, 3]


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="engine must be one of local, ray, got 'gpu'"):
        run_federation("gpu", ServerApp(), toy_source(), 2, EngineSettings(1, Path("engine.log")))


def test_a_source_makes_the_app() -> None:
    assert isinstance(toy_source(pull=0.5).make(), ClientApp)


@pytest.mark.parametrize("factory", ["client.app", ":make", "client.app:", "client.app:make()"])
def test_a_factory_is_named_by_module_and_function(factory: str) -> None:
    with pytest.raises(ValueError, match="factory must have the form"):
        ClientSource(factory)


def test_arguments_are_one_json_object() -> None:
    with pytest.raises(ValueError, match="arguments must be a JSON object"):
        ClientSource("client.app:make", "[1]")
    with pytest.raises(TypeError, match="not JSON serializable"):
        ClientSource.of("client.app:make", folder=Path())


def test_a_factory_that_makes_something_else_is_told_so() -> None:
    with pytest.raises(TypeError, match="json:loads must return a ClientApp, got list"):
        ClientSource.of("json:loads", s="[]").make()
