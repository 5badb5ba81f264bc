"""Section: a study of several runs, one after another with all cores each, and as many at once as keep the cores busy.

Both are whole commands in fresh processes, from the synthetic hospitals to the table, in folders of their own.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import interleaved, spoken, table, times_as_fast
from benchmarks.settings import Settings
from segformer3d.files import write_json
from simulations.sharing import share_cores
from simulations.study import Study, asked_for
from simulations.study_runs import STUDY_FILE

ASKED = {"scenario": "unequal", "strategy": "fedavg,fednova", "seeds": 2}


def measure_studies(settings: Settings) -> dict[str, Any] | None:
    """Seconds of the same study in both ways; None where it is left out."""
    if not settings.study_turns:
        return None
    study = asked_for({**ASKED, "rounds": settings.rounds, "device": settings.device})
    assert isinstance(study, Study), "two strategies are a study"
    ways = {"one after another": share_cores(study.settings, 1), "as shared": study.sharing}
    plays = {way: partial(_play, replace(study, sharing=sharing)) for way, sharing in ways.items()}
    found = interleaved(plays, settings.study_turns)
    return {
        "runs": len(study.strategies) * len(study.seeds),
        "rounds": settings.rounds,
        "sites": study.settings.sites,
        "sharing": {way: asdict(sharing) for way, sharing in ways.items()},
        "seconds": {way: asdict(series) for way, series in found.items()},
        "told": {way: spoken(series) for way, series in found.items()},
        "times_as_fast": times_as_fast(found["one after another"], found["as shared"]),
    }


def describe_studies(found: Mapping[str, Any] | None) -> str:
    """The section in Markdown."""
    if found is None:
        return "Not measured: left out of the quick report."
    rows = [
        (way, *(str(found["sharing"][way][name]) for name in ("runs", "sites", "threads")), told)
        for way, told in found["told"].items()
    ]
    about = f"{found['runs']} runs of {found['rounds']} rounds, {found['sites']} synthetic hospitals of unequal sizes"
    header = ("runs are played", "runs at once", "sites of each", "threads of each", "time")
    return f"{about}: shared, {found['times_as_fast']:.2f} times as fast.\n\n{table(header, rows)}"


def _play(study: Study) -> float:
    """Seconds of the command that plays a study from its beginning."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / STUDY_FILE, study.to_json())
        began = time.perf_counter()
        words = [sys.executable, "-m", "segfed", "simulate", "--resume", folder]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
        return time.perf_counter() - began
