"""Oracles: shifted masks whose scores are worked by hand, the written files read back, determinism."""

import csv
import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console

from segformer3d.cases import CaseFiles
from segformer3d.config import ModelConfig
from segformer3d.errors import CaseError, DataError
from segformer3d.evaluation import evaluate, evaluate_predictor
from segformer3d.model import build
from segformer3d.protocols import choose_protocol
from segformer3d.results import Evaluation, ranked
from segformer3d.score_tables import print_table
from segformer3d.tasks import get_task

SHAPE, SPACING = (24, 20, 16), (0.5, 1.0, 2.0)
TASK = get_task("hippocampus")
FILES = ["cases.csv", "metrics.json", "overlay-best.png", "overlay-median.png", "overlay-worst.png", "set_aside.csv"]
WORST = ["overlay-worst-2.png", "overlay-worst-3.png"]


def write_case(folder, name, *, second=True, damaged=False, labelled=True):
    """A case with a 10 x 8 x 6 voxel "anterior" and, if asked, a 5 x 8 x 6 voxel "posterior"."""
    image = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    label = np.zeros(SHAPE, np.uint8)
    label[2:12, 6:14, 5:11] = 1
    if second:
        label[12:17, 6:14, 5:11] = 2
    affine = np.diag([*SPACING, 1.0])
    paths = folder / f"{name}.nii.gz", folder / f"{name}_label.nii.gz"
    for path, data in zip(paths, (image, label), strict=True):
        nib.save(nib.Nifti1Image(data, affine), path)
    if damaged:
        paths[0].write_bytes(paths[0].read_bytes()[:200])
    return CaseFiles(name, (paths[0],), paths[1] if labelled else None)


def shifted(voxels):
    """A predictor that moves the truth along X; like a model it never asks which case it sees."""

    def predict(volume):
        return np.roll(TASK.structure_masks(volume.label), voxels, axis=1)

    return predict


