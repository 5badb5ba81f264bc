"""A port for a service of this machine: free, and never one that an outgoing connection could sit on."""

import socket
from pathlib import Path

import pytest

from segformer3d import addresses
from segformer3d.addresses import LOOPBACK, free_port


def test_a_port_can_be_listened_on_and_is_none_that_outgoing_connections_get() -> None:
    port = free_port()
    with socket.create_server((LOOPBACK, port)), socket.create_connection((LOOPBACK, port)) as outgoing:
        if addresses._never_dealt():  # a machine may deal out all
            assert port in addresses._never_dealt()
            assert outgoing.getsockname()[1] not in addresses._never_dealt()


def test_a_port_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = free_port()
    monkeypatch.setattr(addresses, "_never_dealt", lambda: range(taken, taken + 3))
    with socket.create_server((LOOPBACK, taken)):
        assert {free_port(besides={taken + 2}) for _ in range(20)} == {taken + 1}
        assert free_port(besides=range(taken, taken + 3)) not in range(taken, taken + 3)


@pytest.mark.parametrize("text", ["1024\t65535\n", "", "none"])
def test_where_the_system_deals_out_all_or_does_not_say_there_is_a_port_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    told = tmp_path / "range"
    told.write_text(text)
    monkeypatch.setattr(addresses, "_DEALT", told)
    with socket.create_server((LOOPBACK, free_port())):
        pass
    monkeypatch.setattr(addresses, "_DEALT", tmp_path / "missing")
    assert addresses._never_dealt() == range(addresses.LOWEST, addresses.FIRST_DEALT)
