"""One federation of three sites on real cases, simulated once and then played between processes."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .rig import SEGFED, Rig, environment

CASES, SITES, ROUNDS, SEED = 20, 3, 3, 5
MODEL = """
[model]
embed_dims = [8, 16]
num_heads = [1, 2]
mlp_ratios = [2, 2]
depths = [1, 1]
sr_ratios = [2, 1]
patch_kernel_size = [3, 3]
patch_stride = [2, 2]
patch_padding = [1, 1]
decoder_head_embedding_dim = 16

[grid]
patch = [16, 16, 16]
"""
FEDERATION = f'task = "hippocampus"\nrounds = {ROUNDS}\nseed = {SEED}\nminimum_sites = {SITES}\n{MODEL}'


@dataclass(frozen=True)
class Simulated:
    """A finished simulation: its run folder, its sites' data, and the threads of a site."""

    folder: Path
    sites: tuple[Path, ...]
    threads: int


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Simulated:
    """The federation on one machine."""
    folder = tmp_path_factory.mktemp("simulated")
    data, out = _some_cases(shared / "data" / "hippocampus", folder / "data"), folder / "run"
    (folder / "settings.toml").write_text(MODEL)
    numbers = ["--sites", str(SITES), "--rounds", str(ROUNDS), "--seed", str(SEED)]
    places = ["--data", str(data), "--config", str(folder / "settings.toml"), "--out", str(out)]
    command = [*SEGFED, "simulate", *numbers, *places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    threads = json.loads((out / "run.json").read_text())["threads"]
    return Simulated(out, tuple(out / "sites" / f"site-{number}" for number in range(1, SITES + 1)), threads)


@pytest.fixture(scope="package")
def rig(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The same sites, with a coordinator, all of them running."""
    with Rig(tmp_path_factory.mktemp("rig"), simulated.sites, simulated.threads) as made:
        made.start_coordinator()
        made.join(*made.site_data)
        yield made


def _some_cases(source: Path, target: Path) -> Path:
    described = json.loads((source / "dataset.json").read_text())
    described["training"] = described["training"][:CASES]
    for entry in described["training"]:
        for kind in ("image", "label"):
            (target / entry[kind]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / entry[kind], target / entry[kind])
    (target / "dataset.json").write_text(json.dumps(described))
    return target
