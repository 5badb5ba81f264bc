"""Oracles: MONAI's own averaging as the published code calls it, nnFormer's rules spelt out, crops by hand."""

import json
import math

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric

from segformer3d.errors import CaseError, ConfigurationError
from segformer3d.metrics import score_case
from segformer3d.protocols import (
    WHOLE_SCAN,
    Crop,
    LesionRule,
    MissingRules,
    MissingScore,
    Protocol,
    choose_protocol,
    protocols_of,
)
from segformer3d.published_scores import published_rows
from segformer3d.tasks import TASKS

BENCHMARKS = ("brats2017", "synapse", "acdc")
EMPTY = np.zeros((6, 5, 4), bool)
PRESENT = EMPTY.copy()
PRESENT[2:4, 1:3, 1:3] = True


def score(predicted, truth, protocol):
    (only,) = score_case(predicted[None], truth[None], (1.0, 1.0, 1.0), protocol)
    return only


def test_every_task_is_measured_whole_and_benchmarks_as_published_too():
    assert protocols_of("my own task") == (WHOLE_SCAN,)
    for name in BENCHMARKS:
        assert [protocol.name for protocol in protocols_of(name)] == ["whole-scan", "published"]
        assert choose_protocol(name).name == "whole-scan"
        assert choose_protocol(name, "published").citation


def test_an_unknown_protocol_names_those_there_are():
    with pytest.raises(ConfigurationError, match="brats2017 has no protocol 'foo'; it has whole-scan, published"):
        choose_protocol("brats2017", "foo")
    with pytest.raises(ConfigurationError, match="hippocampus has no protocol 'published'; it has whole-scan"):
        choose_protocol("hippocampus", "published")


@pytest.mark.parametrize(("task", "penalty"), [("brats2017", 373.1287), ("brats2021", 373.1287), ("brats2023", 374.0)])
def test_missing_regions_as_the_brats_challenges_score_them(task, penalty):
    protocol = choose_protocol(task)
    both, missed, invented = (score(p, t, protocol) for p, t in ((EMPTY, EMPTY), (EMPTY, PRESENT), (PRESENT, EMPTY)))
    assert (both.dice, both.hd95_mm) == (1, 0)
    assert (missed.dice, missed.hd95_mm) == (invented.dice, invented.hd95_mm) == (0, penalty)


def test_the_penalty_is_the_diagonal_of_a_brats_volume():
    assert choose_protocol("brats2017").missing.missed.hd95_mm == pytest.approx(math.dist((0, 0, 0), (240, 240, 155)))


def published_dice(batches):
    """As the published trainer does it: MONAI's mean over each batch of one case, then over the cases."""
    metric, means = DiceMetric(include_background=True, reduction="mean_batch", get_not_nans=False), []
    for predicted, truth in batches:
        metric.reset()
        metric(y_pred=[torch.from_numpy(predicted).float()], y=[torch.from_numpy(truth).float()])
        means.append(float(metric.aggregate().mean()))
    return float(np.mean(means))


def test_the_published_brats_dice_is_averaged_as_the_published_code_does():
    generator = np.random.default_rng(0)
    predicted, truth = generator.random((2, 4, 3, 7, 6, 5)) < 0.4
    truth[1, 2], predicted[1, 2] = False, False  # rightly empty, and yet 0
    truth[2, 1] = False
    predicted[3, 0] = False
    protocol = choose_protocol("brats2017", "published")
    scores = [score_case(p, t, (1.0, 1.0, 1.0), protocol) for p, t in zip(predicted, truth, strict=True)]
    assert scores[1][2].dice == 0
    ours = np.mean([[region.dice for region in case] for case in scores])
    assert ours == pytest.approx(published_dice(zip(predicted, truth, strict=True)), rel=1e-6)


@pytest.mark.parametrize("task", ["synapse", "acdc"])
def test_missing_structures_as_nnformer_scores_them(task):
    protocol = choose_protocol(task, "published")
    for predicted, truth, dice in ((EMPTY, EMPTY, 1), (EMPTY, PRESENT, 0), (PRESENT, EMPTY, 0)):
        found = score(predicted, truth, protocol)
        assert (found.dice, found.hd95_mm) == (dice, 0)