class Worsening:
    """A predictor that moves the n-th volume it sees by n voxels; a volume seen again moves as before."""

    def __init__(self):
        self.seen = {}

    def __call__(self, volume):
        shift = self.seen.setdefault(volume.image.tobytes(), len(self.seen))
        return shifted(shift)(volume)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    made = []
    for index, name in enumerate("abcde"):
        files = write_case(folder, name)
        image = nib.load(files.images[0])
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) + index, image.affine), files.images[0])
        made.append(files)
    return made


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation returned, what it told on its way, and the folder that it filled."""

    found: Evaluation
    steps: list[tuple[int, int]]
    out: Path


def evaluated(predict, cases, out):
    steps = []
    found = evaluate_predictor(predict, TASK, cases, out, seed=0, on_case=lambda *step: steps.append(step))
    return Evaluated(found, steps, out)


@pytest.fixture(scope="module")
def one(tmp_path_factory, cases):
    """One case, two voxels off."""
    return evaluated(shifted(2), cases[:1], tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def five(tmp_path_factory, cases):
    """Five cases, each worse than the one before."""
    return evaluated(Worsening(), cases, tmp_path_factory.mktemp("five"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, cases):
    """A damaged case, two sound ones, one without the second structure, and one without a label; one voxel off."""
    folder = tmp_path_factory.mktemp("mixed")
    damaged = write_case(folder, "broken", damaged=True)
    without = write_case(folder, "f", second=False)
    unlabelled = write_case(folder, "unlabelled", labelled=False)
    return evaluated(shifted(1), [damaged, *cases[:2], without, unlabelled], folder / "out")


def test_scores_of_a_shift_by_hand(one):
    anterior, posterior = one.found.structures
    assert (anterior.name, anterior.dice.mean) == ("anterior", pytest.approx(8 / 10))
    assert (posterior.name, posterior.dice.mean) == ("posterior", pytest.approx(3 / 5))
    assert anterior.hd95_mm.mean == pytest.approx(2 * SPACING[0])
    assert one.found.mean_dice.mean == pytest.approx((8 / 10 + 3 / 5) / 2)
    (case,) = one.found.cases
    assert case.truth_ml == pytest.approx((10 * 8 * 6 / 1000, 5 * 8 * 6 / 1000))  # a voxel is 1 mm³


def test_the_files_say_what_was_found(five):
    assert sorted(path.name for path in five.out.iterdir()) == sorted(FILES + WORST)
    table = rows(five.out / "cases.csv")
    assert [(row["case"], row["structure"]) for row in table][:3] == [
        ("a", "anterior"),
        ("a", "posterior"),
        ("b", "anterior"),
    ]
    assert table[2] == {
        "case": "b",
        "structure": "anterior",
        "dice": "0.900000",
        "hd95_mm": "0.500000",
        "surface_dice": "1.000000",
        "truth_ml": "0.480000",
        "predicted_ml": "0.480000",
    }
    written = json.loads((five.out / "metrics.json").read_text())
    assert written == five.found.to_json()
    dice = [1 - shift / 10 for shift in range(5)]
    assert written["classes"]["anterior"]["dice"]["mean"] == pytest.approx(np.mean(dice))
    assert written["classes"]["anterior"]["dice"]["standard_deviation"] == pytest.approx(np.std(dice, ddof=1))
    means = [written["classes"][name]["dice"]["mean"] for name in ("anterior", "posterior")]
    assert written["mean_dice"] == pytest.approx(np.mean(means))
    assert written["overlays"] == {"best": "a", "median": "c", "worst": "e", "worst-2": "d", "worst-3": "c"}
    assert (written["cases"], written["set_aside"], written["rules"]) == (5, 0, choose_protocol("hippocampus").rules)


@pytest.mark.parametrize(("count", "shown"), [(5, 2), (3, 1), (2, 0), (1, 0)])
def test_the_worst_three_are_shown_as_far_as_there_are_others(five, count, shown):
    """The best is not among them."""
    cases = five.found.cases[:count]
    names = {rank: case.name for rank, case in ranked(cases).items()}
    assert [names.get(rank) for rank in ("worst", "worst-2", "worst-3")] == [
        cases[count - 1].name,
        *[case.name for case in cases[count - 2 : max(0, count - 4) : -1]][:shown],
        *[None] * (2 - shown),
    ]


def test_pictures_of_an_earlier_evaluation_do_not_stay(tmp_path, cases, five, one):
    out = shutil.copytree(five.out, tmp_path / "out")
    evaluate_predictor(Worsening(), TASK, cases[:3], out, seed=0)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES + WORST[:1])
    assert sorted(path.name for path in one.out.iterdir()) == sorted(FILES)


def test_a_missing_structure_is_counted_and_not_averaged(mixed):
    posterior = mixed.found.structures[1]
    assert (posterior.hd95_mm.count, posterior.hd95_mm.excluded) == (2, 1)
    assert (posterior.dice.count, posterior.dice.mean) == (3, pytest.approx((0.8 + 0.8 + 1) / 3))
    last = rows(mixed.out / "cases.csv")[-1]
    assert (last["dice"], last["hd95_mm"], last["surface_dice"]) == ("1.000000", "", "1.000000")


def test_a_structure_that_is_missing_everywhere_is_null(tmp_path):
    without = write_case(tmp_path, "f", second=False)
    evaluate_predictor(shifted(1), TASK, [without], tmp_path / "out", seed=0)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["classes"]["posterior"]["hd95"]["mean"] is None
    assert written["classes"]["posterior"]["hd95"]["excluded"] == 1


def test_a_damaged_case_is_set_aside_with_its_reason(mixed):
    assert [case.name for case in mixed.found.cases] == ["a", "b", "f"]
    written = json.loads((mixed.out / "metrics.json").read_text())
    assert (written["cases"], written["set_aside"]) == (3, 2)
    assert [entry["case"] for entry in written["set_aside_cases"]] == ["broken", "unlabelled"]
    listed = rows(mixed.out / "set_aside.csv")
    assert [row["case"] for row in listed] == ["broken", "unlabelled"]
    assert all(row["reason"] for row in listed)
    assert "no label" in listed[1]["reason"]
    assert mixed.steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_case_that_the_predictor_refuses_is_set_aside(tmp_path, cases):
    def refuse(volume):
        raise CaseError("the volume is too thin")

    with pytest.raises(DataError, match="too thin"):
        evaluate_predictor(refuse, TASK, cases[:1], tmp_path / "out", seed=0)


def test_no_usable_case_is_one_clear_line(tmp_path):
    damaged = [write_case(tmp_path, name, damaged=True) for name in ("x", "y")]
    with pytest.raises(DataError, match="none of the 2 cases can be evaluated") as caught:
        evaluate_predictor(shifted(0), TASK, damaged, tmp_path / "out", seed=0)
    assert "\n" not in str(caught.value)
    assert len(rows(tmp_path / "out" / "set_aside.csv")) == 2
    with pytest.raises(DataError, match="no case to evaluate"):
        evaluate_predictor(shifted(0), TASK, [], tmp_path / "out", seed=0)


def test_a_programming_error_keeps_its_traceback(tmp_path, cases):
    def broken(volume):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        evaluate_predictor(broken, TASK, cases[:1], tmp_path / "out", seed=0)


def test_the_same_inputs_write_the_same_bytes(tmp_path, cases, five):
    evaluate_predictor(Worsening(), TASK, cases, tmp_path, seed=0)
    for path in five.out.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_order_of_cases_does_not_change_the_ranks(five):
    alike = [replace(five.found.cases[1], name=name) for name in "abcde"]  # the name decides
    names = {rank: case.name for rank, case in ranked(alike).items()}
    assert names == {rank: case.name for rank, case in ranked(alike[::-1]).items()}
    assert names == {"best": "e", "median": "c", "worst": "a", "worst-2": "b", "worst-3": "c"}


def test_the_table_names_structures_intervals_and_counts(mixed, capsys):
    print_table(mixed.found, Console(width=80))
    printed = capsys.readouterr().out
    assert "0.900 [0.900, 0.900]" in printed
    assert "0.50 (1 undefined)" in printed
    assert "3 cases used, 2 set aside" in printed


def test_one_case_is_one_case_used(one, capsys):
    print_table(one.found, Console(width=80))
    assert "1 case used, 0 set aside" in capsys.readouterr().out


def test_a_model_is_evaluated_end_to_end(tmp_path, cases):
    tiny = ModelConfig(
        in_channels=1,
        num_classes=3,
        embed_dims=(8, 8, 8, 8),
        num_heads=(1, 1, 1, 1),
        depths=(1, 1, 1, 1),
        decoder_head_embedding_dim=8,
    )
    task = replace(TASK, patch=(24, 20, 16), flip_axes=(), model=tiny)
    torch.manual_seed(0)
    model = build(tiny, task.output_bias)
    evaluation = evaluate(model, task, cases[:2], tmp_path / "out", device=torch.device("cpu"), seed=0)
    assert len(evaluation.cases) == 2
    assert all(0 <= case.mean_dice <= 1 for case in evaluation.cases)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


HIPPOCAMPUS = Path(__file__).parents[3] / "shared" / "data" / "hippocampus"


@pytest.mark.skipif(
    not HIPPOCAMPUS.is_dir(), reason="the hippocampus data is not beside the repository (../shared/data)"
)
def test_real_cases_score_perfectly_against_themselves(tmp_path):
    images = sorted((HIPPOCAMPUS / "imagesTr").glob("*.nii.gz"))[:2]
    cases = [CaseFiles(path.name, (path,), HIPPOCAMPUS / "labelsTr" / path.name) for path in images]
    evaluation = evaluate_predictor(shifted(0), TASK, cases, tmp_path / "out", seed=0)
    for structure in evaluation.structures:
        assert (structure.dice.mean, structure.hd95_mm.mean, structure.surface_dice.mean) == (1.0, 0.0, 1.0)
    assert not math.isnan(evaluation.mean_dice.mean)
