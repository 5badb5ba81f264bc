"""What exporting a model costs, how exact the exported graphs are, and how fast they run.

For each task a fresh model is exported as a PyTorch graph and as ONNX. A patch then goes through the model, the graph
and ONNX Runtime in turn, and all three sets of logits are compared with the model's in float64:

    python -m benchmarks.exports --tasks hippocampus phantom --repeats 15
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure import interleaved, spoken, table, times_as_fast
from segformer3d.export.graph import INPUT, OUTPUT, trace
from segformer3d.export.onnx_file import onnx_bytes
from segformer3d.export.torch_file import torch_bytes
from segformer3d.fit import initial_model
from segformer3d.model import SegFormer3D
from segformer3d.tasks import TASKS, Task, get_task

HEADER = ("", "file", "made in", "off float64 by", "a patch", "times as fast as the model")
Run = Callable[[Tensor], NDArray[Any]]


def main() -> None:
    """Measure the tasks that were asked for, and print a Markdown table for each."""
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.tasks:
        task = get_task(name)
        model = initial_model(task, seed=0).eval()
        torch.nn.init.normal_(model.decoder.classify.weight, std=0.5)  # logits as large as a trained model's
        print(f"\n{name}, {' x '.join(map(str, task.patch))} voxels, {arguments.threads} threads\n")
        print(table(HEADER, _measure(model, task, arguments.repeats, arguments.threads)), flush=True)


def _measure(model: SegFormer3D, task: Task, repeats: int, threads: int) -> list[Sequence[str]]:
    began = time.perf_counter()
    program = trace(model, task)
    traced = time.perf_counter() - began
    graph, made_graph = _timed(partial(torch_bytes, program, {}))
    onnx, made_onnx = _timed(partial(onnx_bytes, program, {}))
    runs: dict[str, Run] = {
        "the model": partial(_run, model),
        "torch.export": _torch_run(graph),
        "ONNX Runtime": _onnx_run(onnx, threads),
    }
    files = {"torch.export": (graph, traced + made_graph), "ONNX Runtime": (onnx, traced + made_onnx)}
    patch = torch.randn(1, len(task.modalities), *task.patch, generator=torch.Generator().manual_seed(0))
    series = interleaved({name: partial(_seconds, run, patch) for name, run in runs.items()}, repeats)
    logits = {name: run(patch) for name, run in runs.items()}
    exact = _run(model.double(), patch.double())
    rows: list[Sequence[str]] = []
    for name, times in series.items():
        content, seconds = files.get(name, (b"", 0.0))
        about = (f"{len(content) / 1e6:.1f} MB", f"{seconds:.1f} s") if content else ("", "")
        off = f"{np.abs(logits[name] - exact).max():.1e} of {np.abs(exact).max():.0f}"
        rows.append((name, *about, off, spoken(times), f"{times_as_fast(series['the model'], times):.2f}"))
    return rows


def _timed(make: Callable[[], bytes]) -> tuple[bytes, float]:
    began = time.perf_counter()
    return make(), time.perf_counter() - began


@torch.inference_mode()
def _run(network: torch.nn.Module, patch: Tensor) -> NDArray[Any]:
    logits: Tensor = network(patch)
    return logits.numpy()


def _torch_run(content: bytes) -> Run:
    return partial(_run, torch.export.load(io.BytesIO(content)).module())


def _onnx_run(content: bytes, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(patch: Tensor) -> NDArray[Any]:
        logits: NDArray[Any] = session.run([OUTPUT], {INPUT: patch.numpy()})[0]
        return logits

    return run


def _seconds(run: Run, patch: Tensor) -> float:
    began = time.perf_counter()
    run(patch)
    return time.perf_counter() - began


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description="Exported graphs.")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS), help="default: all")
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="turns of the comparison (default 15)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of each runtime")
    return parser


if __name__ == "__main__":
    main()
