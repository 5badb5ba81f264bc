"""What starting the last layer near the label prior brings, on real data.

Trains the same model twice on the same patches, once from the published initialisation and once from the label prior,
and prints the loss of each epoch and the validation Dice after it:

    python -m benchmarks.initialisation DATASET_FOLDER --epochs 5
"""

import argparse
import tempfile
from pathlib import Path
from typing import Literal

import torch

from segformer3d.dataset import SiteData, prepare
from segformer3d.model import SegFormer3D
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task, task_of_folder
from segformer3d.training import Part, train_part, validate

SEED = 0
Init = Literal["published", "prior"]
_INITS: tuple[Init, ...] = ("published", "prior")


def main() -> None:
    """Measure both and print a Markdown table."""
    arguments = _parser().parse_args()
    task = task_of_folder(Path(arguments.data))
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(arguments.data), task, Path(folder) / "cache")
        print(f"{task.name}: {data.describe()}, {len(data.train)} train, {len(data.validation)} validate")
        print("| last layer | " + " | ".join(f"epoch {n + 1}" for n in range(arguments.epochs)) + " |")
        print("| --- |" + " --- |" * arguments.epochs)
        for name in _INITS:
            cells = _train(_model(task, name), data, task, arguments.epochs, Path(folder) / f"{name}.safetensors")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _model(task: Task, final_init: Init) -> SegFormer3D:
    torch.manual_seed(SEED)
    bias = task.output_bias if final_init == "prior" else None
    return SegFormer3D(**task.model.to_json(), final_init=final_init, output_bias=bias)


def _train(model: SegFormer3D, data: SiteData, task: Task, epochs: int, moments: Path) -> list[str]:
    device, settings, cells = torch.device("cpu"), TrainingSettings(), []
    for index in range(epochs):
        part = Part(index, epochs, 1, SEED, "benchmark")
        before = moments if index else None
        report = train_part(
            model, data.train, task, settings, part, device=device, optimizer_from=before, optimizer_to=moments
        )
        dice = validate(model, data.validation, task, device=device).dice
        cells.append(f"loss {report.loss:.3f}, Dice {sum(dice) / len(dice):.3f}")
    return cells


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Published initialisation against the label prior.")
    parser.add_argument("data", help="labelled cases in the Decathlon layout")
    parser.add_argument("--epochs", type=int, default=5)
    return parser


if __name__ == "__main__":
    main()
