"""A coordinator that submits code, and a site that takes another's name. Real processes, nothing of it succeeds."""

import hashlib
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from server.coordinator import open_coordinator
from server.running import superlink_address

from .federation import SITES, federation_file
from .rig import Rig

EVIL_SERVER = """
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
from pathlib import Path
import time

app = ServerApp()

@app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    replies = grid.send_and_receive([Message(RecordDict(), node, "train", ttl=120) for node in nodes], timeout=120)
    codes = sorted(str(reply.has_error() and reply.error.code) for reply in replies)
    Path({told!r}).write_text(" ".join(codes))
"""
EVIL_CLIENT = """
from pathlib import Path
Path({marker!r}).write_text("this ran at a hospital")
from flwr.clientapp import ClientApp
app = ClientApp()
"""
EVIL_PROJECT = """
[project]
name = "segfed"
version = "0.1.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "segfed"
[tool.flwr.app.components]
serverapp = "evil_server:app"
clientapp = "evil_client:app"
"""


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of flwr's builder
def test_code_of_the_coordinators_is_refused_by_every_site(rig: Rig, tmp_path: Path) -> None:
    told, marker = tmp_path / "told", tmp_path / "marker"
    content, _ = build_fab_from_files(
        {
            "pyproject.toml": EVIL_PROJECT.encode(),
            "evil_server.py": EVIL_SERVER.format(told=str(told)).encode(),
            "evil_client.py": EVIL_CLIENT.format(marker=str(marker)).encode(),
        }
    )
    coordinator = open_coordinator(rig.coordinator)
    certificate = coordinator.pair("authority")[0].read_bytes()
    version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
    control = ControlHttpClient.from_server_address(str(superlink_address(coordinator)), False, certificate, [version])
    fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
    assert control.StartRun(StartRunRequest(fab=fab_to_proto(fab))).HasField("run_id")
    control.close()
    rig.wait("the replies", told.exists)
    assert told.read_text().split() == ["7"] * SITES, "Flower's code of a refused bundle, from each site"
    assert not marker.exists()
    for name in rig.site_data:
        assert (
            "REFUSED: the coordinator has submitted an app with code"
            in (rig.folder / name / "work" / "site.log").read_text()
        )
        assert not list((rig.folder / name).rglob("evil_client*")), "nothing was unpacked"


@pytest.mark.slow
def test_a_site_that_takes_anothers_name_is_left_out(rig: Rig) -> None:
    folder = rig.add_site("site-8", rig.site_data["site-1"])
    settings = folder / "site.toml"
    settings.write_text(settings.read_text().replace('name = "site-8"', 'name = "site-1"'))
    rig.start("site-8", "site", "join", folder)
    try:
        rig.wait("the impostor", lambda: rig.is_connected("site-8"))
        run = rig.begin_run(federation_file(rounds=1))
        assert rig.outcome(run) is None, rig.logs()
        (record,) = (run / "rounds.jsonl").read_text().splitlines()
        assert "it is registered as site-8 and calls itself site-1" in record
        assert record.count('"site": "site-1"') == 1
    finally:
        rig.end("site-8")
        rig.do("server", "remove-site", "site-8", "--folder", rig.coordinator)
