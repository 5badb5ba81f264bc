"""`segfed data import` and `segfed predict` on DICOM as a user meets them: exit codes, printed lines, files."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import torch

import segfed
from segformer3d.checkpoint import save
from segformer3d.model import build
from segformer3d.tasks import Task, get_task

from .segformer3d.dicom.test_labels import masks, write_seg
from .segformer3d.dicom.writing import noise, write_series

SECRETS = ("Doe", "Jonathan", "HOSP-4711", "Chrisjen", "Avasarala", "PGBM", "20240517", "1.2.826", "1.3.6.1")


def run(*words: object, code: int = 0) -> tuple[str, str]:
    """Run the command in this process; nothing that it prints names a patient."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        returned = segfed.main([str(word) for word in words])
    printed = (out.getvalue(), err.getvalue())
    assert returned == code, printed
    assert not any(secret in text for secret in SECRETS for text in printed), printed
    return printed


@pytest.fixture(scope="module")
def hippocampus_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task's real network, untrained: its masks are noise, which shows every shift by a voxel."""
    task = get_task("hippocampus")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save(path, build(task.model, (0.0,) * task.channels), task)
    return path


def test_the_real_series_is_imported_and_predicted_both_ways(
    tmp_path: Path, shared: Path, hippocampus_model: Path
) -> None:
    """From DICOM, from the imported NIfTI file, and as a DICOM segmentation: one label."""
    series = shared / "data" / "dicom" / "hippocampus-crop"
    printed, _ = run("data", "import", series, "--out", tmp_path / "data", "--task", "hippocampus")
    assert "32 slices of 35 x 51, 1 x 1 x 1 mm, MR" in printed
    assert "imported: 1 (patients 1, labelled 0); refused: 0" in printed
    labels = {}
    for kind, image in (("nifti", series), ("dicom-seg", series), ("imported", tmp_path / "data" / "images")):
        label_format = "dicom-seg" if kind == "dicom-seg" else "nifti"
        out = tmp_path / kind
        run(
            "predict",
            "--model",
            hippocampus_model,
            "--image",
            image,
            "--format",
            label_format,
            "--no-mirror",
            "--out",
            out,
        )
        (labels[kind],) = (path for path in out.iterdir() if path.is_file())
    expected = np.asarray(nib.load(labels["nifti"]).dataobj)
    assert expected.shape == (35, 51, 32)
    assert np.array_equal(np.asarray(nib.load(labels["imported"]).dataobj), expected)
    volume = hd.seg.segread(labels["dicom-seg"]).get_volume(combine_segments=True)
    uids = [dataset.SOPInstanceUID for dataset in map(hd.imread, sorted(series.iterdir()))]
    assert len(uids) == 32
    assert np.array_equal(np.sort(np.unique(volume.array)), np.unique(expected))
    assert (volume.array == 1).sum() == (expected == 1).sum()


def test_an_export_with_everything_in_it(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "in" / "Doe^Jonathan" / "a")
    write_seg(tmp_path / "in" / "Doe^Jonathan" / "seg.dcm", slices, masks(), ["Jonathan's head", "tail"])
    write_series(tmp_path / "in" / "gap", keep=lambda k: k != 2)
    (tmp_path / "in" / "readme.txt").write_text("x")
    words = ("--task", "hippocampus", "--structure", "anterior=*head", "--structure", "posterior=tail")
    printed, err = run("data", "import", tmp_path / "in", "--out", tmp_path / "out", *words)
    lines = printed.splitlines()
    assert lines[0].startswith("refused s")
    assert "about 1 slices are missing" in lines[0]
    assert lines[1].endswith("5 slices of 9 x 7, 0.7 x 0.9 x 2.5 mm, MR, labelled")
    assert lines[2] == "files: 11; series: 2, label objects: 1, no DICOM: 1"
    assert lines[3] == "imported: 1 (patients 1, labelled 1); refused: 1; not asked for: 0"
    assert err == ""
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["numTraining"] == 1


