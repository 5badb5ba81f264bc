"""A real patient through the whole path: LPS, 240 x 240 x 155 voxels, negative voxels, and no enhancing tumour.

The oracle for what a model says is a network that looks at one voxel at a time: what it must say is worked out from the
files with NumPy alone, in their own orientation.
"""

import csv
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segformer3d.cases import CaseFiles, find_cases
from segformer3d.checkpoint import save
from segformer3d.intensity import scale_intensity
from segformer3d.measuring import Contest, forecast_of, measure_cases
from segformer3d.model import SegFormer3D
from segformer3d.prediction import NIFTI, Prediction, predict_cases
from segformer3d.protocols import choose_protocol
from segformer3d.tasks import get_task, task_of_folder
from segformer3d.volumes import Volume, read_case, write_label

ROOT = Path(__file__).resolve().parents[2]
NAME = "TCGA-DU-7294"
CONTRASTS = ("flair", "t1", "t1ce", "t2")
TASK = get_task("brats2021")
CPU = torch.device("cpu")
GB = 2**30  # bytes
# A process that is started counts as its peak what its starter held (Linux hands it on at exec); this one holds little.
LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    """The dataset folder of the real case."""
    place = shared / "data" / "glioma"
    if not place.is_dir():
        pytest.skip(f"needs the glioma case at {place}")
    return place


@pytest.fixture(scope="module")
def files(folder: Path) -> CaseFiles:
    """The real case."""
    (case,) = find_cases(folder)
    return case


def stored(files: CaseFiles, number: int) -> NDArray[np.float64]:
    """A contrast as the file has it."""
    return np.asarray(nib.load(files.images[number]).dataobj, np.float64)


class VoxelByVoxel(nn.Module):
    """A network without a neighbourhood: regions by thresholds on the z-scores of FLAIR, T1ce and T2."""

    def forward(self, x_BCXYZ: Tensor) -> Tensor:
        """Logits far from 0, so that blending windows changes nothing."""
        flair, t1ce, t2 = x_BCXYZ[:, 0], x_BCXYZ[:, 2], x_BCXYZ[:, 3]
        whole = flair > 1.5
        core = whole & (t2 > 1)
        regions = (whole, core, core & (t1ce > 0.5))
        return torch.stack([torch.where(region, 20.0, -20.0) for region in regions], dim=1)


@pytest.fixture(scope="module")
def volume(files: CaseFiles) -> Volume:
    """The real case as it is read."""
    return read_case(files, TASK)


@pytest.fixture(scope="module")
def expected(files: CaseFiles) -> NDArray[np.int16]:
    """What `VoxelByVoxel` must come to, in the label values of BraTS 2021 and the axes of the file."""
    scores = []
    for number in (0, 2, 3):
        contrast = stored(files, number)
        brain = contrast[contrast != 0]
        scores.append(np.where(contrast == 0, 0, (contrast - brain.mean()) / brain.std()))
    flair, t1ce, t2 = scores
    whole = flair > 1.5
    core = whole & (t2 > 1)
    label = np.where(whole, 2, 0)
    label[core] = 1
    label[core & (t1ce > 0.5)] = 4
    return label.astype(np.int16)


def test_the_folder_tells_its_task(folder: Path, files: CaseFiles) -> None:
    assert task_of_folder(folder) is TASK
    assert (files.name, files.contrasts) == (NAME, CONTRASTS)
    assert "".join(nib.aff2axcodes(nib.load(files.images[0]).affine)) == "LPS"


def test_its_labels_come_back_voxel_for_voxel(tmp_path: Path, files: CaseFiles, volume: Volume) -> None:
    assert volume.label is not None
    assert volume.image.shape == (4, 240, 240, 155)
    write_label(tmp_path / "back.nii.gz", volume.label, volume)
    source, back = nib.load(files.label), nib.load(tmp_path / "back.nii.gz")
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(source.dataobj))
    np.testing.assert_allclose(back.affine, source.affine)
    assert nib.aff2axcodes(back.affine) == ("L", "P", "S")


def test_negative_voxels_are_brain(files: CaseFiles, volume: Volume) -> None:
    """The challenge leaves exactly 0 outside the brain; what resampling left below 0 is scaled like the rest."""
    scaled = scale_intensity(volume.image, TASK)
    for number, name in enumerate(CONTRASTS):
        contrast = stored(files, number)[::-1, ::-1]  # LPS to RAS
        brain = contrast != 0
        assert (contrast < 0).any(), name
        values = contrast[brain]
        np.testing.assert_allclose(scaled[number][brain], (values - values.mean()) / values.std(), atol=1e-5)
        assert not scaled[number][~brain].any()


