"""What a coordinator decides before it starts its programs."""

from dataclasses import replace

import pytest

from segformer3d import addresses
from server.coordinator import Coordinator
from server.start import superlink_port

from .test_coordinator import coordinator  # noqa: F401 - a fixture


def test_superlink_does_not_take_the_gates_port(monkeypatch: pytest.MonkeyPatch, coordinator: Coordinator) -> None:
    """The gate does not listen yet, so its port looks free."""
    gate = addresses.free_port()
    made = replace(coordinator, listen=replace(coordinator.listen, port=gate))
    monkeypatch.setattr(addresses, "_never_dealt", lambda: range(gate, gate + 2))
    assert {superlink_port(made) for _ in range(20)} == {gate + 1}
    assert superlink_port(replace(made, superlink_port=8000)) == 8000
