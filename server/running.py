"""What a coordinator that runs leaves for other commands to read, and what they read from it."""

import json
from dataclasses import asdict, dataclass

from segformer3d.addresses import LOOPBACK, Address
from segformer3d.errors import FederationError
from segformer3d.files import write_json
from server.coordinator import Coordinator

RUNNING_FILE = "running.json"
SUPERLINK, EXECUTOR, GATE = "superlink", "executor", "gate"


@dataclass(frozen=True)
class Running:
    """A `segfed server start` that runs: the ports of SuperLink and of its health service."""

    superlink: int
    health: int


def write_running(coordinator: Coordinator, running: Running) -> None:
    """Say that the coordinator runs.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(coordinator.state / RUNNING_FILE, asdict(running))


def forget_running(coordinator: Coordinator) -> None:
    """Say that it runs no more."""
    (coordinator.state / RUNNING_FILE).unlink(missing_ok=True)


def read_running(coordinator: Coordinator) -> Running:
    """The `segfed server start` of this folder.

    Raises:
        FederationError: the coordinator does not run.
    """
    try:
        return Running(**json.loads((coordinator.state / RUNNING_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise FederationError(
            f"the coordinator does not run; start it with: segfed server start {coordinator.folder}"
        ) from None


def running_now(coordinator: Coordinator) -> Running | None:
    """The `segfed server start` of this folder if it is alive, that is, answers for its health."""
    from segformer3d.health import answers  # the gate does without gRPC, and is there sooner

    try:
        running = read_running(coordinator)
    except FederationError:
        return None
    return running if answers(running.health) else None


def superlink_address(coordinator: Coordinator) -> Address:
    """Where SuperLink listens.

    Raises:
        FederationError: the coordinator does not run.
    """
    return Address(LOOPBACK, read_running(coordinator).superlink)
