"""The one command, as a user starts it, on the smallest amounts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_quick_report_has_every_section(tmp_path: Path, shared: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(tmp_path)]
    command += ["--scans", str(shared / "data" / "hippocampus")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report.json").read_text())
    assert list(found) == [
        "machine",
        "networks",
        "growth",
        "data",
        "inference",
        "metrics",
        "training",
        "federations",
        "studies",
        "exchange",
        "privacy",
        "deployment",
    ]
    assert found["networks"]["rows"]["segfed"]["parameters"] == 4_525_251
    assert found["inference"]["largest_logit_difference"] < 1e-4
    for line in (tmp_path / "report.md").read_text().splitlines():
        assert line in done.stdout
