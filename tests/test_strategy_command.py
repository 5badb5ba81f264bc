"""`segfed simulate --strategy`: with memory at sites and server, the same bits whichever engine. Oracle: bits.

By day tests/simulations/engines/test_memory_at_sites.py says the same of two processes.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .commands import NORMS_KEPT, TINY, blob_case, run, run_process, summary

ALL_AT_ONCE = 'exchange = "compact"\n[strategy]\nname = "scaffold"\nlocal_norms = true\npersonal = 0.1\n'


@pytest.fixture(scope="module")
def words(tmp_path_factory, make_dataset) -> list[object]:
    """Settings files in one folder; everything at once has an exchange with losses, too."""
    folder = tmp_path_factory.mktemp("blobs")
    data = make_dataset(folder / "data", {f"case_{number:02d}": blob_case(number) for number in range(8)})
    (folder / "plain.toml").write_text(TINY)
    (folder / "all.toml").write_text(ALL_AT_ONCE + TINY)
    return ["simulate", "--data", data, "--sites", 2, "--rounds", 2, "--config", folder]


@pytest.fixture
def one_core() -> Iterator[None]:
    """On one core every site has one thread, however many sites work at once; processes inherit it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def play(words: list[object], strategy: str, out: Path, *more: object) -> dict[str, str]:
    """A run; hashes of what it left at the server and at the sites."""
    *start, folder = words
    chosen = [f"{folder}/all.toml"] if strategy == "all" else [f"{folder}/plain.toml", "--strategy", strategy]
    (run_process if "ray" in more else run)(*start, *chosen, "--out", out, *more)
    name = json.loads((out / "run.json").read_text())["run"]
    kept = [
        path
        for kind in ("memory", "personal", "residual")
        for path in out.glob(f"work/site-?/{name}/{kind}-0002.safetensors")
    ]
    found = {f"{path.parts[-3]}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
    return {"weights": summary(out)["weights_sha256"], **found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "engine"),
    [(name, engine) for engine in ("local", "ray") for name in ("all", "scaffold", "fedbn", "ditto")],
)
@pytest.mark.usefixtures("one_core")
def test_what_is_remembered_is_the_same_to_the_last_bit(words, tmp_path, strategy, engine):
    one = play(words, strategy, tmp_path / "one", "--parallel", 1)
    two = play(words, strategy, tmp_path / "two", "--parallel", 2, "--engine", engine)
    assert two == one
    assert len(one) == (7 if strategy == "all" else 3)
    norms = summary(tmp_path / "two")["norms"]
    assert norms == (NORMS_KEPT if strategy in ("all", "fedbn") else None)
    assert (f"the norms of the model are {NORMS_KEPT}" in (tmp_path / "two" / "report.md").read_text()) == bool(norms)
    assert ("`segfed evaluate` with `--norms mean`" in (tmp_path / "two" / "README.md").read_text()) == bool(norms)
