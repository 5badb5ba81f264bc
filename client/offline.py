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


def switch_off_network() -> None:
    """Set the switches for this process and those it starts; a value that the user set stays."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
