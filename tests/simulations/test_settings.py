"""Settings of a simulation: rules, defaults, and the way through JSON."""

from pathlib import Path

import pytest

from segformer3d.errors import ConfigurationError
from segformer3d.settings import TrainingSettings
from simulations.engines import ENGINES
from simulations.settings import ENGINES as ENGINE_NAMES
from simulations.settings import SimulationSettings


def test_every_engine_can_be_asked_for_and_no_other():
    assert set(ENGINE_NAMES) == set(ENGINES)


def test_settings_come_back_from_json(tmp_path: Path):
    settings = SimulationSettings(
        data=tmp_path,
        sites=3,
        training=TrainingSettings(batch_size=5),
        model={"norm": "group"},
        grid={"patch": [8, 8, 8]},
    )
    assert SimulationSettings.from_json(settings.to_json()) == settings


def test_half_of_the_sites_do_not_make_a_round():
    assert [SimulationSettings(sites=n).needed_sites for n in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]
    assert SimulationSettings(sites=4, minimum_sites=4).needed_sites == 4


def test_no_more_sites_at_once_than_there_are():
    assert SimulationSettings(sites=2, parallel=8).at_once == 2
    assert SimulationSettings(sites=8, parallel=3).at_once == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"sites": 0},
        {"sites": 2.0},
        {"rounds": True},
        {"seed": -1},
        {"held_out": 0.0},
        {"held_out": float("nan")},
        {"round_deadline": 0.5},
        {"partition": "alphabet"},
        {"engine": "steam"},
        {"minimum_sites": 5},
        {"parallel": 0},
        {"leave_out_published": 1},
        {"patient_pattern": "("},
    ],
)
def test_a_value_out_of_its_range_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        SimulationSettings(**wrong)


@pytest.mark.parametrize("name", ["training", "model", "grid", "privacy"])
def test_what_is_a_table_is_no_number(name):
    with pytest.raises(ConfigurationError, match=f"^{name} must be a table of settings, got 3$"):
        SimulationSettings.from_json({name: 3})


def test_the_task_follows_data_name_and_changes(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, {})
    assert SimulationSettings().resolve_task().name == "phantom"
    assert SimulationSettings(data=folder).resolve_task().name == "tiny"
    assert SimulationSettings(data=folder, task="hippocampus").resolve_task().name == "hippocampus"
    changed = SimulationSettings(task="hippocampus", model={"patch_stride": [2, 2, 2, 2]}, grid={"patch": [32, 32, 32]})
    assert changed.resolve_task().model.patch_stride == ((2, 2, 2),) * 4
    assert changed.resolve_task().patch == (32, 32, 32)
    with pytest.raises(ConfigurationError, match="wavelength"):
        SimulationSettings(task="hippocampus", grid={"wavelength": 3}).resolve_task()
