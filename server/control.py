"""The coordinator's own way to its SuperLink: register sites, see who is connected, start and stop runs.

Flower's Control API asks for no credentials, which is why SuperLink listens on loopback only.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from client.bundle import RUN, make_bundle
from segformer3d.errors import FederationError
from server.coordinator import Coordinator, site_keys
from server.running import superlink_address

# isort: split
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

_GONE = "unregistered"


@dataclass(frozen=True)
class Node:
    """A registered site as Flower sees it.

    Attributes:
        node: Flower's id.
        name: that it was registered under.
        key: its public key in Flower's form.
        online: whether its heartbeats arrive.
        last_seen: when it was last heard of, as ISO text, or "" if never.
    """

    node: int
    name: str
    key: bytes
    online: bool
    last_seen: str


class Control:
    """SuperLink's Control API. Every method raises FederationError when SuperLink cannot be reached or refuses."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def nodes(self) -> tuple[Node, ...]:
        """All registered sites."""
        with _errors():
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return tuple(
            Node(n.node_id, n.name, n.public_key, n.status == "online", n.last_deactivated_at or n.last_activated_at)
            for n in found
            if n.status != _GONE
        )

    def register(self, name: str, key: bytes) -> None:
        """Let a site in."""
        with _errors():
            self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))

    def unregister(self, node: int) -> None:
        """Let a site in no more."""
        with _errors():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node))

    def start(self, run: str) -> int:
        """Submit a run; returns Flower's id of it."""
        content = make_bundle()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        with _errors():
            answer = self._client.StartRun(
                StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto({RUN: run}))
            )
        if not answer.HasField("run_id"):
            raise FederationError("SuperLink did not start the run; see logs/superlink.log")
        return int(answer.run_id)

    def stop(self, flower_run: int) -> None:
        """Stop a run that Flower knows by this id; one that has ended is left alone."""
        if self.is_going_on(flower_run):
            with _errors():
                self._client.StopRun(StopRunRequest(run_id=flower_run))

    def is_going_on(self, flower_run: int) -> bool:
        """Whether a run has been submitted and not ended."""
        with _errors():
            runs = self._client.ListRuns(ListRunsRequest(run_id=flower_run)).run_dict
        return flower_run in runs and runs[flower_run].status.status != "finished"


@contextmanager
def open_control(coordinator: Coordinator) -> Iterator[Control]:
    """The Control API of a coordinator that runs on this machine.

    Raises:
        FederationError: it does not run.
    """
    address = superlink_address(coordinator)
    certificate = coordinator.pair("authority")[0].read_bytes()
    version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
    client = ControlHttpClient.from_server_address(str(address), False, certificate, [version])
    try:
        yield Control(client)
    finally:
        client.close()


def register_sites(control: Control, coordinator: Coordinator) -> None:
    """Make SuperLink let in exactly the sites whose keys are in the coordinator's folder."""
    wanted = {name: flower_key(text) for name, text in site_keys(coordinator).items()}
    nodes = control.nodes()
    for node in nodes:
        if wanted.get(node.name) != node.key:
            control.unregister(node.node)
    known = {node.name: node.key for node in nodes}
    for name, key in wanted.items():
        if known.get(name) != key:
            control.register(name, key)


def flower_key(text: bytes) -> bytes:
    """A public key as Flower writes it."""
    return public_key_to_bytes(load_ssh_public_key(text))  # type: ignore[arg-type]


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        told = FlowerError.from_json(error.response.text)
        why = told.message if told else f"HTTP status {error.response.status_code}"
        raise FederationError(f"SuperLink refuses: {why}") from error
    except httpx.HTTPError as error:
        raise FederationError(
            f"SuperLink cannot be reached ({type(error).__name__}); is `segfed server start` running? "
            "See logs/superlink.log"
        ) from error
