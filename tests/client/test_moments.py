"""Which optimizer state a round starts from."""

from pathlib import Path

import pytest

from client.moments import forget_old_moments, moments_after, moments_before, superseded_moments


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (3, 5, 6):
        moments_after(tmp_path, number).touch()
    (tmp_path / "optimizer-x.safetensors").touch()
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("optimizer-0*"))


def test_a_run_starts_from_nothing(tmp_path: Path) -> None:
    assert moments_before(tmp_path / "none", 1) is None
    assert moments_after(tmp_path, 7).name == "optimizer-0007.safetensors"


def test_the_newest_earlier_state_counts_also_when_rounds_were_missed(folder: Path) -> None:
    assert moments_before(folder, 9) == moments_after(folder, 6)


def test_a_round_that_is_redone_forgets_its_own_state_and_later_ones(folder: Path) -> None:
    assert moments_before(folder, 5) == moments_after(folder, 3)
    assert names(folder) == ["optimizer-0003.safetensors"]


def test_a_run_that_begins_again_does_not_lose_its_new_states_to_old_ones(folder: Path) -> None:
    assert moments_before(folder, 1) is None
    moments_after(folder, 1).touch()
    forget_old_moments(folder)
    assert names(folder) == ["optimizer-0001.safetensors"]


def test_two_are_kept(folder: Path) -> None:
    forget_old_moments(folder)
    assert names(folder) == ["optimizer-0005.safetensors", "optimizer-0006.safetensors"]


def test_a_state_is_superseded_when_two_are_there_already(tmp_path: Path) -> None:
    for number, superseded in ((4, None), (6, moments_after(tmp_path, 4)), (7, moments_after(tmp_path, 4))):
        moments_after(tmp_path, number).touch()
        assert superseded_moments(tmp_path) == superseded