def test_labels_without_a_task_and_about_other_series_are_said(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "gone")
    write_seg(tmp_path / "in" / "seg.dcm", slices, masks())
    write_series(tmp_path / "in" / "a", noise(seed=1))
    printed, _ = run("data", "import", tmp_path / "in", "--out", tmp_path / "out")
    assert "labels were left out: say --task" in printed
    assert "label objects about series that are not here, left out: 1" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "spleen"), "there is no task 'spleen'"),
        (("--structure", "a=b"), "--structure needs --task"),
        (("--contrast", "flair"), "--contrast takes NAME=PATTERN"),
        (("--contrast", "flair=*FLAIR*"), "none of 1 series fits a pattern of --contrast"),
        (("--task", "phantom"), "task phantom takes 4 contrasts"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    write_series(tmp_path / "in")
    _, err = run("data", "import", tmp_path / "in", "--out", tmp_path / "out", *words, code=1)
    assert err.startswith("segfed: ")
    assert len(err.strip().splitlines()) == 1
    assert said in err


def test_prediction_says_what_it_leaves_out(tmp_path: Path, tiny_task: Task) -> None:
    model = tmp_path / "model.safetensors"
    save(model, build(tiny_task.model), tiny_task)
    change = lambda dataset, k: setattr(dataset, "ImagesInAcquisition", 20)  # noqa: E731
    write_series(tmp_path / "in" / "a", noise((14, 13, 12)), change=change)
    write_series(tmp_path / "in" / "ct", modality="CT")
    words = ("--image", tmp_path / "in", "--format", "dicom-seg", "--out", tmp_path / "out")
    printed, _ = run("predict", "--model", model, *words)
    assert "set aside, it is a CT scan; the task takes MR" in printed
    assert "note: its headers announce 20 images, 12 are here" in printed
    assert "DICOM segmentations carry name and id of the patient" in printed
    assert "1 predicted, 1 set aside" in printed


def test_nifti_goes_before_dicom(tmp_path: Path, tiny_task: Task) -> None:
    """A dataset keeps its sources below it, as BIDS does; and a folder with neither is said to hold neither."""
    model = tmp_path / "model.safetensors"
    save(model, build(tiny_task.model), tiny_task)
    write_series(tmp_path / "data" / "sourcedata", noise((14, 13, 12)))
    nib.save(nib.Nifti1Image(noise((14, 13, 12)), np.eye(4)), tmp_path / "data" / "scan.nii.gz")
    printed, _ = run("predict", "--model", model, "--image", tmp_path / "data", "--out", tmp_path / "out")
    assert "1 predicted" in printed
    assert (tmp_path / "out" / "scan.nii.gz").is_file()
    one = tmp_path / "data" / "sourcedata" / "IM0000"
    _, err = run("predict", "--model", model, "--image", one, "--out", tmp_path / "out", code=1)
    assert "it has 1 slices" in err
    for path in (tmp_path / "out" / "nowhere", Path(__file__).parent / "segformer3d"):
        _, err = run("predict", "--model", model, "--image", path, "--out", tmp_path / "out", code=1)
        assert "no NIfTI image (.nii or .nii.gz), no DICOM series" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "dicom-seg"), "need DICOM series"),
        (("--contrast", "MRI=*"), "need DICOM series"),
        (("--format", "nrrd"), "--format must be nifti or dicom-seg, got 'nrrd'"),
    ],
)
def test_dicom_options_need_dicom(tmp_path: Path, tiny_task: Task, words: tuple[str, ...], said: str) -> None:
    model = tmp_path / "model.safetensors"
    save(model, build(tiny_task.model), tiny_task)
    nib.save(nib.Nifti1Image(noise(), np.eye(4)), tmp_path / "scan.nii.gz")
    image = tmp_path / "scan.nii.gz"
    _, err = run("predict", "--model", model, "--image", image, "--out", tmp_path / "out", *words, code=1)
    assert said in err