def test_the_published_crop_is_for_brats_volumes_only():
    protocol = choose_protocol("brats2017", "published")
    place = protocol.place((240, 240, 155))
    assert place == (slice(56, 184), slice(56, 184), slice(13, 141))
    assert np.empty((240, 240, 155), bool)[place].shape == (128, 128, 128)
    with pytest.raises(CaseError, match="240 x 240 x 155 voxels, this one has 128 x 128 x 128") as caught:
        protocol.place((128, 128, 128))
    assert "whole-scan" in str(caught.value)
    assert WHOLE_SCAN.place((3, 4, 5)) == (slice(None),) * 3


def test_what_a_protocol_says_is_what_it_does():
    for task in (*BENCHMARKS, "brats2021", "brats2023", "hippocampus"):
        for protocol in protocols_of(task):
            told = json.loads(json.dumps(protocol.to_json(), allow_nan=False))
            assert told["name"] == protocol.name
            assert f"within {protocol.tolerance_mm:g} mm" in protocol.rules
            assert str(protocol.missing.missed) in protocol.rules
            assert ("lesion_dice" in protocol.metrics) == ("Lesion-wise" in protocol.rules) == (task == "brats2023")
    assert "excluded and counted" in WHOLE_SCAN.rules
    assert WHOLE_SCAN.to_json()["missing"]["missed"]["hd95_mm"] is None


def test_a_tolerance_says_whose_it_is():
    assert (
        "within 1 mm (that of the Medical Segmentation Decathlon for this task)" in choose_protocol("hippocampus").rules
    )
    for task in ("acdc", "brats2023"):
        assert "within 1 mm (a convention of segfed, of no benchmark)" in choose_protocol(task).rules


@pytest.mark.parametrize(
    ("name", "dilations", "smallest_mm3"),
    [
        ("BraTS-GLI-00005-001", 3, 50),
        ("BraTS-SSA-00002-000", 3, 50),
        ("BraTS-PED-00001-000", 3, 50),
        ("BraTS-MEN-00004-000", 1, 50),
        ("BraTS-MET-00086-000", 1, 2),
        ("brats-met-00086-000", 1, 2),
        ("scan-1", 3, 50),
    ],
)
def test_lesions_are_scored_by_the_challenge_that_a_name_tells(name, dilations, smallest_mm3):
    protocol = choose_protocol("brats2023").for_case(name)
    assert protocol.lesions == LesionRule(dilations, smallest_mm3, 374.0)
    assert choose_protocol("acdc").for_case(name) == choose_protocol("acdc")
    for told in ("BraTS-MEN-…: dilations: 1, left out up to 50 mm³", "BraTS-MET-…: dilations: 1, left out up to 2 mm³"):
        assert told in protocol.rules


@pytest.mark.parametrize("tolerance_mm", [-1.0, math.nan, math.inf])
def test_a_tolerance_that_is_no_length_is_refused(tolerance_mm):
    worst = MissingScore(0, 0, 0)
    with pytest.raises(ConfigurationError, match="tolerance"):
        Protocol("own", "", "", MissingRules(worst, worst, worst), tolerance_mm)


def test_a_crop_of_another_shape_is_refused():
    with pytest.raises(CaseError, match="4 x 4 x 4"):
        Crop((4, 4, 4), (0, 0, 0), (2, 2, 2)).place((5, 4, 4))


def test_published_rows_are_of_the_benchmarks_and_average_as_printed():
    assert published_rows("hippocampus") == ()
    for task in BENCHMARKS:
        rows = published_rows(task)
        assert rows[0].method == "SegFormer3D"
        for row in rows:
            told = row.to_json()
            assert told["published"] is True
            assert told["source"]
            digit = 0.1 if task == "brats2017" else 0.01
            if row.dice:
                assert abs(np.mean(list(row.dice.values())) - row.mean_dice) < digit


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name in TASKS])
def test_published_rows_name_the_structures_of_their_task(name):
    structures = {structure.name for structure in TASKS[name].structures}
    assert all(set(row.dice) in (structures, set()) for row in published_rows(name))
