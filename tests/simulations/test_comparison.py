"""What rivals of a run are trained on and measured on. Oracle: what a site itself makes of its folder."""

import json
from math import isnan, nan
from pathlib import Path

import pytest
import torch

from segformer3d.dataset import prepare
from segformer3d.metrics import StructureScore
from segformer3d.model import build
from segformer3d.results import CaseResult
from segformer3d.tasks import Task
from segformer3d.training import validate
from simulations.comparison import _data_of, _measure_at, _told
from simulations.run_folder import Run
from simulations.run_rivals import budget_of
from simulations.settings import SimulationSettings

from ..conftest import MakeDataset
from .scenarios.conftest import blobs


def test_a_case_counts_by_what_its_labels_tell() -> None:
    def case(*dice: float) -> CaseResult:
        return CaseResult("c", tuple(StructureScore(value, nan, nan) for value in dice), (), ())

    assert case(0.5, 0.7).dice_of_told == pytest.approx(0.6)
    assert case(0.9, nan, nan).dice_of_told == 0.9
    assert isnan(case(0.9, nan, nan).mean_dice), "the means of an evaluation are of whole cases"
    assert isnan(case(nan, nan).dice_of_told)


def test_a_site_that_does_not_tell_all_is_measured_on_what_it_tells(
    tmp_path: Path, make_dataset: MakeDataset, tiny_task: Task
) -> None:
    """Oracle: what the site itself finds with the same model."""
    site = make_dataset(tmp_path / "sites" / "site-1", {f"c{n}": blobs(n) for n in range(12)})
    described = json.loads((site / "dataset.json").read_text())
    (site / "dataset.json").write_text(json.dumps({**described, "unlabelled": ["second"]}))
    told = _told(budget_of(Run(tmp_path, "name", SimulationSettings(data=tmp_path, sites=1), tiny_task, 1)))
    torch.manual_seed(0)
    model = build(tiny_task.model)
    found = _measure_at(site, told, model, tiny_task, torch.device("cpu"), tmp_path / "out")
    kept = prepare(site, tiny_task, tmp_path / "cache").validation
    assert sorted(found) == sorted(case.name for case in kept)
    at_site = validate(model, kept, tiny_task, device=torch.device("cpu")).dice
    assert not isnan(at_site[0])
    assert isnan(at_site[1])
    assert sum(found.values()) / len(found) == pytest.approx(at_site[0], abs=0.02), "on grids of their own"


def test_sites_and_rivals_keep_the_same_patients_from_training(
    tmp_path: Path, make_dataset: MakeDataset, tiny_task: Task
) -> None:
    """With two visits of each patient, whom only the pattern tells, a split by case would train on what is kept."""
    names = [f"p{number}_{visit}" for number in range(6) for visit in "ab"]
    site = make_dataset(tmp_path / "sites" / "site-1", {name: blobs(n) for n, name in enumerate(names)})
    asked = SimulationSettings(data=tmp_path, sites=1, patient_pattern=r"p\d+")
    told = _told(budget_of(Run(tmp_path, "name", asked, tiny_task, 1)))
    of_site = prepare(site, tiny_task, tmp_path / "cache", patient_pattern=asked.patient_pattern)
    of_rival = _data_of(site, told, tiny_task)
    assert [case.name for case in of_rival.train] == [case.name for case in of_site.train]
    assert {case.name[:2] for case in of_rival.train}.isdisjoint(case.name[:2] for case in of_rival.validation)
    by_case = _data_of(site, {**told, "patient_pattern": None}, tiny_task)
    assert [case.name for case in by_case.train] != [case.name for case in of_site.train]
