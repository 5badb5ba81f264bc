"""A stop that Python drops is given again."""

import time
import weakref
from pathlib import Path

import pytest

from .ctrl_c import ctrl_c_when


class Thing:
    pass


def test_a_stop_that_meets_a_callback_of_a_weak_reference_is_not_lost(tmp_path: Path) -> None:
    met = []

    def linger(_: object) -> None:
        (tmp_path / "now").touch()
        met.append(time.monotonic())
        while time.monotonic() < met[0] + 60:  # the stop ends this loop, and nothing else
            pass

    thing = Thing()
    watched = weakref.ref(thing, linger)
    with pytest.raises(KeyboardInterrupt), ctrl_c_when(tmp_path / "now"):
        del thing
        assert watched() is None
        time.sleep(60)
    assert time.monotonic() < met[0] + 50
