"""A MONAI bundle: a folder that MONAI's own runner predicts with, whether segfed is installed or not.

    configs/inference.json, metadata.json    how it predicts, and what it is
    models/model.pt                          the weights: a state dict, which `weights_only` loads
    segformer3d/                             network and transforms, as source
    docs/README.md, LICENSE                  the model card and how to run; the licence of the source

The label maps are those of `segfed predict`, voxel for voxel on the same machine.
"""

import io
import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch

import segformer3d
from segformer3d.export.bundle_config import WEIGHTS, inference_config, metadata
from segformer3d.export.card import Card
from segformer3d.export.card_text import NOT_STATED, card_text, intended_use
from segformer3d.files import storage_errors, write_bytes, write_json, write_text
from segformer3d.model import SegFormer3D

FOLDER = "monai-bundle"
_NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def write_bundle(folder: Path, model: SegFormer3D, card: Card) -> Path:
    """Write a bundle into a folder and return the file of its weights.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(folder / "configs" / "inference.json", inference_config(model, card.task))
    write_json(folder / "configs" / "metadata.json", metadata(card.task, _description(card)))
    write_bytes(folder / WEIGHTS, _state_dict(model))
    with storage_errors(folder / "segformer3d"):
        shutil.copytree(Path(segformer3d.__file__).parent, folder / "segformer3d", ignore=_NOT_SOURCE)
    write_text(folder / "LICENSE", distribution("segfed").read_text("licenses/LICENSE") or NOT_STATED)
    write_text(folder / "docs" / "README.md", _HOW_TO_RUN + card_text(card))
    return folder / WEIGHTS


def _state_dict(model: SegFormer3D) -> bytes:
    stored = io.BytesIO()
    torch.save({name: value.detach().cpu() for name, value in model.state_dict().items()}, stored)
    return stored.getvalue()


def _description(card: Card) -> dict[str, Any]:
    """What MONAI's schema asks for and the card answers. A version for each model: weights are never the same."""
    version = f"{card.segfed}+{card.weights_sha256[:12]}"
    measured = card.evaluation
    return {
        "version": version,
        "changelog": {version: f"exported by segfed {card.segfed}"},
        "name": card.task.name,
        "description": f"SegFormer3D for the task {card.task.name}; docs/README.md is its model card",
        "intended_use": intended_use(card.task),
        "authors": NOT_STATED,
        "copyright": f"weights: {card.licence or NOT_STATED}; source: Apache-2.0",
        "data_source": NOT_STATED,
        "eval_metrics": {} if measured is None else {"mean_dice": measured.mean_dice["mean"]},
    }


_HOW_TO_RUN = f"""# How to run this bundle

```sh
pip install "monai>=1.5" "torch>=2.9" nibabel isal fire pytorch-ignite
python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir LABELS
```

`IMAGES` is a NIfTI file or a folder of them (contrasts in one 4D file, or as `NAME_0000.nii.gz`, `NAME_0001.nii.gz` and
so on); `LABELS` gets a label map for each, in the image's own orientation, spacing and size. `segformer3d/` holds the
network and the transforms as source, so segfed need not be installed. `{WEIGHTS}` holds the weights and no code.

"""
