"""Section: what a federation adds to its sites' bare steps, from a few sites to many, on this machine.

Every federation is the real one: site folders, ServerApp and ClientApp, the local engine with as many processes as
cores. Bare steps are the sites' optimizer steps and measurements, packed onto the cores without a gap; everything else
is overhead: messages, checks, averaging, checkpoints of server and sites, waiting for each other.
"""

import math
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import table
from benchmarks.settings import Settings
from benchmarks.worker import Deeds, Worker, process_memory
from client.weights import weights_of
from segformer3d.fit import initial_model
from segformer3d.tasks import task_of_folder
from server.app import make_server_app
from server.federation import FederationSettings
from server.state import begin
from simulations.engines import ClientSource, EngineSettings, run_federation
from simulations.partitions import write_partition
from simulations.report import Journal, makespan
from simulations.settings import cores

SAMPLE_SECONDS = 0.2


def measure_federations(settings: Settings) -> dict[str, Any] | None:
    """Time, overhead and memory of federations of several sizes; None without cases."""
    if settings.scans is None:
        return None
    rows = []
    for sites in settings.sites:
        with Worker(partial(federation_deeds, settings), product=True, threads=1) as worker:
            rows.append(worker.ask("federate", sites))
    return {"rows": rows, "at_once": cores()}


def describe_federations(found: Mapping[str, Any] | None) -> str:
    """The section in Markdown."""
    if found is None:
        return "Not measured: no folder of cases was given."
    rows = [
        (
            str(row["sites"]),
            str(row["cases"]),
            f"{row['overhead_share']:.1%}",
            f"{row['round_seconds']:.2f} s",
            f"{row['bare_seconds']:.2f} s",
            f"{row['round_seconds'] / row['sites']:.2f} s",
            f"{row['peak_mb']:.0f} MB",
        )
        for row in found["rows"]
    ]
    header = ("sites", "training cases", "overhead", "round", "bare steps", "a site", "peak memory")
    return f"{found['at_once']} sites at a time; memory is that of all processes together.\n\n{table(header, rows)}"


def federation_deeds(settings: Settings) -> Deeds:
    """A whole federation of as many sites as asked."""
    return {"federate": partial(_federate, settings)}


def _federate(settings: Settings, sites: int) -> dict[str, Any]:
    assert settings.scans is not None, "measure_federations leaves this section out without cases"
    task, at_once = task_of_folder(settings.scans), min(sites, cores())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = write_partition(settings.scans, folder / "sites", "iid", sites, seed=0)
        federation = FederationSettings(task, rounds=settings.rounds + 1, minimum_sites=sites, again_s=0)
        journal = Journal(at_once, ())
        state = begin("benchmark", federation, weights_of(initial_model(task, 0)))
        server = make_server_app(federation, folder / "run", state, journal.note)
        source = _source(places.sites, folder, settings.device)
        with _peak_memory() as peak:
            engine = EngineSettings(at_once, folder / "engine.log")
            run_federation("local", server, source, sites, engine)
    rounds = journal.rounds[1:]  # the first begins while the processes still import
    bare = [makespan(at_once, [s["training_seconds"] + s["validation_seconds"] for s in r["sites"]]) for r in rounds]
    total = math.fsum(record["seconds"] for record in rounds)
    return {
        "sites": sites,
        "cases": sum(site["cases"] for site in rounds[0]["sites"]),
        "round_seconds": total / len(rounds),
        "bare_seconds": math.fsum(bare) / len(rounds),
        "overhead_share": total / math.fsum(bare) - 1,
        "peak_mb": peak[0] / 1e3,
    }


def _source(sites: tuple[Path, ...], folder: Path, device: str) -> ClientSource:
    common = {"device": device, "threads": 1, "delta": None}
    described = [{"name": p.name, "data": str(p), "work": str(folder / "work" / p.name), **common} for p in sites]
    return ClientSource.of("simulations.clients:make_app", sites=described)


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """The most that this process and its descendants hold together during the block, in kB."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], sum(process_memory(p).get("VmRSS", 0) for p in _family(str(os.getpid()))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def _family(process: str) -> list[str]:
    """A process and all its descendants."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    children = [child for task in tasks for child in _read(task).split()]
    return [process, *(member for child in children for member in _family(child))]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:  # it ended meanwhile
        return ""
