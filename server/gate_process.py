"""The gate as a program of its own: `python -m server.gate_process FOLDER`. `segfed server start` keeps it running."""

import asyncio
import ssl
import sys
from datetime import datetime
from pathlib import Path

from server.coordinator import Coordinator, open_coordinator
from server.gate import Gate, GateLimits
from server.running import superlink_address


def main(folder: Path) -> None:
    """Serve until SIGTERM.

    Raises:
        SegfedError: there is no coordinator in the folder, or it does not run.
    """
    coordinator = open_coordinator(folder)
    gate = Gate(_outside(coordinator), superlink_address(coordinator), _inside(coordinator), GateLimits(), _print)
    print(f"{_now()} listening on {coordinator.listen}", flush=True)
    asyncio.run(gate.serve(coordinator.listen))


def _outside(coordinator: Coordinator) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*coordinator.pair("gate"))
    return context


def _inside(coordinator: Coordinator) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=coordinator.pair("authority")[0])


def _print(host: str, status: int, why: str) -> None:
    """To the gate's log; `!r` keeps what a stranger sent on one line."""
    print(f"{_now()} refused {host}: {status or 'closed'}, {why!r}", flush=True)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
