"""What came out of a run, in a folder of its own. Oracle: the run's own records."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from segformer3d.checkpoint import load
from segformer3d.errors import ConfigurationError
from segformer3d.files import write_json
from segformer3d.model_description import read_notes
from server.coordinator import Coordinator
from server.export import export_and_print
from server.federation import norms_kept
from server.run_folder import SETTINGS_FILE, newest_state
from server.state import read_state
from server.strategies.strategy import named_strategy

from ..client.tiny_site import RUN
from .test_coordinator import coordinator  # noqa: F401 - a fixture
from .tiny_federation import TinyGrid, TinySite, federate, tiny_settings


@pytest.fixture
def played(coordinator: Coordinator) -> Path:
    """A complete run in a coordinator's folder."""
    folder, settings = coordinator.run_folder(RUN), tiny_settings()
    write_json(folder / SETTINGS_FILE, settings.to_json())
    federate(TinyGrid({11: TinySite("a"), 12: TinySite("b")}), folder, settings)
    return folder


def test_models_tables_and_settings_are_there(
    coordinator: Coordinator,
    played: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    export_and_print(str(coordinator.folder), RUN, str(out))
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "best.safetensors", "federation.json", "last.safetensors", "rounds.csv",
    ]  # fmt: skip
    newest = newest_state(played)
    assert newest is not None
    weights = load(out / "last.safetensors").state_dict()
    for name, value in read_state(newest).weights.items():
        assert (weights[name].numpy() == value).all()
    rows = list(csv.DictReader((out / "rounds.csv").read_text().splitlines()))
    records = [json.loads(line) for line in (played / "rounds.jsonl").read_text().splitlines()]
    told = [(str(r["round"]), s["site"], str(s["loss"]), str(s["dice"][0])) for r in records for s in r["sites"]]
    assert [(row["round"], row["site"], row["loss"], [*row.values()][-1]) for row in rows] == told
    assert len(rows) == 6
    readme = (out / "README.md").read_text()
    assert "3 of 3 rounds" in readme
    assert "norms" not in readme
    assert "norms" not in read_notes(out / "last.safetensors")
    assert "sites: a, b." in readme
    assert f"segfed evaluate --model {out / 'best.safetensors'}" in capsys.readouterr().out


def test_a_model_whose_norms_are_no_sites_says_so(
    coordinator: Coordinator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, settings = coordinator.run_folder(RUN), tiny_settings(strategy=named_strategy("fedbn"), rounds=1)
    kept = norms_kept(settings.strategy)
    write_json(folder / SETTINGS_FILE, settings.to_json())
    federate(TinyGrid({11: TinySite("a"), 12: TinySite("b")}), folder, settings)
    export_and_print(str(coordinator.folder), RUN, str(tmp_path / "out"))
    assert read_notes(tmp_path / "out" / "last.safetensors")["norms"] == kept
    assert f"The models' norms are {kept}. A site gives" in (tmp_path / "out" / "README.md").read_text()
    assert "last.safetensors --norms mean --data DIR" in capsys.readouterr().out.replace("best", "last")


@pytest.mark.parametrize("over", [True, False])
def test_the_last_model_is_the_one_that_the_run_ends_with(coordinator: Coordinator, tmp_path: Path, over: bool) -> None:
    """Where a strategy averages over rounds, that is not the model of the last round."""
    folder, settings = coordinator.run_folder(RUN), tiny_settings(strategy=named_strategy("averaged"))
    write_json(folder / SETTINGS_FILE, settings.to_json())
    federate(TinyGrid({11: TinySite("a"), 12: TinySite("b")}), folder, settings)
    kept = load(folder / "last.safetensors").state_dict()
    if not over:
        (folder / "last.safetensors").unlink()
    export_and_print(str(coordinator.folder), RUN, str(tmp_path / "out"))
    handed_on = load(tmp_path / "out" / "last.safetensors").state_dict()
    assert all((handed_on[name] == value).all() for name, value in kept.items())
    newest = newest_state(folder)
    assert newest is not None
    assert any((kept[name].numpy() != value).any() for name, value in read_state(newest).weights.items())


def test_the_best_model_is_the_one_that_the_file_is(coordinator: Coordinator, played: Path, tmp_path: Path) -> None:
    """The final model is measured last, and is the best here: sites' Dice rise from round to round."""
    export_and_print(str(coordinator.folder), RUN, str(tmp_path / "out"))
    assert read_notes(tmp_path / "out" / "best.safetensors")["round"] == 3
    assert "`best.safetensors`: after round 3, validation Dice 0.5300" in (tmp_path / "out" / "README.md").read_text()


def test_a_run_that_goes_on_can_be_exported_too(coordinator: Coordinator, played: Path, tmp_path: Path) -> None:
    for name in ("best.safetensors", "last.safetensors", "result.json"):
        (played / name).unlink()
    export_and_print(str(coordinator.folder), RUN, str(tmp_path / "out"))
    assert "(going on)" in (tmp_path / "out" / "README.md").read_text()
    assert load(tmp_path / "out" / "last.safetensors")


def test_nothing_is_written_over_and_nothing_is_made_up(coordinator: Coordinator, played: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine").touch()
    for taken in (tmp_path / "kept", tmp_path / "kept" / "mine"):
        with pytest.raises(ConfigurationError, match="is no empty folder"):
            export_and_print(str(coordinator.folder), RUN, str(taken))
    with pytest.raises(ConfigurationError, match="no settings of a run"):
        export_and_print(str(coordinator.folder), "another", str(tmp_path / "out"))
    shutil.rmtree(played)
    with pytest.raises(ConfigurationError):
        export_and_print(str(coordinator.folder), RUN, str(tmp_path / "out"))
