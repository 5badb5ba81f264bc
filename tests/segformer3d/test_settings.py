"""Rules of the training settings, and their way to JSON and back."""

import json
import math
from typing import Any

import pytest

from segformer3d.errors import ConfigurationError
from segformer3d.settings import TrainingSettings


def test_json_and_back() -> None:
    for settings in (TrainingSettings(), TrainingSettings(batch_size=7, loss="dice", augment=False, warmup=0)):
        assert TrainingSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"momentum": 0.9}, "unknown training setting 'momentum'; known are batch_size,"),
        ({"batch_size": 0}, "batch_size must be a whole number of 1 or more, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
        ({"learning_rate": 0}, r"learning_rate must be in \[1e-08, 1\], got 0"),
        ({"learning_rate": math.nan}, "learning_rate must be in .* got nan"),
        ({"learning_rate": "0.1"}, "learning_rate must be in .* got '0.1'"),
        ({"weight_decay": -0.1}, r"weight_decay must be in \[0, 1\], got -0.1"),
        ({"warmup": 0.6}, r"warmup must be in \[0, 0.5\], got 0.6"),
        ({"gradient_clip": math.inf}, "gradient_clip must be in"),
        ({"foreground": 1.5}, r"foreground must be in \[0, 1\], got 1.5"),
        ({"loss": "focal"}, "loss must be 'dice_ce' or 'dice', got 'focal'"),
        ({"augment": 1}, "augment must be true or false, got 1"),
    ],
)
def test_a_broken_rule_is_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        TrainingSettings.from_json(values)
