"""MONAI bundles. Oracle: `segfed predict` on the same images, voxel for voxel; MONAI's own runner and verifiers."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from numpy.typing import NDArray

from segformer3d.benchmark_tasks import HIPPOCAMPUS
from segformer3d.cases import find_images
from segformer3d.errors import CaseError
from segformer3d.export.bundle import write_bundle
from segformer3d.export.card import Card
from segformer3d.model import SegFormer3D
from segformer3d.prediction import NIFTI, predict_cases
from segformer3d.tasks import Structure, Task

from .conftest import MakeModel

CPU = torch.device("cpu")
# What a bundle must do without: everything of segfed that it does not bring along, and what segfed needs.
NOT_NEEDED = ("segfed", "client", "server", "simulations", "flwr", "opacus", "rich", "safetensors", "matplotlib")


def bundle_of(task: Task, make_model: MakeModel, folder: Path) -> tuple[SegFormer3D, Path]:
    model = make_model(task)
    card = Card("0.0", task, task.model.norm, 1, "0" * 64, None, None, None, None, ())
    write_bundle(folder, model, card)
    return model, folder


def run_here(bundle: Path, images: Path, out: Path) -> None:
    """MONAI's runner in this process: fast, but with the package that is imported already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's own, of names that it deprecates and uses
        workflow = ConfigWorkflow(
            str(bundle / "configs" / "inference.json"),
            workflow_type="infer",
            logging_file=False,
            bundle_root=str(bundle),
            dataset_dir=str(images),
            output_dir=str(out),
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()


def run_process(bundle: Path, images: Path, out: Path, elsewhere: Path) -> str:
    """MONAI's runner as a shell starts it, from another folder, where none of `NOT_NEEDED` can be imported."""
    absent = elsewhere / "absent"
    absent.mkdir(parents=True)
    (absent / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({NOT_NEEDED!r}))\n")
    with (bundle / "segformer3d" / "__init__.py").open("a") as file:
        file.write("\nprint('this is the source in the bundle')\n")
    options = {
        "config_file": bundle / "configs" / "inference.json",
        "bundle_root": bundle,
        "dataset_dir": images,
        "output_dir": out,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *words],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(absent)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_same_labels(model: SegFormer3D, task: Task, images: Path, labels: Path, scratch: Path) -> None:
    """The label maps are those of `segfed predict`: names, types, positions and every voxel."""
    ours, aside = predict_cases(model, task, find_images(images), scratch, CPU, lambda _: None, way=NIFTI)
    assert not aside
    assert sorted(path.name for path in labels.iterdir()) == sorted(prediction.path.name for prediction in ours)
    for prediction in ours:
        expected, found = nib.load(prediction.path), nib.load(labels / prediction.path.name)
        values = np.asanyarray(expected.dataobj)
        assert len(np.unique(values)) > 1, "a map of one label would prove little"
        np.testing.assert_array_equal(np.asanyarray(found.dataobj), values)
        np.testing.assert_allclose(found.affine, expected.affine, rtol=0, atol=1e-6)
        assert found.get_data_dtype() == np.int16


def scan(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    image = generator.gamma(2.0, 300.0, shape).astype(np.float32)
    image[: shape[0] // 3] = 0  # outside the body
    return image


ROTATED = np.array([[0, -0.7, 0, 5], [-1.3, 0, 0.1, 7], [0, 0.05, 2.0, -9], [0, 0, 0, 1.0]])  # Y and X swapped, flipped


def test_another_orientation_and_spacing_with_mirrored_copies(tiny_task, make_model, write_nifti, tmp_path) -> None:
    task = replace(tiny_task, spacing=(1.0, 1.0, 1.0), flip_axes=(0, 2), mirror=True)
    write_nifti(tmp_path / "images" / "a.nii.gz", scan((17, 25, 10), 1), ROTATED)
    write_nifti(tmp_path / "images" / "b.nii", scan((9, 8, 20), 2).astype(np.int16))  # smaller than a window
    model, bundle = bundle_of(task, make_model, tmp_path / "bundle")
    run_here(bundle, tmp_path / "images", tmp_path / "labels")
    assert_same_labels(model, task, tmp_path / "images", tmp_path / "labels", tmp_path / "ours")


def test_nested_regions_from_one_file_a_contrast(tiny_task, make_model, write_nifti, tmp_path) -> None:
    """Sigmoid regions, a box around the foreground, several files a case, and one 4D file."""
    regions = (Structure("whole", (1, 2, 3)), Structure("core", (2, 3)), Structure("enhancing", (3,)))
    task = replace(
        tiny_task,
        modalities=("t1", "t2"),
        structures=regions,
        label_values=(0, 1, 2, 3),
        activation="sigmoid",
        intensity="zscore_nonzero",
        prior=(0.5, 0.4, 0.3),
        model=replace(tiny_task.model, in_channels=2),
    )
    for channel in range(2):
        write_nifti(
            tmp_path / "images" / f"case_{channel:04d}.nii.gz", scan((30, 16, 15), channel), np.diag([-1, -1, 1, 1.0])
        )
    write_nifti(tmp_path / "images" / "other.nii.gz", scan((14, 26, 13, 2), 5))
    model, bundle = bundle_of(task, make_model, tmp_path / "bundle")
    run_here(bundle, tmp_path / "images", tmp_path / "labels")
    assert_same_labels(model, task, tmp_path / "images", tmp_path / "labels", tmp_path / "ours")


def test_a_real_scan_in_a_process_without_segfed(shared: Path, make_model, tmp_path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    name = "hippocampus_001.nii.gz"
    (images / name).symlink_to(shared / "data" / "hippocampus" / "imagesTr" / name)
    model, bundle = bundle_of(HIPPOCAMPUS, make_model, tmp_path / "bundle")
    told = run_process(bundle, images, tmp_path / "labels", tmp_path / "elsewhere")
    assert "this is the source in the bundle" in told
    assert_same_labels(model, HIPPOCAMPUS, images, tmp_path / "labels", tmp_path / "ours")


def test_the_weights_are_a_state_dict_and_nothing_else(tiny_task, make_model, tmp_path) -> None:
    model, bundle = bundle_of(tiny_task, make_model, tmp_path)
    path = bundle / "models" / "model.pt"
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    stored = torch.load(path, weights_only=True)
    assert stored.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(stored[name], value)


def test_monai_finds_metadata_and_network_as_they_should_be(tiny_task, make_model, tmp_path) -> None:
    """MONAI's verifier fetches the schema from the web; here lies what the specification asks for in its place."""
    _, bundle = bundle_of(tiny_task, make_model, tmp_path)
    configs = bundle / "configs"
    tensor = {
        "type": "object",
        "required": [
            "type",
            "format",
            "num_channels",
            "spatial_shape",
            "dtype",
            "value_range",
            "is_patch_data",
            "channel_def",
        ],
    }
    tensors = {"type": "object", "minProperties": 1, "additionalProperties": tensor}
    texts = (
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "task",
        "description",
        "authors",
        "copyright",
    )
    schema = {
        "type": "object",
        "properties": {
            **{name: {"type": "string", "minLength": 1} for name in texts},
            "required_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
            "network_data_format": {
                "properties": {"inputs": tensors, "outputs": tensors},
                "required": ["inputs", "outputs"],
            },
        },
        "required": [*texts, "schema", "required_packages_version", "network_data_format"],
    }
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        verify_metadata(meta_file=str(configs / "metadata.json"), filepath=str(tmp_path / "schema.json"))
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(configs / "metadata.json"),
            config_file=str(configs / "inference.json"),
            device="cpu",
        )


def test_a_scan_that_the_task_does_not_take_is_refused(tiny_task, make_model, write_nifti, tmp_path) -> None:
    image = scan((14, 13, 12), 1)
    image[3, 4, 5] = np.nan
    write_nifti(tmp_path / "images" / "a.nii.gz", image)
    _, bundle = bundle_of(tiny_task, make_model, tmp_path / "bundle")
    with pytest.raises(RuntimeError) as raised:
        run_here(bundle, tmp_path / "images", tmp_path / "labels")
    cause: BaseException | None = raised.value
    while cause is not None and not isinstance(cause, CaseError):
        cause = cause.__cause__
    assert "1 voxels that are NaN" in str(cause)
    assert not list((tmp_path / "labels").glob("*"))
