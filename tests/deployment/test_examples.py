"""The examples of the docs, as far as this machine can try them, and what they promise: writing nowhere else."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .federation import SITES, Simulated, federation_file
from .kill_matrix import same_weights
from .rig import ROOT, Rig

EXAMPLES = ROOT / "docs" / "examples"
LAST = f"site-{SITES}"
SEGFED = Path(sys.executable).parent / "segfed"
# As systemd's ProtectSystem=strict and PrivateTmp: all is read-only but one folder (and devices, and the kernel's own
# file systems), with an empty place for temporary files.
READ_ONLY = (
    'mount --bind "$0" "$0" && mount -o remount,bind,ro / && mount -t tmpfs tmpfs /var/tmp '
    '&& export TMPDIR=/var/tmp && exec "$@"'
)


@pytest.mark.parametrize("unit", sorted(EXAMPLES.glob("*.service")), ids=lambda path: path.stem)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze")
    told = tmp_path / unit.name
    told.write_text(unit.read_text().replace("/opt/segfed/bin/segfed", str(SEGFED)))
    done = subprocess.run([program, "verify", told], capture_output=True, text=True, check=False)
    mine = [line for line in (done.stdout + done.stderr).splitlines() if unit.stem in line]
    assert mine == []
    assert "UMask=0077" in unit.read_text()


def test_the_container_starts_a_command_that_exists(rig: Rig) -> None:
    """A container engine cannot run here; what its image runs can."""
    text = (EXAMPLES / "site.Containerfile").read_text()
    (entry,) = re.findall(r'^ENTRYPOINT \["segfed", "(\w+)"\]$', text, re.M)
    (deed,) = re.findall(r'^CMD \["(\w+)", "/srv/segfed"\]$', text, re.M)
    assert rig.attempt(entry, deed, "--help").returncode == 0


@pytest.mark.slow
def test_a_site_writes_nothing_outside_its_folder(rig: Rig, simulated: Simulated) -> None:
    folder = rig.folder / LAST
    probe = subprocess.run(
        ["unshare", "--mount", "sh", "-c", READ_ONLY, folder, "touch", folder / "probe"], check=False
    )
    if probe.returncode:
        pytest.skip("needs root and mount namespaces")
    rig.leave(LAST)
    rig.start_site(LAST, prefix=[str(shutil.which("unshare")), "--mount", "sh", "-c", READ_ONLY, str(folder)])
    try:
        rig.wait("the site", lambda: rig.is_connected(LAST))
        run = rig.begin_run(federation_file())
        assert rig.outcome(run) is None, rig.logs()
        assert same_weights(run, simulated.folder)
    finally:
        rig.leave(LAST)
        rig.join(LAST)
