"""Section: a whole scan in four contrasts, by MONAI's sliding window and by ours.

The scan has 240 × 240 × 155 voxels, fewer in a quick run without one. Stock is the plain transcription in MONAI's
`sliding_window_inference` over the whole volume. With equal settings ours blends the same windows of the same logits.
The product's own defaults look at the foreground only, and go from the scan as it was read to masks on its own grid.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from benchmarks.measure import Series, interleaved, spoken, table, times_as_fast
from benchmarks.plain import PlainSegFormer3D
from benchmarks.settings import Settings
from benchmarks.worker import Deeds, Worker, process_peak_mb, seconds_of
from segformer3d.cases import CaseFiles, case_name, find_cases
from segformer3d.checkpoint import from_published, load
from segformer3d.inference import OVERLAP, WINDOWS_AT_ONCE, decide, predict_masks
from segformer3d.intensity import scale_intensity
from segformer3d.metrics import score_case
from segformer3d.model_description import load_task
from segformer3d.tasks import Task, get_task
from segformer3d.volumes import Volume, read_case
from segformer3d.windows import slide

TASK = get_task("brats2017")
EVERY = 5  # of the cases, for the Dice of a trained model
_SUFFIXES = ("flair", "t1", "t1ce", "t2")  # of the files of a scan, in the order of the task's contrasts


def measure_inference(settings: Settings) -> dict[str, Any]:
    """Time and memory of the three ways, how far their logits differ, and what the defaults do to a trained model."""
    make = partial(scan_deeds, settings.glioma, settings.scan_shape, settings.device)
    with (
        Worker(make, product=False, threads=settings.threads) as stock,
        Worker(make, product=True, threads=settings.threads) as ours,
    ):
        ways = {"stock": partial(stock.ask, "stock"), "equal": partial(ours.ask, "equal")}
        seconds = interleaved(ways | {"defaults": partial(ours.ask, "defaults")}, settings.slow_repeats)
        difference = float(np.abs(stock.ask("stock logits") - ours.ask("equal logits")).max())
    memory = {}
    for way, product in (("stock", False), ("equal", True), ("defaults", True)):
        with Worker(make, product=product, threads=settings.threads) as worker:
            memory[way] = worker.ask("memory", way)
    return {
        "seconds": {way: series.seconds for way, series in seconds.items()},
        "ratios": {way: times_as_fast(seconds["stock"], series) for way, series in seconds.items()},
        "mb": memory,
        "largest_logit_difference": difference,
        "dice": _dice_of_ways(settings),
    }


def describe_inference(found: Mapping[str, Any]) -> str:
    """The section in Markdown."""
    rows = [
        (way, f"{found['ratios'][way]:.2f}", spoken(Series(found["seconds"][way])), f"{found['mb'][way]:.0f} MB")
        for way in found["seconds"]
    ]
    text = table(("way", "ratio", "time", "memory"), rows)
    text += "\n\nLargest difference of a logit between stock and equal settings, over the largest logit: "
    text += f"{found['largest_logit_difference']:.1e}."
    if found["dice"]:
        stock, defaults = found["dice"]["stock"], found["dice"]["defaults"]
        text += (
            f" Mean Dice of the trained model over {found['dice']['cases']} cases: {stock:.4f} by MONAI's window in "
            f"float32, {defaults:.4f} by the defaults ({defaults - stock:+.4f}; {found['dice']['half']:.4f} in 16 bit)."
        )
    return text


def scan_deeds(glioma: Path | None, shape: tuple[int, int, int], device_name: str) -> Deeds:
    """The three ways over one scan; weights are random, but the same in all."""
    device = torch.device(device_name)
    torch.manual_seed(0)
    plain = PlainSegFormer3D(len(TASK.modalities), TASK.channels)
    torch.nn.init.normal_(plain.segformer_decoder.linear_pred.weight, std=0.05)
    ours = from_published(plain.state_dict()).to(device)
    plain = plain.to(device).eval()
    volume = _read_scan(glioma) if glioma else _synthetic_scan(shape)
    image = scale_intensity(volume.image, TASK)

    def stock() -> Tensor:
        with torch.inference_mode():
            x_BCXYZ = torch.from_numpy(image)[None]
            logits: Tensor = sliding_window_inference(
                x_BCXYZ, TASK.patch, WINDOWS_AT_ONCE[device.type], plain, OVERLAP, "gaussian", sw_device=device
            )
        return logits[0]

    def equal() -> Tensor:
        at_once = WINDOWS_AT_ONCE[device.type]
        with torch.inference_mode():
            return torch.cat(list(slide(ours, image, TASK.patch, overlap=OVERLAP, at_once=at_once, device=device)), 1)

    ways = {"stock": stock, "equal": equal, "defaults": lambda: predict_masks(ours, TASK, volume, device)}
    deeds: dict[str, Any] = {name: lambda _, way=way: seconds_of(way, device) for name, way in ways.items()}
    for name in ("stock", "equal"):
        deeds[f"{name} logits"] = lambda _, way=ways[name]: _thinned(way())
    return {**deeds, "memory": lambda name: process_peak_mb(ways[name])}


def _thinned(logits_KXYZ: Tensor) -> np.ndarray[Any, Any]:
    """Every 27th logit, over the largest of all."""
    return (logits_KXYZ[:, ::3, ::3, ::3] / logits_KXYZ.abs().max()).cpu().numpy()


def _read_scan(folder: Path) -> Volume:
    images = tuple(next(folder.glob(f"*_{suffix}.nii*")) for suffix in _SUFFIXES)
    return read_case(CaseFiles(case_name(images[0]), images, None), TASK)


def _synthetic_scan(shape: tuple[int, int, int]) -> Volume:
    """Noise in a box, with as much empty space around it as a head leaves."""
    box = tuple(slice(size // 6, -size // 6) for size in shape)
    image = np.zeros((4, *shape), np.float32)
    inside = image[:, *box]
    inside[:] = np.random.default_rng(0).normal(1000, 200, inside.shape)
    return Volume(image, None, np.eye(4), np.eye(4))


def _dice_of_ways(settings: Settings) -> dict[str, float] | None:
    """Mean Dice of a trained model by MONAI's window in float32, by the defaults, and by the defaults in 16 bit."""
    if settings.trained is None or settings.scans is None:
        return None
    model, task = load(settings.trained).to(settings.device), load_task(settings.trained)
    scores: dict[str, list[float]] = {"stock": [], "defaults": [], "half": []}
    for files in find_cases(settings.scans)[::EVERY]:
        volume = read_case(files, task)
        for way, masks in _masks_of_ways(model, task, volume, torch.device(settings.device)).items():
            truth = task.structure_masks(np.asarray(volume.label))
            scores[way].extend(score.dice for score in score_case(masks, truth, volume.spacing))
    cases = len(scores["stock"]) // len(task.structures)
    return {"cases": cases, **{way: float(np.mean(values)) for way, values in scores.items()}}


def _masks_of_ways(model: Any, task: Task, volume: Volume, device: torch.device) -> dict[str, Any]:
    def half(x_BCXYZ: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits: Tensor = model(x_BCXYZ)
        return logits

    def activate(logits: Tensor) -> Tensor:
        return logits.float().softmax(1) if task.activation == "softmax" else logits.float().sigmoid()

    model.eval()
    image = torch.from_numpy(scale_intensity(volume.image, task))[None]
    window = partial(
        sliding_window_inference, image, task.patch, 1, overlap=OVERLAP, mode="gaussian", padding_mode="replicate"
    )
    with torch.inference_mode():
        stock = decide(window(predictor=lambda x: activate(model(x)))[0], task)
        in_half = decide(window(predictor=lambda x: activate(half(x)))[0], task)
    return {"stock": stock, "defaults": predict_masks(model, task, volume, device, mirror=False), "half": in_half}
