"""The federation that these tests play: a few real cases at two sites or three, and a tiny network."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.deployment import TINY
from segformer3d.cases import case_name, find_cases

from ..commands import run
from .rig import Rig

CASES, SITES, ROUNDS, SEED = 20, 2, 2, 5  # in the second round all have memories
LARGER: Mapping[str, int] = {"sites": 3, "rounds": 3}  # to lose a site, or a round, and still be a federation
SIDE = 24  # voxels, of what is left of a scan
# Memories at both ends, and an exchange's losses; an update is one array, where each of many would be a request.
HOW = {"strategy": "scaffold", "exchange": "compact"}


@dataclass(frozen=True)
class Simulated:
    """A finished simulation: its run folder, its sites' data, and the threads of a site."""

    folder: Path
    sites: tuple[Path, ...]
    threads: int


def federation_file(**settings: int | str) -> str:
    """What a coordinator submits; without another minimum all sites must take part."""
    sites = settings.pop("sites", SITES)
    plain = {"rounds": ROUNDS, "seed": SEED, "minimum_sites": sites, **HOW, **settings}
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in plain.items())
    return f'task = "hippocampus"\n{lines}{TINY}'


def simulate(cases: Path, folder: Path, **settings: int | str) -> Simulated:
    """The same federation on one machine, for the weights that must come out."""
    data, out = _some_cases(cases, folder / "data"), folder / "run"
    (folder / "settings.toml").write_text(TINY)
    options = {"sites": SITES, "rounds": ROUNDS, "seed": SEED, "parallel": 1, **HOW, **settings}
    words = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    run("simulate", "--data", data, "--config", folder / "settings.toml", "--out", out, *words)
    threads = json.loads((out / "run.json").read_text())["threads"]
    return Simulated(out, tuple(sorted((out / "sites").glob("site-*"))), threads)


@contextmanager
def running(simulated: Simulated, folder: Path) -> Iterator[Rig]:
    """The same sites, with a coordinator, all of them started."""
    with Rig(folder, simulated.sites, simulated.threads) as made:
        made.start_coordinator()
        made.join(*made.site_data)
        yield made


def _some_cases(source: Path, target: Path) -> Path:
    """The first cases, a patient each, cut to what lies around the hippocampus: whole scans take long to validate."""
    described = json.loads((source / "dataset.json").read_text())
    of_one_patient = {case.patient: case.name for case in reversed(find_cases(source))}.values()
    apart = [entry for entry in described["training"] if case_name(Path(entry["label"])) in of_one_patient]
    described["training"] = apart[:CASES]
    for entry in described["training"]:
        label = nib.load(source / entry["label"])
        box = _middle(np.asarray(label.dataobj) > 0)
        for kind, whole in (("image", nib.load(source / entry["image"])), ("label", label)):
            (target / entry[kind]).parent.mkdir(parents=True, exist_ok=True)
            nib.save(whole.slicer[box], target / entry[kind])
    (target / "dataset.json").write_text(json.dumps(described))
    return target


def _middle(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """A cube around a mask, as far as it is inside the scan."""
    middle = [int(places.mean()) for places in np.nonzero(mask)]
    starts = [min(max(0, at - SIDE // 2), size - SIDE) for at, size in zip(middle, mask.shape, strict=True)]
    return tuple(slice(start, start + SIDE) for start in starts)
