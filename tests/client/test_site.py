"""A site's settings are checked when they are made."""

from pathlib import Path
from typing import Any

import pytest
import torch

from client.site import SiteSettings
from segformer3d.errors import ConfigurationError

GOOD: dict[str, Any] = {"name": "St-Anna_2", "data": Path("data"), "work": Path("work")}


def test_sensible_settings_are_taken() -> None:
    site = SiteSettings(**GOOD, device="cpu", threads=2, workers=4)
    assert site.torch_device() == torch.device("cpu")
    assert SiteSettings(**GOOD, threads=None).workers == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "x" * 41},
        {"name": "site\n"},
        {"name": "../site"},
        {"name": 3},
        {"data": "data"},
        {"work": None},
        {"device": "gpu"},
        {"device": "cuda:x"},
        {"threads": 0},
        {"threads": 1.5},
        {"threads": True},
        {"workers": -1},
        {"workers": 257},
        {"patients": 0},
        {"patient_pattern": "("},
        {"leave_out_published": 1},
    ],
)
def test_each_broken_rule_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match="name" if name == "name" else name):
        SiteSettings(**{**GOOD, **wrong})


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match="cuda:99"):
        SiteSettings(**GOOD, device="cuda:99").torch_device()
