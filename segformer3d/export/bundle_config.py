"""The two files that make a folder a MONAI bundle: what it is (`metadata.json`) and how it predicts (`inference.json`).

The layout and the names are those of the MONAI bundle specification
(https://docs.monai.io/en/stable/mb_specification.html); "@name" refers to another entry, and what begins with "$" is
Python.
"""

from collections.abc import Mapping
from typing import Any

from segformer3d.model import SegFormer3D
from segformer3d.tasks import Task

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
WEIGHTS = "models/model.pt"
_PARTS = "segformer3d.export.monai_parts."
_KEY, _PREDICTION = "image", "pred"


def inference_config(model: SegFormer3D, task: Task) -> dict[str, Any]:
    """How MONAI's runner goes from the images in `dataset_dir` to the label maps in `output_dir`."""
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/labels'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "task": {"_target_": "segformer3d.tasks.task_from_json", "values": task.to_json()},
        "network_def": {"_target_": "segformer3d.model.SegFormer3D", **model.config.to_json()},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing()},
        "dataset": {
            "_target_": "Dataset",
            "data": {"_target_": f"{_PARTS}list_images", "path": "@dataset_dir"},
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": _part("SlidingWindows"),
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing()},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": f"$@bundle_root + '/{WEIGHTS}'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            },
            {"_target_": "StatsHandler", "iteration_log": False},
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _preprocessing() -> list[dict[str, Any]]:
    return [
        {"_target_": "LoadImaged", "keys": _KEY, "reader": "NibabelReader"},
        {"_target_": "EnsureChannelFirstd", "keys": _KEY},
        {"_target_": "Orientationd", "keys": _KEY, "axcodes": "RAS", "labels": None},
        _part("CheckImaged", keys=_KEY),
        _part("ScaleIntensityd", keys=_KEY),
        _part("ToTaskGridd", keys=_KEY),
    ]


def _postprocessing() -> list[dict[str, Any]]:
    """Back to the image's own grid and orientation as probabilities, and only there to labels."""
    return [
        {"_target_": "Invertd", "keys": _PREDICTION, "transform": "@preprocessing", "orig_keys": _KEY}
        | {"nearest_interp": False},
        _part("ToLabeld", keys=_PREDICTION),
        {
            "_target_": "SaveImaged",
            "keys": _PREDICTION,
            "output_dir": "@output_dir",
            "output_postfix": "",
            "output_dtype": "$torch.int16",
            "separate_folder": False,
            "resample": False,
        },
    ]


def _part(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": _PARTS + name, **arguments, "task": "@task"}


def metadata(task: Task, description: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle says of itself.

    Args:
        task: what its model segments.
        description: the texts that only the model card knows: `version`, `description`, `intended_use`, `copyright`,
            `authors`, `data_source`, and the `eval_metrics`.
    """
    return {
        "schema": SCHEMA,
        **_versions(),
        "task": f"Segmentation of {', '.join(s.name for s in task.structures)} in {', '.join(task.modalities)}",
        **description,
        "data_type": "nibabel",
        "image_classes": f"{', '.join(task.modalities)}, intensities scaled: {task.intensity}",
        "label_classes": "; ".join(f"{s.name}: {', '.join(map(str, s.labels))}" for s in task.structures),
        "pred_classes": f"{task.channels} channels of {task.activation} logits: {', '.join(_channels(task))}",
        "references": [
            "Perera S, Navard P, Yilmaz A. SegFormer3D: an Efficient Transformer for 3D Medical Image Segmentation. "
            "CVPR workshops, 2024. arXiv:2404.10156"
        ],
        "network_data_format": {
            "inputs": {_KEY: _tensor(task, task.modalities, "magnitude")},
            "outputs": {_PREDICTION: _tensor(task, _channels(task), "segmentation")},
        },
    }


def _versions() -> dict[str, Any]:
    """Of what the bundle was made and tried with."""
    from importlib.metadata import version

    return {
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            "nibabel": version("nibabel"),
            "pytorch-ignite": "0.5",
            "fire": "0.7",
        },
    }


def _channels(task: Task) -> list[str]:
    names = [structure.name for structure in task.structures]
    return ["background", *names] if task.activation == "softmax" else names


def _tensor(task: Task, channels: tuple[str, ...] | list[str], kind: str) -> dict[str, Any]:
    return {
        "type": "image",
        "format": kind,
        "num_channels": len(channels),
        "spatial_shape": list(task.patch),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(index): name for index, name in enumerate(channels)},
    }
