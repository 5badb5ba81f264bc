"""Two words to the coordinator with the site's own key: does it let this site in, and: this site is not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.site_file import SiteFile

_VARIABLE = "HTTPS_PROXY"


class Standing(Enum):
    """What the coordinator says to a site's key."""

    REGISTERED = "registered"
    NOT_LET_IN = "not let in"
    NOT_UNDERSTOOD = "not understood"


def standing_of(site: SiteFile) -> Standing:
    """Connect with the site's key and leave again. A site that is connected already is not let in a second time."""
    with _fleet(site) as (client, public):
        request = ActivateNodeRequest(public_key=public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        try:
            node = client.ActivateNode(request).node_id
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
        except httpx.HTTPStatusError as error:
            refused = error.response.status_code in (401, 403, 412)
            return Standing.NOT_LET_IN if refused else Standing.NOT_UNDERSTOOD
        except (httpx.HTTPError, ValueError):
            return Standing.NOT_UNDERSTOOD
    return Standing.REGISTERED


def take_leave(site: SiteFile, node: int) -> bool:
    """Say that the node that this site was is there no more; whether that was news to the coordinator.

    A SuperNode that was killed says nothing, and the coordinator would not let the site in again for a minute or two.
    """
    with _fleet(site) as (client, _):
        try:
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
        except (httpx.HTTPError, ValueError):  # it is down, or knows already
            return False
    return True


@contextmanager
def _fleet(site: SiteFile) -> Iterator[tuple[FleetHttpClient, bytes]]:
    """A client that signs with the site's key, and the public half of it."""
    key = load_ssh_private_key(site.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "the key has been checked before"
    public = key.public_key()
    signing: list[ProtobufClientInterceptor] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(key, public),
    ]
    trusted = site.certificate.read_bytes()
    with _proxy(site.proxy):  # the client takes it from the environment when it is made
        made = FleetHttpClient.from_server_address(str(site.coordinator), False, trusted, signing)
    with made as client:
        yield client, public_key_to_bytes(public)


@contextmanager
def _proxy(address: str | None) -> Iterator[None]:
    before = os.environ.get(_VARIABLE)
    if address is not None:
        os.environ[_VARIABLE] = address
    try:
        yield
    finally:
        if before is not None:
            os.environ[_VARIABLE] = before
        elif address is not None:
            del os.environ[_VARIABLE]
