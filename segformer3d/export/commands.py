"""What `segfed export` does and prints: a model in the formats of other programs, checked, with its model card."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from segformer3d.errors import ConfigurationError
from segformer3d.export.bundle import FOLDER, write_bundle
from segformer3d.export.card import Card, ExportedFile, make_card
from segformer3d.export.card_text import card_text, file_text
from segformer3d.export.graph import Agreement, trace
from segformer3d.export.onnx_file import require_onnx, write_onnx
from segformer3d.export.torch_file import write_torch
from segformer3d.files import storage_errors, write_json, write_text, write_whole
from segformer3d.loading import load_model
from segformer3d.model import SegFormer3D
from segformer3d.terminal import make_console

BUNDLE, TORCH, ONNX = "monai-bundle", "torch-export", "onnx"
FORMATS = (BUNDLE, TORCH, ONNX)
_GRAPHS = {TORCH: ("model.pt2", write_torch), ONNX: ("model.onnx", write_onnx)}
CARD_TEXT, CARD_FILE = "MODEL_CARD.md", "model_card.json"
# What a card should state, where the command can be told of it.
_REMEDIES = {"run": "--run", "evaluation": "--evaluation", "licence": "--licence"}


def export_and_print(
    model: str,
    format: Sequence[str] | None,  # noqa: A002 - the name of the option
    out: str,
    task: str | None,
    run: str | None,
    evaluation: str | None,
    licence: str | None,
    norms: str | None,
) -> None:
    """Write a model in one or several formats, and its card, into a new folder: all of it or nothing.

    Raises:
        ConfigurationError: a format is unknown, the folder is not empty, or run or evaluation are another model's.
        SegfedError: the model is damaged, a package is missing, a check has failed, or the disk is full.
    """
    formats, folder = _known(format or [BUNDLE]), Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not an empty folder; choose another --out")
    if ONNX in formats:
        require_onnx()
    console = make_console()
    with console.status("exporting"):
        loaded = load_model(Path(model), task, norms)
        card = make_card(Path(model), loaded, _path(run), _path(evaluation), licence)
        card = write_whole(folder, partial(write_export, loaded.network, card, formats))
    _print(console, folder, card)


def write_export(network: SegFormer3D, card: Card, formats: Sequence[str], folder: Path) -> Card:
    """Fill a folder, and return the card with the files that are in it.

    Raises:
        ExportError: what was written does not compute what the model computes.
        StorageError: the folder cannot be written.
    """
    files = []
    if BUNDLE in formats:
        files.append(_described(folder, write_bundle(folder / FOLDER, network, card)))
    graphs = [_GRAPHS[asked] for asked in formats if asked in _GRAPHS]
    if graphs:
        program = trace(network, card.task)
        for name, write in graphs:
            agreement = write(folder / name, program, network, card.task, _facts(card))
            files.append(_described(folder, folder / name, agreement))
    whole = replace(card, files=tuple(files))
    write_text(folder / CARD_TEXT, card_text(whole))
    write_json(folder / CARD_FILE, whole.to_json())
    return whole


def _known(asked: Sequence[str]) -> list[str]:
    """The formats that are asked for, each once."""
    for name in asked:
        if name not in FORMATS:
            raise ConfigurationError(f"--format takes {', '.join(FORMATS)} (one or several), got {name!r}")
    return [name for name in FORMATS if name in asked]


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _facts(card: Card) -> Mapping[str, str]:
    """What a single file says of the model in it, as texts."""
    return {
        "segfed": card.segfed,
        "task": json.dumps(card.task.to_json()),
        "weights_sha256": card.weights_sha256,
        "input": "float32 patches (batch, contrast, x, y, z), intensities scaled as the task says, axes in RAS+ order",
        "output": f"logits (batch, channel, x, y, z) of a {card.task.activation}",
    }


def _described(folder: Path, path: Path, check: Agreement | None = None) -> ExportedFile:
    with storage_errors(path):
        content = path.read_bytes()
    return ExportedFile(str(path.relative_to(folder)), len(content), hashlib.sha256(content).hexdigest(), check)


def _print(console: Console, folder: Path, card: Card) -> None:
    for file in card.files:
        console.print(file_text(file), soft_wrap=True)
    missing = [name for name in _REMEDIES if getattr(card, name) is None]
    if missing:
        options = ", ".join(_REMEDIES[name] for name in missing)
        console.print(f"The model card does not state {', '.join(missing)}; say it with {options}", soft_wrap=True)
    console.print(f"Everything is in {folder} (start with {CARD_TEXT})", soft_wrap=True)
