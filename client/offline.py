"""Flower without the internet: hospitals' machines reach the coordinator and nothing else.

Flower 1.41 sends usage statistics, looks for newer releases and resolves every app's dependencies over the network
unless its environment says no. It reads these switches when it is imported, so this comes first.
"""

import os

SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


LOOPBACK = ("127.0.0.1", "localhost", "::1")


def switch_off_network() -> None:
    """Set the switches for this process and those it starts; a value that the user set stays.

    What stays on this machine goes through no proxy, whatever the environment says of proxies.
    """
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    for name in ("NO_PROXY", "no_proxy"):
        known = [host for host in os.environ.get(name, "").split(",") if host]
        if "*" not in known:
            os.environ[name] = ",".join([*known, *(host for host in LOOPBACK if host not in known)])