def test_a_prediction_lies_on_the_files_grid_in_the_challenges_labels(
    tmp_path: Path, files: CaseFiles, expected: NDArray[np.int16]
) -> None:
    told: list[object] = []
    model: SegFormer3D = VoxelByVoxel()  # type: ignore[assignment]
    (done,), _ = predict_cases(model, TASK, [files], tmp_path, CPU, told.append, way=NIFTI)
    assert told == [Prediction(NAME, tmp_path / f"{NAME}.nii.gz")]
    predicted, source = nib.load(done.path), nib.load(files.images[0])
    np.testing.assert_array_equal(np.asarray(predicted.dataobj), expected)
    np.testing.assert_allclose(predicted.affine, source.affine)
    assert predicted.header.get_zooms() == source.header.get_zooms()
    assert set(np.unique(predicted.dataobj)) == {0, 1, 2, 4}


def test_an_evaluation_scores_what_was_predicted(files: CaseFiles, expected: NDArray[np.int16]) -> None:
    """Dice against NumPy; the enhancing part is predicted and not there, so it scores 0, and the worst distance."""
    model: SegFormer3D = VoxelByVoxel()  # type: ignore[assignment]
    contest = Contest(TASK, choose_protocol(TASK.name), partial(forecast_of, model, TASK, CPU, None), None)
    ((measured,), _) = measure_cases(contest, [files], None)
    scores = measured.result.scores
    label = np.asarray(nib.load(files.label).dataobj)
    for structure, said in zip(TASK.structures, scores, strict=True):
        truth, predicted = (np.isin(array, structure.labels) for array in (label, expected))
        assert said.dice == pytest.approx(2 * (truth & predicted).sum() / (truth.sum() + predicted.sum()))
    assert scores[2].dice == 0
    assert scores[2].hd95_mm == 373.1287  # the challenge's rule for what is not there


def peak_of(arguments: list[str]) -> int:
    """The most memory that a process of the command line held, in bytes."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LAUNCHER, sys.executable, str(ROOT / "segfed.py"), *arguments]
    told = subprocess.run(command, cwd=ROOT, env=one_thread, check=True, capture_output=True, text=True)
    return int(told.stdout.splitlines()[-1]) * 1024


@pytest.mark.slow
def test_an_evaluation_takes_less_than_4_gb(tmp_path: Path, folder: Path) -> None:
    """With an untrained model, whose last layer as published finds tumour everywhere: the most HD95 can meet."""
    torch.manual_seed(0)
    model, out = tmp_path / "model.safetensors", tmp_path / "out"
    save(model, SegFormer3D(**TASK.model.to_json(), final_init="published"), TASK)
    peak = peak_of(["evaluate", "--model", str(model), "--data", str(folder), "--out", str(out), "--device", "cpu"])
    assert json.loads((out / "metrics.json").read_text())["cases"] == 1
    with (out / "cases.csv").open(newline="") as file:
        assert any(float(row["predicted_ml"]) > 100 for row in csv.DictReader(file))
    print(f"peak {peak / GB:.2f} GB")
    assert peak < 4 * GB, f"{peak / GB:.2f} GB"


MEASURING = """
import json, sys, torch
from dataclasses import replace
from functools import partial
from pathlib import Path
from segformer3d.cases import find_cases
from segformer3d.measuring import Contest, forecast_of, measure_cases
from segformer3d.model import SegFormer3D
from segformer3d.protocols import choose_protocol
from segformer3d.tasks import get_task

task = get_task("brats2021")
narrow = replace(task.model, embed_dims=(8, 16, 40, 64), decoder_head_embedding_dim=64)
task = replace(task, model=narrow, patch=(96, 96, 64))
torch.manual_seed(0)
model = SegFormer3D(**narrow.to_json(), final_init="published")
contest = Contest(task, choose_protocol(task.name), partial(forecast_of, model, task, torch.device("cpu"), None), None)
peak_mb = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before = peak_mb()
((measured,), _) = measure_cases(contest, find_cases(Path(sys.argv[1])), None)
print(json.dumps({"grown_mb": peak_mb() - before, "predicted_ml": max(measured.result.predicted_ml)}))
"""


def test_measuring_a_part_takes_a_part_of_it(tmp_path: Path, files: CaseFiles) -> None:
    """The middle of the case, a twelfth of it, and a narrow model that finds tumour everywhere, as above."""
    assert files.label is not None
    for path in (*files.images, files.label):
        source = nib.load(path)
        (tmp_path / NAME).mkdir(exist_ok=True)
        nib.save(source.slicer[70:170, 60:160, 40:110], tmp_path / NAME / path.name)
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURING, str(tmp_path)]
    found = json.loads(subprocess.run(command, cwd=ROOT, env=one_thread, check=True, capture_output=True).stdout)
    print(found)
    assert found["predicted_ml"] > 100
    assert found["grown_mb"] < 300, found
