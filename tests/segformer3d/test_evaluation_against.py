"""Two models, protocols, groups, calibration. Oracles: shifts worked by hand, the same computed over whole volumes."""

import csv
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console

from segformer3d.calibration import calibrate, reliability
from segformer3d.cases import CaseFiles
from segformer3d.errors import ConfigurationError
from segformer3d.evaluation import COMPARISON_FILES, Rival, check_comparable, evaluate, evaluate_predictor
from segformer3d.inference import predict_probabilities
from segformer3d.intensity import scale_intensity
from segformer3d.measuring import Contest, forecast_of, measure_cases
from segformer3d.model import build
from segformer3d.protocols import WHOLE_SCAN, Crop, choose_protocol
from segformer3d.published_scores import PublishedRow
from segformer3d.results import Evaluation
from segformer3d.score_tables import print_groups, print_table
from segformer3d.tasks import Structure, Task
from segformer3d.volumes import read_case

SHAPE = (24, 20, 16)
CPU = torch.device("cpu")


def shifted(task, voxels):
    """A predictor that moves the truth along X."""
    return lambda volume: np.roll(task.structure_masks(volume.label), voxels, axis=1)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Six cases, with 10 x 8 x 6 voxels of label 1 and n x 8 x 6 of label 2, from two scanners."""
    folder, made = tmp_path_factory.mktemp("cases"), []
    for n in range(1, 7):
        image = np.random.default_rng(n).random(SHAPE).astype(np.float32)
        label = np.zeros(SHAPE, np.uint8)
        label[2:12, 6:14, 5:11] = 1
        label[12 : 12 + n, 6:14, 5:11] = 2
        paths = [folder / f"{n}.nii.gz", folder / f"{n}_label.nii.gz"]
        for path, data in zip(paths, (image, label), strict=True):
            nib.save(nib.Nifti1Image(data, np.eye(4)), path)
        made.append(CaseFiles(f"case{n}", (paths[0],), paths[1], facts=(("scanner", "GE" if n < 6 else "Philips"),)))
    return made


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def compared(tiny_task, cases, tmp_path_factory) -> tuple[Evaluation, Path]:
    """A shift of one voxel against a shift of two, and the folder with what was found."""
    out, rival = tmp_path_factory.mktemp("compared"), ("other", shifted(tiny_task, 2))
    return evaluate_predictor(shifted(tiny_task, 1), tiny_task, cases, out, seed=0, against=rival), out


def test_a_second_predictor_is_measured_on_the_same_cases(compared):
    found, out = compared
    differences = {(d.structure, d.metric): d for d in found.comparison.differences}
    first = differences["first", "dice"]  # shifts of 1 and 2 voxels of 10: 0.9 and 0.8 in each case
    assert (first.difference.mean, first.wins, first.losses) == (pytest.approx(0.1), 6, 0)
    assert (first.p_value, first.p_holm) == (pytest.approx(2 / 64), pytest.approx(2 / 64 * 2))
    assert differences["first", "hd95_mm"].difference.mean == pytest.approx(-1.0)
    # Of n voxels along X, shifts of 1 and 2 leave n - 1 and n - 2, or none.
    expected = np.mean([(n - 1) / n - max(0, n - 2) / n for n in range(1, 7)])
    assert differences["second", "dice"].difference.mean == pytest.approx(expected)
    assert differences["second", "dice"].ties == 1  # the thinnest is missed by both
    written = json.loads((out / "comparison.json").read_text())
    assert written == found.comparison.to_json() == json.loads((out / "metrics.json").read_text())["comparison"]
    assert (written["against"], written["cases"]) == ("other", 6)
    ours, theirs = rows(out / "cases.csv"), rows(out / "cases_against.csv")
    assert [(row["case"], row["structure"]) for row in ours] == [(row["case"], row["structure"]) for row in theirs]
    assert (ours[0]["dice"], theirs[0]["dice"]) == ("0.900000", "0.800000")
    assert ours[-1]["scanner"] == "Philips"


def test_no_comparison_of_an_earlier_evaluation_is_left_behind(tiny_task, cases, compared, tmp_path):
    out = shutil.copytree(compared[1], tmp_path / "out")
    assert all((out / name).is_file() for name in COMPARISON_FILES)
    evaluate_predictor(shifted(tiny_task, 1), tiny_task, cases[:1], out, seed=0)
    assert not any((out / name).exists() for name in COMPARISON_FILES)


def test_groups_are_in_the_result_and_on_the_screen(compared, capsys):
    found, _ = compared
    groups = {(s.by, s.group, s.structure): s for s in found.strata}
    assert groups["scanner", "GE", "first"].dice.mean == pytest.approx(0.9)
    assert groups["scanner", "Philips", "mean"].dice.mean is None
    assert groups["size", "large", "second"].volume_ml == pytest.approx((5 * 48 / 1000, 6 * 48 / 1000))
    print_groups(found.strata, Console(width=100))
    printed = capsys.readouterr().out
    for text in ("scanner", "Philips", "large", "0.900 [0.900, 0.900]"):
        assert text in printed


def test_a_crop_is_what_is_scored_and_a_case_that_it_is_not_defined_for_is_set_aside(tiny_task, cases, tmp_path):
    small = tmp_path / "small.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 9)).astype(np.float32), np.eye(4)), small)
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.eye(4)), tmp_path / "small_label.nii.gz")
    other = CaseFiles("small", (small,), tmp_path / "small_label.nii.gz")
    protocol = replace(WHOLE_SCAN, crop=Crop(SHAPE, (4, 0, 0), (14, 20, 16)))
    found = evaluate_predictor(
        shifted(tiny_task, 2), tiny_task, [cases[5], other], tmp_path / "out", seed=0, protocol=protocol
    )
    # In planes 4 to 13 the truth is 8 of label 1 and 2 of label 2; the prediction, moved by 2, is 10 and none.
    (first, second) = found.structures
    assert (first.dice.mean, second.dice.mean) == (pytest.approx(2 * 8 / (8 + 10)), 0.0)
    assert found.cases[0].truth_ml == pytest.approx((8 * 48 / 1000, 2 * 48 / 1000))
    assert [(item.name, "24 x 20 x 16" in item.reason) for item in found.set_aside] == [("small", True)]


def test_lesion_wise_scores_have_columns_and_summaries(tiny_task, cases, tmp_path):
    protocol = choose_protocol("brats2023")
    found = evaluate_predictor(shifted(tiny_task, 1), tiny_task, cases[:2], tmp_path / "out", seed=0, protocol=protocol)
    assert found.structures[0].lesion_dice.mean == pytest.approx(0.9)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["classes"]["first"]["lesion_hd95"]["mean"] == pytest.approx(1.0)
    assert written["protocol"]["lesions"]["dilation_voxels"] == 3
    row = rows(tmp_path / "out" / "cases.csv")[0]
    assert (row["lesion_dice"], row["lesions_found"], row["lesions_invented"]) == ("0.900000", "1", "0")


def test_published_rows_stand_beside_ours_and_say_so(compared, capsys):
    found, _ = compared
    row = PublishedRow("TheirNet", 81.5, {"first": 80.0}, "a paper")
    print_table(replace(found, published=(row,)), Console(width=100))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "TheirNet" in line]
    assert "(published)" in line
    assert "0.800" in line
    assert "0.815" in line


@pytest.fixture(params=["softmax", "sigmoid"])
def modelled(request, tiny_task: Task):
    """A task and two models of it with random weights."""
    task = tiny_task
    if request.param == "sigmoid":
        regions = (Structure("whole", (1, 2)), Structure("core", (2,)))
        config = replace(task.model, num_classes=2)
        task = replace(task, structures=regions, activation="sigmoid", model=config)
    torch.manual_seed(0)
    models = [build(task.model, task.output_bias) for _ in range(2)]
    for model in models:
        torch.nn.init.normal_(model.decoder.classify.weight, std=0.5)  # or all probabilities are nearly the prior
    return task, models


@pytest.mark.parametrize("modelled", ["softmax"], indirect=True)
def test_two_models_are_evaluated_and_their_probabilities_watched(modelled, cases, tmp_path):
    task, (model, other) = modelled
    found = evaluate(model, task, cases[:2], tmp_path / "out", device=CPU, seed=0, against=Rival("other", other, task))
    assert found.comparison.against == "other"
    assert len(found.comparison.cases) == 2
    sums = []
    for files in cases[:2]:
        volume = read_case(files, task)
        probabilities = predict_probabilities(model, task, scale_intensity(volume.image, task), CPU)
        structures = probabilities[-len(task.structures) :].numpy()
        sums.append(reliability(structures, task.structure_masks(volume.label)))
    expected = calibrate([s.name for s in task.structures], sums[0] + sums[1])
    assert found.calibration == expected


def test_a_crop_is_all_that_the_model_sees(modelled, cases):
    task, (model, _) = modelled
    crop = Crop(SHAPE, (4, 2, 1), (20, 18, 15))
    files = cases[3]
    forecast = partial(forecast_of, model, task, CPU, None)
    ((measured,), _) = measure_cases(Contest(task, replace(WHOLE_SCAN, crop=crop), forecast, None), [files], None)
    volume, place = read_case(files, task), crop.place(SHAPE)
    image = scale_intensity(volume.image, task)[:, *place]
    probabilities = predict_probabilities(model, task, image, CPU)
    truth = task.structure_masks(volume.label[place])
    names = [s.name for s in task.structures]
    expected = calibrate(names, reliability(probabilities[-len(truth) :].numpy(), truth))
    assert calibrate(names, measured.reliability) == expected


def test_a_model_of_another_task_is_refused(tiny_task, cases, tmp_path):
    model = build(tiny_task.model)
    other = replace(tiny_task, name="other")
    swapped = replace(tiny_task, structures=tiny_task.structures[::-1])
    for task in (other, swapped):
        with pytest.raises(ConfigurationError, match="only models of one task can be compared") as caught:
            evaluate(
                model,
                tiny_task,
                cases,
                tmp_path / "out",
                device=CPU,
                seed=0,
                against=Rival("b.safetensors", model, task),
            )
        assert "b.safetensors" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_with_another_patch_may_be_compared(tiny_task):
    check_comparable(tiny_task, Rival("c.safetensors", build(tiny_task.model), replace(tiny_task, patch=(16, 16, 16))))
