"""`segfed data prepare`: fill a cache ahead of a run, with progress, and go on where an interrupted one stopped.

Entries of the cache are whole or absent, and their names cover what they were made from (`segformer3d.dataset`): going
on is starting again.
"""

import math
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from rich.console import Console

from segformer3d.allocator import keep_freed_memory
from segformer3d.cases import find_cases
from segformer3d.dataset import PreparedCase, SetAside, SiteData, is_prepared, prepare_cases
from segformer3d.errors import CaseError, ConfigurationError
from segformer3d.files import StorageError, free_bytes
from segformer3d.held_out import training_cases
from segformer3d.layouts.files import CaseFiles
from segformer3d.nifti import read_grid
from segformer3d.processes import choose_processes
from segformer3d.quarantine import with_quarantine
from segformer3d.task import Task
from segformer3d.tasks import choose_task
from segformer3d.terminal import make_console, plain_bytes, progress_bar
from segformer3d.volumes import size_on_grid

# Bytes of a voxel in the cache: float32 for each contrast, int16 for the label.
_CONTRAST_BYTES, _LABEL_BYTES = 4, 2
_LEFTOVER_S = 3600.0


def prepare_and_print(
    folder: str, task: str | None, quarantine: str | None, leave_out_published: bool, workers: int | None, out: str
) -> None:
    """Prepare every case of a folder that is not in the cache yet.

    Raises:
        StorageError: there is too little room, or the disk is full all the same.
        SegfedError: an option or the data is not as it must be.
    """
    if workers is not None and workers < 1:
        raise ConfigurationError(f"--workers must be 1 or more, got {workers}")
    keep_freed_memory()
    console, data, cache = make_console(), Path(folder), Path(out)
    chosen = choose_task(task, data)
    found = with_quarantine(find_cases(data), None if quarantine is None else Path(quarantine))
    cases = training_cases(data, found, chosen.name, leave_out=leave_out_published)
    drop_leftovers(cache)
    with console.status("looking at what is there"):
        missing = [case for case in cases if not _is_there(case, chosen, cache)]
        check_room(missing, chosen, cache)
    there = len(cases) - len(missing)
    console.print(f"{len(cases)} cases of task {chosen.name}, {there} of them prepared already", soft_wrap=True)
    made = _prepare(console, missing, chosen, cache, workers)
    _say(console, made, cache)


def _is_there(files: CaseFiles, task: Task, cache: Path) -> bool:
    try:
        return is_prepared(files, task, cache)
    except CaseError:  # it will be set aside, with the reason
        return False


def check_room(cases: Sequence[CaseFiles], task: Task, cache: Path) -> None:
    """See that these cases fit on the cache's disk.

    Raises:
        StorageError: they do not.
    """
    needed, free = sum(entry_bytes(case, task) for case in cases), free_bytes(cache)
    if needed > free:
        raise StorageError(
            f"the {len(cases)} cases that are to be prepared take {plain_bytes(needed)} in {cache}, and "
            f"{plain_bytes(free)} are free; free {plain_bytes(needed - free)} or choose another disk with --out"
        )


def entry_bytes(files: CaseFiles, task: Task) -> int:
    """What a case will take in the cache, by the header of its first image; 0 for one that cannot be prepared."""
    if files.label is None or files.quarantined is not None:
        return 0
    try:
        size, spacing_mm = read_grid(files.images[0], "image")
    except CaseError:
        return 0
    voxels = math.prod(size_on_grid(size, spacing_mm, task))
    return voxels * (_CONTRAST_BYTES * len(task.modalities) + _LABEL_BYTES)


def _prepare(console: Console, cases: Sequence[CaseFiles], task: Task, cache: Path, workers: int | None) -> SiteData:
    processes = choose_processes(path for case in cases for path in case.paths) if workers is None else workers
    try:
        with progress_bar(console, "preparing") as bar:
            number = count(1)

            def on_case(_: PreparedCase | SetAside) -> None:
                bar.show(next(number), len(cases), "preparing")

            return prepare_cases(cases, task, cache, validation_share=0.0, workers=processes, on_case=on_case)
    except KeyboardInterrupt as stopped:
        raise KeyboardInterrupt("what is prepared stays; run it again to go on") from stopped


def _say(console: Console, made: SiteData, cache: Path) -> None:
    console.print(f"{len(made.train)} prepared, {len(made.set_aside)} set aside; the cache is {cache}", soft_wrap=True)
    for item in made.set_aside:
        console.print(f"  set aside {item.case}: {item.reason}", style="yellow", soft_wrap=True)


def drop_leftovers(cache: Path) -> None:
    """Remove what a killed process had half written, unless it is so young that another may be writing it."""
    before = time.time() - _LEFTOVER_S
    for path in cache.glob("*/*/.*.npy"):
        if path.stat().st_mtime < before:
            path.unlink(missing_ok=True)
