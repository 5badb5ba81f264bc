"""nginx in place of the gate, with the settings that `segfed server init` has written."""

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from segformer3d.addresses import LOOPBACK, free_port

from .federation import Simulated, federation_file
from .kill_matrix import same_weights
from .rig import Rig
from .test_attackers import OUTSIDE, visit

MAIN = """
daemon off; user root; pid {folder}/pid; error_log {folder}/error.log warn;
events {{}}
http {{
    log_format asked "$request -> $upstream_addr"; access_log {folder}/asked.log asked;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {settings};
}}
"""


@pytest.fixture(scope="module")
def behind_nginx(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A federation whose coordinator has its gate where nobody looks."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        pytest.skip("needs nginx")
    folder = tmp_path_factory.mktemp("nginx")
    with Rig(tmp_path_factory.mktemp("behind"), simulated.sites, simulated.threads) as made:
        port, settings = free_port(), made.coordinator / "server.toml"
        kept = [line for line in settings.read_text().splitlines() if not line.startswith("listen")]
        settings.write_text("\n".join([*kept, f'listen = "{LOOPBACK}:{free_port()}"', f"superlink_port = {port}"]))
        written = made.coordinator / "nginx.conf"
        written.write_text(written.read_text().replace(":8000;", f":{port};"))
        main = folder / "main.conf"
        main.write_text(MAIN.format(folder=folder, settings=written))
        nginx = subprocess.Popen([program, "-c", main, "-p", folder])
        try:
            made.start_coordinator()
            made.join(*made.site_data)
            yield made
        finally:
            nginx.terminate()
            nginx.wait()


@pytest.mark.slow
def test_a_federation_goes_through_nginx(behind_nginx: Rig, simulated: Simulated) -> None:
    run = behind_nginx.begin_run(federation_file())
    assert behind_nginx.outcome(run) is None, behind_nginx.logs()
    assert same_weights(run, simulated.folder)
    shown = behind_nginx.do("site", "check", behind_nginx.folder / "site-1")
    assert "FAIL" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("path", OUTSIDE)
def test_nginx_passes_on_nothing_else(behind_nginx: Rig, path: str) -> None:
    asked = behind_nginx.folder.parent / "nginx0" / "asked.log"
    before = len(asked.read_text().splitlines())
    with visit(behind_nginx) as connection:
        connection.request("POST", path, b"", {"content-type": "application/protobuf"})
        assert connection.getresponse().status in (400, 404)

    def logged() -> list[str]:
        return [line for line in asked.read_text().splitlines()[before:] if f" {path} " in line]

    behind_nginx.wait("nginx's log", lambda: bool(logged()), patience_s=10)
    assert [line.rpartition("-> ")[2] for line in logged()] == ["-"], "nginx answered by itself"
