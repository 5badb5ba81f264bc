"""How runs share the cores: by hand, and no other sharing would be done earlier."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations import sharing
from simulations.settings import SimulationSettings
from simulations.sharing import Sharing, share_cores


def settings(**changes: object) -> SimulationSettings:
    return SimulationSettings(data=Path("data"), device="cpu", **changes)  # type: ignore[arg-type]


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "cores", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(
    ("sites", "parallel", "runs", "told"),
    [
        (4, None, 48, Sharing(16, 1, 1)),  # no site ever waits for another
        (4, None, 40, Sharing(8, 2, 1)),  # ten turns; 16 runs at once would leave 8 cores idle at the end
        (4, None, 2, Sharing(2, 4, 2)),
        (4, None, 6, Sharing(6, 2, 1)),
        (4, None, 1, Sharing(1, 4, 4)),
        (20, None, 2, Sharing(2, 8, 1)),
        (8, 2, 12, Sharing(2, 1, 8)),
        (8, 1, 12, Sharing(1, 1, 16)),
    ],
)
def test_by_hand(sites: int, parallel: int | None, runs: int, told: Sharing) -> None:
    assert share_cores(settings(sites=sites, parallel=parallel), runs) == told


@given(st.integers(1, 20), st.integers(1, 64), st.integers(1, 100))
def test_what_computes_at_once_is_what_may_and_no_other_sharing_takes_fewer_turns(
    sites: int, parallel: int, runs: int
) -> None:
    found = share_cores(settings(sites=sites, parallel=parallel), runs)
    assert found.runs * found.sites <= parallel
    turns = -(-runs // found.runs) * -(-sites // found.sites)
    others = [(r, s) for r in range(1, runs + 1) for s in range(1, sites + 1) if r * s <= parallel]
    assert all(turns <= -(-runs // r) * -(-sites // s) for r, s in others)


@pytest.mark.usefixtures("sixteen_cores")
def test_a_graphics_card_is_not_given_more_than_one_run_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        type = "cuda"

    monkeypatch.setattr(sharing, "choose_device", lambda _: Card())
    monkeypatch.setattr("simulations.settings.cores", lambda: 16)
    found = share_cores(settings(sites=4), 40)
    assert found.runs * found.sites == 4
    found = share_cores(settings(sites=4, parallel=12), 40)
    assert found.runs * found.sites == 12


@pytest.mark.usefixtures("sixteen_cores")
def test_ray_plays_one_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.settings.cores", lambda: 16)
    assert share_cores(settings(sites=4, engine="ray"), 40) == Sharing(1, 4, 4)


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(("said", "threads"), [("2", 2), ("64", 4), ("0", 4), ("4,2", 4), ("", 4)])
def test_threads_are_no_more_than_the_environment_allows(
    monkeypatch: pytest.MonkeyPatch, said: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert share_cores(settings(sites=4), 1) == Sharing(1, 4, threads)


def test_models_that_train_alone_share_what_the_sites_had() -> None:
    sixteen = Sharing(runs=3, sites=4, threads=1)
    assert sixteen.alone(1) == (1, 12)
    assert sixteen.alone(5) == (5, 2)
    assert sixteen.alone(100) == (12, 1)


def test_fewer_at_once_have_the_threads_that_they_had() -> None:
    shared = Sharing(runs=3, sites=4, threads=2)
    assert shared.within(9) == Sharing(2, 4, 2)
    assert shared.within(3) == Sharing(1, 3, 2)
