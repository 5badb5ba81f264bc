"""One question to the coordinator with the site's own key: does it let this site in?"""

import os
from enum import Enum

from client.offline import switch_off_network
from client.site_file import SiteFile

switch_off_network()  # Flower reads its switches when it is imported

import httpx  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.hazmat.primitives.serialization import load_ssh_private_key  # noqa: E402
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL  # noqa: E402
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest  # noqa: E402
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor  # noqa: E402
from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # noqa: E402
from flwr.supercore.protobuf.client import ProtobufClientInterceptor  # noqa: E402
from flwr.supernode.fleet_http_client import FleetHttpClient  # noqa: E402
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor  # noqa: E402


class Standing(Enum):
    """What the coordinator says to a site's key."""

    REGISTERED = "registered"
    NOT_LET_IN = "not let in"
    NOT_UNDERSTOOD = "not understood"


def standing_of(site: SiteFile) -> Standing:
    """Connect with the site's key and leave again. A site that is connected already is not let in a second time."""
    key = load_ssh_private_key(site.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "the key has been checked before"
    if site.proxy:
        os.environ["HTTPS_PROXY"] = site.proxy
    public = key.public_key()
    signing: list[ProtobufClientInterceptor] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(key, public),
    ]
    request = ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
    trusted = site.certificate.read_bytes()
    with FleetHttpClient.from_server_address(str(site.coordinator), False, trusted, signing) as client:
        try:
            node = client.ActivateNode(request).node_id
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
        except httpx.HTTPStatusError as error:
            refused = error.response.status_code in (401, 403, 412)
            return Standing.NOT_LET_IN if refused else Standing.NOT_UNDERSTOOD
        except (httpx.HTTPError, ValueError):
            return Standing.NOT_UNDERSTOOD
    return Standing.REGISTERED
