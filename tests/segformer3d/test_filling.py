"""`segfed data prepare`: killed in the middle it goes on, and it says in advance when the disk is too small."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segformer3d.cases import find_cases
from segformer3d.dataset import is_prepared, prepare, prepare_case
from segformer3d.errors import ConfigurationError
from segformer3d.files import StorageError
from segformer3d.filling import check_room, drop_leftovers, entry_bytes, prepare_and_print
from segformer3d.nifti import read_grid
from segformer3d.quarantine import QUARANTINE_FILE, write_quarantine
from segformer3d.task import Task
from segformer3d.tasks import task_of_folder
from tests.conftest import MakeDataset, WriteNifti
from tests.segformer3d.test_dataset import scans, times

NAMES = tuple(f"case{number:02d}" for number in range(12))


def run(folder: Path, cache: Path, **asked: object) -> str:
    """What the command prints."""
    options = {"task": None, "quarantine": None, "leave_out_published": False, "workers": 1, **asked}
    with redirect_stdout(io.StringIO()) as printed:
        prepare_and_print(str(folder), out=str(cache), **options)  # type: ignore[arg-type]
    return printed.getvalue()


def contents(cache: Path) -> dict[str, bytes]:
    """Every array in a cache."""
    return {str(path.relative_to(cache)): path.read_bytes() for path in sorted(cache.rglob("*.npy"))}


def test_a_cache_is_filled_once_and_training_takes_it_as_it_is(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder, cache = make_dataset(tmp_path / "data", scans(*NAMES)), tmp_path / "site" / "work" / "cache"
    first = run(folder, cache)
    assert "12 cases of task tiny, 0 of them prepared already" in first
    assert "12 prepared, 0 set aside" in first
    before = times(cache)
    assert "12 of them prepared already" in run(folder, cache)
    data = prepare(folder, task_of_folder(folder), cache)
    assert data.describe() == "12 used, 0 set aside"
    assert times(cache) == before, "nothing is prepared again"


def test_what_cannot_be_prepared_is_said_with_its_reason(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(tmp_path / "data", scans("a", "b", "c", "d"))
    (folder / "imagesTr" / "a.nii.gz").write_bytes(b"broken")
    write_quarantine(folder / QUARANTINE_FILE, {"b": "a duplicate"})
    write_quarantine(tmp_path / "own.csv", {"c": "moved"})
    told = run(folder, tmp_path / "cache", quarantine=str(tmp_path / "own.csv"))
    assert "1 prepared, 3 set aside" in told
    for line in ("a: the image file is", "b: quarantined: a duplicate", "c: quarantined: moved"):
        assert f"  set aside {line}" in told


def test_killed_in_the_middle_it_goes_on(tmp_path: Path, make_dataset: MakeDataset) -> None:
    """kill -9 once some cases are there: the next run finds them, and the cache is that of an undisturbed run."""
    generator = np.random.default_rng(0)
    label = np.zeros((60, 60, 60), np.int16)
    label[20:40, 20:40, 20:30], label[20:40, 20:40, 30:40] = 1, 2
    cases = {name: (generator.normal(size=label.shape).astype(np.float32), label) for name in NAMES}
    folder, cache = make_dataset(tmp_path / "data", cases), tmp_path / "cache"
    command = [sys.executable, "-m", "segfed", "data", "prepare", str(folder), "--out", str(cache), "--workers", "2"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while len(list((cache / "tickets").glob("[!.]*.json"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    there = sum(is_prepared(case, task_of_folder(folder), cache) for case in find_cases(folder))
    assert 3 <= there < len(NAMES), "it was in the middle"
    before = times(cache)
    told = run(folder, cache)
    assert f"12 cases of task tiny, {there} of them prepared already" in told
    assert f"{len(NAMES) - there} prepared, 0 set aside" in told
    kept = {name: when for name, when in times(cache).items() if name in before}
    assert sum(kept[name] == before[name] for name in kept) >= 3 * there, "what was whole was not written again"
    run(folder, tmp_path / "undisturbed")
    whole = {name: array for name, array in contents(cache).items() if not Path(name).name.startswith(".")}
    assert whole == contents(tmp_path / "undisturbed")


def test_what_a_killed_process_half_wrote_is_dropped_when_it_is_old(tmp_path: Path) -> None:
    entry = tmp_path / "cases" / "0123"
    entry.mkdir(parents=True)
    old, young, whole = entry / ".aa.image.npy", entry / ".bb.image.npy", entry / "image.npy"
    for path in (old, young, whole):
        path.write_bytes(b"x")
    os.utime(old, (0, time.time() - 7200))
    os.utime(whole, (0, 0))
    drop_leftovers(tmp_path)
    assert sorted(entry.iterdir()) == [young, whole]


# --- Room ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0), (2.0, 1.0, 0.7)])
def test_the_room_a_case_takes_is_known_from_its_header(
    tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset, spacing: tuple[float, float, float] | None
) -> None:
    affine = np.array([[0, 0, 2.0, 0], [-1.0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1]])
    task = replace(tiny_task, spacing=spacing)
    (case,) = find_cases(make_dataset(tmp_path / "data", scans("a"), affine=affine))
    entry = prepare_case(case, task, tmp_path / "cache").folder
    headers = 2 * 128
    arrays = sum((entry / name).stat().st_size for name in ("image.npy", "label.npy"))
    assert entry_bytes(case, task) == arrays - headers


def test_the_grid_in_a_header_is_that_of_the_scan(tmp_path: Path, write_nifti: WriteNifti) -> None:
    affine = np.array([[0, 0, 2.0, 0], [-1.0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1]])
    for name in ("image.nii", "image.nii.gz"):
        path = write_nifti(tmp_path / name, np.zeros((4, 5, 6, 2), np.float32), affine)
        assert read_grid(path, "image") == ((6, 4, 5), (2.0, 1.0, 1.5))


def test_too_little_room_is_said_before_anything_is_written(
    tmp_path: Path, make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = make_dataset(tmp_path / "data", scans("a", "b", "c")), tmp_path / "cache"
    needed = sum(entry_bytes(case, task_of_folder(folder)) for case in find_cases(folder))
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"the 3 cases that are to be prepared take 6\.0 kB .* choose another disk"):
        run(folder, cache)
    assert not cache.exists()
    usage = usage._replace(free=needed)
    check_room(find_cases(folder), task_of_folder(folder), cache)


def test_a_disk_that_fills_up_all_the_same_is_one_line_and_what_is_there_stays(
    tmp_path: Path, make_dataset: MakeDataset, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    small, large = (
        scans("a"),
        {"b": (np.random.default_rng(0).normal(size=(30, 30, 30)), np.zeros((30, 30, 30), np.int16))},
    )
    folder, cache = make_dataset(tmp_path / "data", {**small, **large}), tmp_path / "cache"
    with full_disk(20_000), pytest.raises(StorageError, match=r"cannot write .* free space") as refused:
        run(folder, cache)
    assert "\n" not in str(refused.value)
    assert "2 cases of task tiny, 1 of them prepared already" in run(folder, cache)


def test_an_interrupted_one_says_how_to_go_on(tmp_path: Path, make_dataset: MakeDataset) -> None:
    """Ctrl-C, as a terminal sends it: to the whole group."""
    generator = np.random.default_rng(0)
    cases = {name: (generator.normal(size=(60, 60, 60)), np.zeros((60, 60, 60), np.int16)) for name in NAMES}
    folder, cache = make_dataset(tmp_path / "data", cases), tmp_path / "cache"
    command = [sys.executable, "-m", "segfed", "data", "prepare", str(folder), "--out", str(cache)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list((cache / "tickets").glob("[!.]*.json")) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert said.decode().strip() == "segfed: stopped; what is prepared stays; run it again to go on"


def test_processes_are_one_or_more(tmp_path: Path, make_dataset: MakeDataset) -> None:
    with pytest.raises(ConfigurationError, match="--workers must be 1 or more, got 0"):
        run(make_dataset(tmp_path / "data", scans("a")), tmp_path / "cache", workers=0)
