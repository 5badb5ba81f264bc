"""Hosts and ports as people write them: `fed.example.org:8443`, `10.0.0.7:8443`, `[2001:db8::7]:8443`."""

import ipaddress
import random
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from segformer3d.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
LOWEST, FIRST_DEALT, TRIES = 20000, 32768, 100  # ports: below are well-known services; Linux's own default; how many
_DEALT = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_WRITTEN = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:]+)):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Address:
    """A host (a name, or an IPv4 or IPv6 address without brackets) and a port in [1, 65535].

    Raises:
        ConfigurationError: it is neither.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        check_host(self.host)
        if not 1 <= self.port <= 65535:
            raise ConfigurationError(f"a port must be in [1, 65535], got {self.port}")

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `HOST:PORT`.

        Raises:
            ConfigurationError: it is none.
        """
        found = _WRITTEN.fullmatch(text)
        if not found:
            raise ConfigurationError(f"an address is HOST:PORT, for example fed.example.org:8443, got {text!r}")
        return cls(found["six"] or found["host"], int(found["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_host(host: str) -> None:
    """See that a text is a host name or an IP address.

    Raises:
        ConfigurationError: it is neither.
    """
    if not is_ip(host) and not (_NAME.fullmatch(host) and len(host) <= 253):
        raise ConfigurationError(f"a host is a name or an IP address, got {host!r}")


def is_ip(host: str) -> bool:
    """Whether a host is an IPv4 or IPv6 address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def free_port(besides: Collection[int] = ()) -> int:
    """A port of the loopback interface that nobody listens on at this moment, and that stays free.

    It is one that the system deals to no outgoing connection: such a connection may last for days, and a service that
    is started again could not have its port back. Where the system deals out all, it is any that is free.

    Args:
        besides: ports that are promised to others, who do not listen yet.
    """
    for port in random.SystemRandom().sample(_never_dealt(), k=min(TRIES, len(_never_dealt()))):
        if port not in besides and _is_free(port):
            return port
    while (any_free := _any_free()) in besides:
        pass
    return any_free


def _any_free() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def _never_dealt() -> range:
    try:
        first = int(_DEALT.read_text().split()[0])
    except (OSError, ValueError, IndexError):  # not Linux, or a container that hides it
        first = FIRST_DEALT
    return range(LOWEST, first)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
