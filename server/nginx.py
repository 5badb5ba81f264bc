"""Settings for nginx in place of the gate, for institutions that have one public web server and want no second."""

from client.names import CONTRACT_HEADER, CONTRACT_VERSION
from segformer3d.addresses import LOOPBACK
from server.coordinator import Coordinator
from server.gate import PATHS, GateLimits

SUPERLINK_PORT = 8000  # unless server.toml says another


def nginx_settings(coordinator: Coordinator, limits: GateLimits) -> str:
    """A server block that does what the gate does: it ends TLS and passes on what a SuperNode calls, nothing else."""
    calls = "|".join(sorted(path.decode().removeprefix("/v1/fleet/") for path in PATHS))
    certificate, key = coordinator.pair("gate")
    superlink_port = coordinator.superlink_port or SUPERLINK_PORT
    return _TEMPLATE.format(
        port=coordinator.address.port,
        host=coordinator.address.host,
        superlink_port=superlink_port,
        certificate=certificate,
        key=key,
        authority=coordinator.pair("authority")[0],
        calls=calls,
        body=limits.body,
        header=f"{CONTRACT_HEADER} {CONTRACT_VERSION}",
        connections=limits.connections_a_host,
        header_s=f"{limits.header_s:.0f}",
        idle_s=f"{limits.idle_s:.0f}",
        answer_s=f"{limits.answer_s:.0f}",
        loopback=LOOPBACK,
    )


_TEMPLATE = """\
# nginx in place of segfed's gate; written by `segfed server init`. Include it within http {{ }}.
# In server.toml, have SuperLink listen where nginx looks for it, and the gate where nobody does:
#   superlink_port = {superlink_port}
#   listen = "{loopback}:8444"
limit_conn_zone $binary_remote_addr zone=segfed:1m;

server {{
    listen {port} ssl;
    server_name {host};
    ssl_certificate     {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;

    client_max_body_size {body};
    client_header_timeout {header_s}s;
    client_body_timeout {header_s}s;
    keepalive_timeout {idle_s}s;
    limit_conn segfed {connections};
    add_header {header} always;

    location ~ ^/v1/fleet/({calls})$ {{
        limit_except POST {{ deny all; }}
        if ($args) {{ return 404; }}
        proxy_pass https://{loopback}:{superlink_port};
        proxy_ssl_trusted_certificate {authority};
        proxy_ssl_verify on;
        proxy_ssl_name localhost;
        proxy_read_timeout {answer_s}s;
    }}
    location / {{ return 404; }}
}}
"""
