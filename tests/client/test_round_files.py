"""Which file of a kind a round starts from."""

from pathlib import Path

import pytest

from client.round_files import RoundFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (3, 4, 5, 6):
        RoundFiles(tmp_path, "optimizer").after(number).touch()
    (tmp_path / "optimizer-x.safetensors").touch()
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("optimizer-0*"))


def test_a_run_starts_from_nothing(tmp_path: Path) -> None:
    assert RoundFiles(tmp_path / "none", "optimizer").before(1) is None
    assert RoundFiles(tmp_path, "optimizer").after(7).name == "optimizer-0007.safetensors"


def test_the_newest_earlier_state_counts_also_when_rounds_were_missed(folder: Path) -> None:
    assert RoundFiles(folder, "optimizer").before(9) == RoundFiles(folder, "optimizer").after(6)


def test_a_round_that_is_redone_forgets_its_own_state_and_later_ones(folder: Path) -> None:
    assert RoundFiles(folder, "optimizer").before(5) == RoundFiles(folder, "optimizer").after(4)
    assert names(folder) == ["optimizer-0003.safetensors", "optimizer-0004.safetensors"]


def test_a_run_that_begins_again_does_not_lose_its_new_states_to_old_ones(folder: Path) -> None:
    assert RoundFiles(folder, "optimizer").before(1) is None
    RoundFiles(folder, "optimizer").after(1).touch()
    RoundFiles(folder, "optimizer").forget_old()
    assert names(folder) == ["optimizer-0001.safetensors"]


def test_three_are_kept(folder: Path) -> None:
    RoundFiles(folder, "optimizer").forget_old()
    assert names(folder) == [f"optimizer-000{number}.safetensors" for number in (4, 5, 6)]


def test_a_state_is_superseded_when_three_are_there_already(tmp_path: Path) -> None:
    files = RoundFiles(tmp_path, "optimizer")
    for number, superseded in ((4, None), (6, None), (7, files.after(4)), (8, files.after(4))):
        files.after(number).touch()
        assert files.superseded() == superseded


def test_kinds_do_not_see_each_other(tmp_path: Path) -> None:
    RoundFiles(tmp_path, "personal-optimizer").after(3).touch()
    assert RoundFiles(tmp_path, "personal").before(9) is None
    assert RoundFiles(tmp_path, "personal").before(1) is None
    assert RoundFiles(tmp_path, "personal-optimizer").before(9) is not None, "nothing was removed"
