"""Section: the data gate and the preparation of cases, over what no program can do without.

What cannot be left out is getting the bytes from the disk and decompressing them, and for the preparation writing its
entry and waiting until it is on the disk. The share of the time that is spent otherwise is the programs' own. Before
every turn the system is asked to forget the files, so that the disk is read, not the memory.
"""

import gzip
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from isal import igzip

from benchmarks.measure import Series, interleaved, spoken, table
from benchmarks.settings import Settings
from benchmarks.worker import Deeds, Worker
from segformer3d.case_checks import for_task
from segformer3d.cases import find_cases
from segformer3d.data_check.measure import measure_case
from segformer3d.dataset import prepare_case
from segformer3d.files import write_bytes
from segformer3d.layouts.files import CaseFiles, case_name
from segformer3d.task import Task
from segformer3d.tasks import get_task, task_of_folder

EVERY = 4  # of the small cases
_SUFFIXES = ("flair", "t1", "t1ce", "t2")  # of the files of a scan, in the order of the task's contrasts

Cases = tuple[Sequence[CaseFiles], Task]


def measure_data(settings: Settings) -> dict[str, Any]:
    """Seconds of each, by dataset; nothing for what was not given."""
    given = {"glioma, 240 x 240 x 155 x 4": settings.glioma, "hippocampus crops": settings.scans}
    found = {}
    for name, folder in given.items():
        if folder is None:
            continue
        with (
            tempfile.TemporaryDirectory() as place,
            Worker(
                partial(data_deeds, folder, Path(place), name.startswith("glioma")),
                product=True,
                threads=settings.threads,
            ) as worker,
        ):
            deeds = {deed: partial(worker.ask, deed) for deed in ("read", "read by zlib", "gate", "write", "prepare")}
            seconds = interleaved(deeds, settings.repeats)
            found[name] = {
                "cases": worker.ask("cases"),
                "seconds": {deed: series.seconds for deed, series in seconds.items()},
            }
    return found


def describe_data(found: Mapping[str, Any]) -> str:
    """The section in Markdown."""
    if not found:
        return "Not measured: neither a scan nor a folder of cases was given."
    rows = []
    for name, measured in found.items():
        seconds = {deed: Series(tuple(values)) for deed, values in measured["seconds"].items()}
        gate = _share_outside(seconds["gate"], seconds["read"])
        whole = _share_outside(seconds["prepare"], seconds["read"], seconds["write"])
        cells = [spoken(seconds[deed]) for deed in ("read", "read by zlib", "gate", "write", "prepare")]
        rows.append((f"{name} ({measured['cases']})", *cells[:3], f"{gate:.0%}", *cells[3:], f"{whole:.0%}"))
    header = ("cases", "read", "by zlib", "gate", "otherwise", "write", "prepare", "otherwise")
    return table(header, rows)


def _share_outside(whole: Series, *needed: Series) -> float:
    """The share of the median time that is not spent on what is needed."""
    return 1 - sum(part.median for part in needed) / whole.median


def data_deeds(folder: Path, place: Path, one_scan: bool) -> Deeds:
    """Seconds for all cases of a folder, or for its one scan."""
    cases, task = _one_scan(folder) if one_scan else _small_cases(folder)
    entry = [path.read_bytes() for case in cases for path in prepare_case(case, task, place).folder.iterdir()]
    paths = [path for case in cases for path in case.paths]
    sizes = [_size(path) for path in paths]

    def read(opened: Callable[[Path], gzip.GzipFile]) -> None:
        for path, size in zip(paths, sizes, strict=True):
            with opened(path) as stream:
                stream.readinto(bytearray(size))
                stream.read()

    def write() -> None:
        for number, content in enumerate(entry):
            write_bytes(place / "written" / f"{number}.npy", content)

    def prepare() -> None:
        for case in cases:
            prepare_case(case, task, place / "again")

    ways: dict[str, Callable[[], object]] = {
        "read": lambda: read(igzip.open),
        "read by zlib": lambda: read(gzip.open),
        "gate": lambda: [measure_case(case, task=task) for case in cases],
        "write": write,
        "prepare": prepare,
    }
    deeds: dict[str, Any] = {name: lambda _, way=way: _timed(way, paths, place) for name, way in ways.items()}
    return {**deeds, "cases": lambda _: len(cases)}


def _timed(way: Callable[[], object], paths: Sequence[Path], place: Path) -> float:
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for written in ("written", "again"):
        shutil.rmtree(place / written, ignore_errors=True)
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def _size(path: Path) -> int:
    with igzip.open(path) as stream:
        return len(stream.read())


def _one_scan(folder: Path) -> Cases:
    images = tuple(next(folder.glob(f"*_{suffix}.nii*")) for suffix in _SUFFIXES)
    label = next(folder.glob("*_seg.nii*"))
    task = get_task("brats2017")
    return [for_task(CaseFiles(case_name(label), images, label), task)], task


def _small_cases(folder: Path) -> Cases:
    return find_cases(folder)[::EVERY], task_of_folder(folder)
