"""Settings of a federation are checked when they are made."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segformer3d.checkpoint import save
from segformer3d.errors import ConfigurationError
from segformer3d.model import build
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import get_task
from server.federation import FederationSettings, model_notes, told_of_start
from server.strategies.strategy import named_strategy

from ..client.tiny_site import TINY

SETTINGS = FederationSettings(TINY, 5, 2, 9, 3, 60.0, 120, 30.0, 2.0, TrainingSettings(learning_rate=0.01))


def test_settings_survive_json() -> None:
    assert FederationSettings.from_json(json.loads(json.dumps(SETTINGS.to_json()))) == SETTINGS


def test_a_task_is_enough() -> None:
    assert FederationSettings.from_json({"task": TINY.to_json()}) == FederationSettings(TINY)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0},
        {"rounds": 1.0},
        {"rounds": True},
        {"rounds": 100_001},
        {"local_epochs": 0},
        {"seed": -1},
        {"seed": 2**32},
        {"minimum_sites": 0},
        {"round_deadline_s": 0},
        {"round_deadline_s": math.nan},
        {"round_deadline_s": math.inf},
        {"prepare_deadline_s": -1.0},
        {"prepare_deadline_s": "60"},
        {"again_s": -1},
        {"again_s": math.nan},
        {"pace": 0.5},
        {"pace": "fast"},
        {"task": "tiny"},
        {"training": None},
        {"strategy": "fedavg"},
    ],
)
def test_each_broken_rule_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=name):
        replace(SETTINGS, **wrong)


@pytest.mark.parametrize(
    "values", [{}, {"task": "tiny"}, {"task": TINY.to_json(), "training": 3}, {"task": TINY.to_json(), "round": 3}]
)
def test_json_that_is_no_federation_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        FederationSettings.from_json(values)


def test_a_fingerprint_covers_what_is_computed_and_nothing_else() -> None:
    waiting = replace(SETTINGS, minimum_sites=1, round_deadline_s=1.0, prepare_deadline_s=1.0)
    assert waiting.fingerprint() == SETTINGS.fingerprint()
    for change in (
        {"task": get_task("phantom")},
        {"rounds": 6},
        {"local_epochs": 1},
        {"seed": 1},
        {"training": TrainingSettings()},
    ):
        assert replace(SETTINGS, **change).fingerprint() != SETTINGS.fingerprint()  # type: ignore[arg-type]


def test_who_begins_with_a_model_hears_whose_its_norms_are(tmp_path: Path) -> None:
    settings, path = replace(SETTINGS, strategy=named_strategy("fedbn")), tmp_path / "model.safetensors"
    save(path, build(TINY.model), TINY, model_notes(settings))
    told = f"{path}, which the run begins with, was trained with FedBN: its norms are the mean of the sites', each of"
    assert (told_of_start(path) or "").startswith(told)
    save(path, build(TINY.model), TINY, model_notes(SETTINGS))
    assert told_of_start(path) is None
