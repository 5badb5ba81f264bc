"""Liveness over gRPC's standard health protocol (grpc.health.v1), on the loopback interface."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from segformer3d.addresses import LOOPBACK

TIMEOUT_S = 2.0
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class HealthServer:
    """Says which services run; the empty name stands for all of them together."""

    def __init__(self, services: Sequence[str]) -> None:
        self._servicer = HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(2))
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        self.port = int(self._server.add_insecure_port(f"{LOOPBACK}:0"))
        self.update(dict.fromkeys(services))
        self._server.start()

    def update(self, processes: Mapping[str, int | None]) -> None:
        """Take down which services have a process."""
        for name, process in processes.items():
            self._servicer.set(name, _SERVING if process is not None else _NOT_SERVING)
        everyone = all(process is not None for process in processes.values())
        self._servicer.set("", _SERVING if everyone else _NOT_SERVING)

    def stop(self) -> None:
        """Answer no more."""
        self._server.stop(grace=None)


def is_serving(port: int, service: str = "") -> bool:
    """Whether a service on this machine says that it runs."""
    return _ask(port, service) == int(_SERVING)


def answers(port: int) -> bool:
    """Whether anybody on this machine answers for the health of services, good or bad."""
    return _ask(port, "") is not None


def _ask(port: int, service: str) -> int | None:
    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S
            )
        except grpc.RpcError:
            return None
    return int(answer.status)
