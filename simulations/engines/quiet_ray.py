"""A Ray that keeps to itself: quiet, private, and gone at the end.

Ray listens to the whole network and does what anybody there tells it to, unless it is given a token: it is given one.
Its files are in a temporary folder, its changes to this process (signals, environment) are undone.
"""

import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from segformer3d.errors import FederationError
from segformer3d.processes import interrupts_held


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """A name of another package's module, replaced for a while: for what it offers no option."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


@contextmanager
def ray_on_this_machine(cpus: int) -> Iterator[None]:
    """A Ray of our own for the `with` block, which runs `cpus` single-core tasks at a time.

    Raises:
        FederationError: Ray does not start.
    """
    with (
        tempfile.TemporaryDirectory(prefix="segfed-ray-", ignore_cleanup_errors=True) as folder,
        _environment(_switches(folder)),
        _signals_kept(),
        replaced(ray_worker, "print_to_stdstream", _log_output),
    ):
        try:
            with interrupts_held():  # half a Ray cannot be stopped
                _start(cpus, folder)
            yield
        finally:
            ray.shutdown()


def _start(cpus: int, folder: str) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_import_path())}},
            _temp_dir=folder,
        )
    except (RuntimeError, OSError) as error:
        raise FederationError(f"Ray does not start ({error}); the local engine does without it") from error


def _switches(folder: str) -> dict[str, str]:
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # sites see the GPUs of this machine, as in every engine
        "FLWR_HOME": folder,  # Flower writes there even when its telemetry is off
    }


def _import_path() -> list[str]:
    """Where the sites' processes find the modules that this one finds, wherever they are started."""
    return [str(Path(entry).resolve()) for entry in sys.path]


def _log_output(data: dict[str, Any], ignore_prefix: bool) -> None:
    """Ray prints the death of a site's process to the terminal, whatever it is told."""
    getLogger("flwr").error("ray: %s", "\n".join(data["lines"]))


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """These values for the `with` block, and none of what Ray adds (its debugger, for one) after it."""
    before = dict(os.environ)
    os.environ.update(values)
    _read_authentication()
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
        _read_authentication()


def _read_authentication() -> None:
    """Ray reads these switches when it is imported, and never again by itself."""
    AuthenticationTokenLoader.instance().reset_cache()
    Config.initialize("")


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes over SIGTERM and does not give it back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
