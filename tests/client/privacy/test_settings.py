"""What a run asks for in privacy: a table, and what may stand beside it."""

from typing import Any

import pytest

from client.privacy.settings import PrivacySettings
from segformer3d.errors import ConfigurationError


@pytest.mark.parametrize(
    ("asked", "patients", "expected"),
    [
        ({"epsilon": 4.0}, None, {"epsilon": 4.0}),
        ({"epsilon": 4.0, "rounds": 3}, 7, {"epsilon": 4.0, "patients": 7}),
        ({"privacy": {"epsilon": 4.0, "patients": 9}}, 7, {"epsilon": 4.0, "patients": 9}),
        ({"privacy": {"epsilon": 4.0, "crops": 2}, "epsilon": 2.0}, None, {"epsilon": 2.0, "crops": 2}),
        ({"privacy": {"epsilon": 4.0, "delta": 1e-6}, "epsilon": None}, None, {"epsilon": 4.0, "delta": 1e-6}),
        ({"privacy": {"epsilon": 4.0, "delta": 1e-6}, "delta": 1e-7}, None, {"epsilon": 4.0, "delta": 1e-7}),
        ({"privacy": {}, "epsilon": 4.0, "delta": 0.1}, 7, {"epsilon": 4.0, "delta": 0.1, "patients": 7}),
    ],
)
def test_what_stands_beside_the_table_comes_first_and_the_number_of_patients_last(
    asked: dict[str, Any], patients: int | None, expected: dict[str, Any]
):
    assert PrivacySettings.of_run(asked, patients) == PrivacySettings(**expected)


@pytest.mark.parametrize(
    "asked", [{}, {"privacy": None}, {"privacy": {}}, {"privacy": {}, "epsilon": None, "delta": None}]
)
def test_a_run_may_ask_for_nothing(asked: dict[str, Any]):
    assert PrivacySettings.of_run(asked, 7) is None


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"delta": 1e-5}, "privacy needs an epsilon"),
        ({"privacy": {"clip": 1.0}}, "privacy needs an epsilon"),
        ({"privacy": {"clip": 1.0}, "epsilon": 0}, "privacy.epsilon must be above 0"),
        ({"privacy": "none", "epsilon": 8.0}, "privacy must be a table of settings, got 'none'"),
        ({"privacy": {"sigma": 1.0}, "epsilon": 8.0}, "unknown privacy setting 'sigma'"),
        ({"privacy": {"local_steps": 0}, "epsilon": 8.0}, "privacy.local_steps must be a whole number in"),
        ({"privacy": {"clip": "1"}, "epsilon": 8.0}, "privacy.clip must be above 0"),
        ({"delta": 1.0, "epsilon": 8.0}, r"privacy.delta must be in \(0, 1\)"),
        ({"privacy": {"proximal": -1}, "epsilon": 8.0}, r"privacy.proximal must be in \[0, 1000\]"),
        ({"privacy": {"noise": "pink"}, "epsilon": 8.0}, "privacy.noise must be one of secure, seeded"),
        ({"privacy": {"optimizer": "lion"}, "epsilon": 8.0}, "privacy.optimizer must be one of sgd, adamw"),
        ({"privacy": {"augment": 1}, "epsilon": 8.0}, "privacy.augment must be true or false"),
        ({"privacy": {"trainable": "head"}, "epsilon": 8.0}, "privacy.trainable must be a list of patterns"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(asked: dict[str, Any], text: str):
    with pytest.raises(ConfigurationError, match=text):
        PrivacySettings.of_run(asked)
