"""`segfed simulate --exchange`: the same weights whichever engine and after a stop, the bytes in the summary.

Oracles: bits, and the sizes of the messages of an fp32 run.
"""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from .commands import command, one_line, run, summary, wait_for


@pytest.fixture(scope="module")
def words(dataset, config) -> list[object]:
    """As the run of `finished`, which sends its weights as they are."""
    return ["simulate", "--data", dataset, "--config", config, "--sites", 2, "--rounds", 3]


@pytest.fixture(scope="module")
def compact(tmp_path_factory, words) -> Path:
    out = tmp_path_factory.mktemp("compact") / "done"
    run(*words, "--parallel", 1, "--exchange", "compact", "--out", out)
    return out


def test_the_summary_tells_the_bytes_each_way_and_they_are_fewer(compact, finished):
    packed, plain = summary(compact), summary(finished)
    assert (packed["exchange"], plain["exchange"]) == ("compact", "fp32")
    rounds = [json.loads(line) for line in (compact / "rounds.jsonl").read_text().splitlines()]
    closing = json.loads((compact / "result.json").read_text())
    for way in ("bytes_up", "bytes_down"):
        assert packed[f"all_{way}"] == sum(record[way] for record in rounds) + closing[way]
        used = sum(site[way] for record in rounds for site in record["sites"])
        assert used < packed[f"all_{way}"] < used + (2.2 * packed["bytes_down"] if way == "bytes_down" else 20_000)
        assert packed[way] < 0.5 * plain[way]
    assert packed["weights_sha256"] != plain["weights_sha256"]


@pytest.mark.slow
def test_worker_processes_and_ray_give_the_same_weights_to_the_last_bit(words, tmp_path):
    """Sites one after another in one process, two at a time in worker processes, and on Flower's simulation engine.

    On one core every site has one thread, however many sites work at once.
    """
    asked = (*words, "--exchange", "compact", "--out")
    several = {"local": ["--parallel", 2], "ray": ["--parallel", 2, "--engine", "ray"]}
    for folder, more in {"one": ["--parallel", 1], **several}.items():
        on_one_core = ["taskset", "-c", str(min(os.sched_getaffinity(0))), *command(*asked, tmp_path / folder, *more)]
        subprocess.run(on_one_core, check=True, capture_output=True, timeout=600)
    expected = summary(tmp_path / "one")["weights_sha256"]
    for folder in several:
        assert summary(tmp_path / folder)["weights_sha256"] == expected, folder


def test_a_run_whose_last_round_was_cut_off_ends_with_the_weights_of_one_that_was_whole(compact, tmp_path):
    """As a kill leaves it when the sites have answered and the server has not put their answers together."""
    out = Path(shutil.copytree(compact, tmp_path / "cut", symlinks=True))
    assert len(list(out.glob("work/site-?/*/residual-0003.safetensors"))) == 2
    for name in ("state-0003.safetensors", "last.safetensors", "result.json", "summary.json", "report.html"):
        (out / name).unlink()
    run("simulate", "--resume", out)
    assert summary(out)["weights_sha256"] == summary(compact)["weights_sha256"]


@pytest.mark.slow
def test_a_run_that_was_killed_in_a_round_ends_with_the_weights_of_one_that_was_not(compact, words, tmp_path):
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        command(*words, "--parallel", 1, "--exchange", "compact", "--out", out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(out / "work" / "site-1" / run_name(out, process) / "residual-0002.safetensors", process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "summary.json").exists()
    run("simulate", "--resume", out)
    assert summary(out)["weights_sha256"] == summary(compact)["weights_sha256"]


def run_name(out: Path, process: "subprocess.Popen[str]") -> str:
    wait_for(out / "state-0001.safetensors", process)
    return json.loads((out / "run.json").read_text())["run"]


def test_an_unknown_exchange_is_one_line_that_lists_the_known_ones(words, tmp_path):
    line = one_line(run(*words, "--exchange", "int3", "--out", tmp_path / "none", code=1))
    assert line == "segfed: exchange must be one of fp32, fp16, int8, int4, int2, sparse, compact, got 'int3'"
    assert not (tmp_path / "none").exists()
