"""Flower stays offline whatever is imported first. A fresh process, as a module is imported once."""

import os
import subprocess
import sys

import pytest

from client.offline import SWITCHES

SHOW = "import os; print([os.environ.get(name) for name in {names}])"


def environment_after(statement: str, **extra: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    code = f"import sys; {statement}; assert 'flwr' not in sys.modules; " + SHOW.format(names=list(SWITCHES))
    done = subprocess.run([sys.executable, "-c", code], env={**environment, **extra}, check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.mark.parametrize("package", ["client", "server"])
def test_importing_a_package_sets_the_switches_before_flower_is_there(package: str) -> None:
    assert environment_after(f"import {package}") == str(list(SWITCHES.values()))


def test_what_the_user_set_stays() -> None:
    assert environment_after("import client", FLWR_TELEMETRY_ENABLED="1").startswith("['1',")


def test_loopback_goes_through_no_proxy() -> None:
    code = "import os, client, httpx; print(os.environ['NO_PROXY'])"
    environment = {**os.environ, "NO_PROXY": "intranet.example", "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "intranet.example,127.0.0.1,localhost,::1"
