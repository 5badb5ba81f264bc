"""`segfed` commands as tests play them: a tiny dataset and network, in this process or in one of their own."""

import io
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import segfed

# What a model of FedBN's says of itself.
NORMS_KEPT = "the mean of the sites', each of which has kept its own and measured its validation cases with them"
FASTER = "[training]\nlearning_rate = 0.01\n"  # few steps suffice to learn something
TINY = """
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
patch = [12, 12, 12]
"""


def blob_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball (label 1) with a brighter half (label 2) in noise."""
    generator = np.random.default_rng(seed)
    centre = generator.uniform(5, 9, 3)
    x, y, z = np.indices((14, 13, 12))
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < 16
    label = np.where(inside, np.where(x > centre[0], 2, 1), 0).astype(np.uint8)
    image = generator.normal(1, 0.2, label.shape) + label  # above 0, as the voxels of an MRI are
    return (image * generator.uniform(50, 5000)).astype(np.float32), label


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "segfed", *map(str, words)]


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it printed."""

    code: int
    stdout: str
    stderr: str


def run(*words: object, code: int = 0) -> Done:
    """The command in this process, which has PyTorch loaded already; what needs a process of its own starts one."""
    done = run_here(words)
    assert done.code == code, done
    return done


def run_here(words: Iterable[object]) -> Done:
    """The same, however it ends."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = segfed.main([str(word) for word in words])
        except SystemExit as ended:  # of --help, and of a command line that is off
            code = int(ended.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def run_process(*words: object, code: int = 0) -> Done:
    """The command as a shell starts it."""
    process = subprocess.run(command(*words), capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == code, process
    assert "Traceback" not in process.stderr + process.stdout
    return Done(process.returncode, process.stdout, process.stderr)


def run_and_stop(stop_at: Path, *words: object, how: signal.Signals = signal.SIGINT) -> Done:
    """The command as a shell starts it, until a file is there; then somebody presses Ctrl-C (or kills it).

    Where Python happens to be in a finalizer or a callback of a weak reference it drops that, and says so: then it is
    pressed again, as people do.
    """
    with tempfile.TemporaryFile("w+") as printed, tempfile.NamedTemporaryFile("w+") as errors:
        process = subprocess.Popen(command(*words), stdout=printed, stderr=errors, text=True)
        try:
            wait_for(stop_at, process)
            pressed = 0
            while process.poll() is None:
                if pressed <= Path(errors.name).read_text().count("Exception ignored in"):
                    process.send_signal(how)
                    pressed += 1
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
        printed.seek(0)
        errors.seek(0)
        return Done(process.returncode, printed.read(), errors.read())


def one_line(done: Done) -> str:
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("segfed: ")
    return lines[0]


def federation(dataset: Path, config: Path, out: Path) -> list[object]:
    """One site at a time, so that no worker processes have to start."""
    words = ["--data", dataset, "--config", config, "--out", out, "--sites", 2, "--rounds", 3, "--parallel", 1]
    return ["simulate", *words]


def simulate(dataset: Path, config: Path, out: Path, *more: object, code: int = 0) -> Done:
    return run(*federation(dataset, config, out), *more, code=code)


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
