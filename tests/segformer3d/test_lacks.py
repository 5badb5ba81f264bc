"""What a dataset lacks: its form, the marginal loss against values worked by hand, training and measuring with it."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segformer3d.cases import find_cases
from segformer3d.data_check.check import check_folder
from segformer3d.dataset import PreparedCase, prepare, prepare_case
from segformer3d.errors import CaseError, DataError
from segformer3d.evaluation import evaluate
from segformer3d.lacks import Lacks, check_lacks, known_groups, present_task, read_lacks, told
from segformer3d.losses import known_loss, make_loss, marginal, marginal_logits, targets
from segformer3d.model import SegFormer3D, build
from segformer3d.patches import sample_patch
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task, get_task, task_of_folder
from segformer3d.training import Part, train_part, validate
from segformer3d.volumes import read_case
from tests.conftest import MakeDataset

CPU = torch.device("cpu")
DICE, BOTH = TrainingSettings(loss="dice"), TrainingSettings(loss="dice_ce")
MERGED = Lacks(merged=(("first", "second"),))
UNLABELLED = Lacks(unlabelled=("second",))
PHANTOM = get_task("phantom")


def blocks(number: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(number)
    label = np.zeros((12, 12, 12), np.int16)
    label[2:8, 2:8, :6], label[2:8, 2:8, 6:] = 1, 2
    return (label * 3 + generator.normal(0, 0.5, label.shape)).astype(np.float32), label


@pytest.fixture
def dataset(tmp_path: Path, make_dataset: MakeDataset) -> Callable[..., Path]:
    """`dataset(merged=[...])` writes four cases, and what they are said to lack into their dataset.json."""

    def write(name: str = "data", **said: Any) -> Path:
        folder = make_dataset(tmp_path / name, {f"{name}{number}": blocks(number) for number in range(4)})
        described = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**described, **said}))
        return folder

    return write


def voxels(*rows: tuple[float, ...]) -> Tensor:
    """One row of numbers per voxel as (1, K, X, 1, 1), float64."""
    return torch.tensor(rows, dtype=torch.float64).T[None, :, :, None, None]


# --- Channels that a label tells apart -------------------------------------------------------------------------------


def test_channels_are_grouped_by_what_the_label_tells(tiny_task: Task) -> None:
    assert known_groups(tiny_task, Lacks()) is None
    assert known_groups(tiny_task, Lacks(absent=("MRI",))) is None
    assert known_groups(tiny_task, MERGED) == ((0,), (1, 2))
    assert known_groups(tiny_task, UNLABELLED) == ((0, 2), (1,))
    assert known_groups(tiny_task, Lacks(unlabelled=(" FIRST ",))) == ((0, 1), (2,))
    acdc = get_task("acdc")
    names = [structure.name for structure in acdc.structures]
    assert known_groups(acdc, Lacks(merged=((names[2], names[0]),), unlabelled=(names[1],))) == ((0, 2), (1, 3))
    assert known_groups(PHANTOM, Lacks(unlabelled=("tumour core",))) == ((0,), (2,))


def test_only_structures_that_the_label_shows_alone_are_measured(tiny_task: Task) -> None:
    assert told(tiny_task, Lacks()) == (True, True)
    assert told(tiny_task, MERGED) == (False, False)
    assert told(tiny_task, UNLABELLED) == (True, False)


# --- The marginal loss -----------------------------------------------------------------------------------------------


def test_the_marginal_loss_of_merged_structures_by_hand(tiny_task: Task) -> None:
    """P = (1/2, 1/4, 1/4) and (1/4, 1/2, 1/4); the label says background, and one of both structures.

    Together the structures have 1/2 and 3/4. Dice: 2 · 3/4 / (5/4 + 1) = 2/3. Cross-entropy: the mean of -log 1/2 and
    -log 3/4. Which of the two merged values the label holds is all the same.
    """
    logits = voxels((0.5, 0.25, 0.25), (0.25, 0.5, 0.25)).log()
    groups = known_groups(tiny_task, MERGED)
    entropy = -(math.log(1 / 2) + math.log(3 / 4)) / 2
    for value in (1, 2):
        target = targets(torch.tensor([0, value]).view(1, 2, 1, 1), tiny_task).double()
        dice, both = (known_loss(make_loss(tiny_task, kind), [groups])(logits, target) for kind in (DICE, BOTH))
        assert dice.item() == pytest.approx(1 / 3, abs=5e-5)
        assert (both - dice).item() == pytest.approx(entropy, rel=1e-12)


def test_the_marginal_loss_of_an_unlabelled_structure_by_hand(tiny_task: Task) -> None:
    """The same P; the second structure counts with the background: (3/4, 1/4) and (1/2, 1/2).

    The label says background and the first structure. Dice: 2 · 1/2 / (3/4 + 1) = 4/7. Cross-entropy: the mean of
    -log 3/4 and -log 1/2.
    """
    logits = voxels((0.5, 0.25, 0.25), (0.25, 0.5, 0.25)).log()
    target = targets(torch.tensor([0, 1]).view(1, 2, 1, 1), tiny_task).double()
    groups = [known_groups(tiny_task, UNLABELLED)]
    dice, both = (known_loss(make_loss(tiny_task, kind), groups)(logits, target).item() for kind in (DICE, BOTH))
    assert dice == pytest.approx(3 / 7, abs=5e-5)
    assert both - dice == pytest.approx(-(math.log(3 / 4) + math.log(1 / 2)) / 2, rel=1e-12)


def test_regions_that_are_not_outlined_are_left_out() -> None:
    """The loss of the other two regions alone, whatever the third one's logits and target are."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, 4, generator=generator, dtype=torch.float64)
    target = (torch.rand(2, 3, 4, 4, 4, generator=generator) < 0.5).double()
    groups = known_groups(PHANTOM, Lacks(unlabelled=("tumour core",)))
    loss = make_loss(PHANTOM, BOTH)
    found = known_loss(loss, [groups, groups])(logits, target)
    assert found.item() == pytest.approx(loss(logits[:, [0, 2]], target[:, [0, 2]]).item(), rel=1e-12)
    changed = logits.clone()
    changed[:, 1] += 5
    assert torch.equal(known_loss(loss, [groups, groups])(changed, target), found)


def test_log_sum_exp_of_logits_has_the_softmax_of_sums() -> None:
    logits = torch.randn(2, 5, 3, 2, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 30
    groups = ((0, 3), (1, 4), (2,))
    expected = marginal(logits.softmax(dim=1), groups)
    torch.testing.assert_close(marginal_logits(logits, groups).softmax(dim=1), expected, rtol=1e-12, atol=1e-300)


def test_where_labels_tell_all_it_is_the_plain_loss_itself(tiny_task: Task) -> None:
    loss = make_loss(tiny_task, BOTH)
    assert known_loss(loss, [None, None]) is loss


def test_a_batch_of_several_kinds_is_the_mean_over_its_samples(tiny_task: Task) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 3, 4, 4, 4, generator=generator, dtype=torch.float64)
    target = targets(torch.randint(0, 3, (3, 4, 4, 4), generator=generator), tiny_task).double()
    groups, loss = known_groups(tiny_task, MERGED), make_loss(tiny_task, BOTH)
    apart = known_loss(loss, [groups])(logits[1:2], target[1:2]).item()
    whole = loss(logits[[0, 2]], target[[0, 2]]).item()
    mixed = known_loss(loss, [None, groups, None])(logits, target).item()
    assert mixed == pytest.approx((apart + 2 * whole) / 3, rel=1e-12)


@pytest.mark.parametrize("lacks", [MERGED, UNLABELLED], ids=["merged", "unlabelled"])
def test_gradients_lead_downhill_and_do_not_choose_between_what_is_not_told(tiny_task: Task, lacks: Lacks) -> None:
    """Where two classes have one logit, the label that does not tell them apart pulls both alike."""
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (1, 4, 4, 4)))
    target = targets(label, tiny_task).double()
    loss = known_loss(make_loss(tiny_task, BOTH), [known_groups(tiny_task, lacks)])
    logits = torch.zeros(1, 3, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    before = loss(logits, target)
    (gradient,) = torch.autograd.grad(before, logits)
    assert gradient.abs().min() > 0
    assert loss(logits - gradient, target).item() < before.item()
    one, other = (1, 2) if lacks is MERGED else (0, 2)
    torch.testing.assert_close(gradient[:, one], gradient[:, other])


# --- Training and measuring ------------------------------------------------------------------------------------------


def fresh(task: Task) -> SegFormer3D:
    torch.manual_seed(0)
    return build(task.model, task.output_bias)


def trained(task: Task, cases: tuple[PreparedCase, ...], epochs: int = 1) -> SegFormer3D:
    model = fresh(task)
    settings = TrainingSettings(batch_size=2, learning_rate=0.01)
    train_part(model, cases, task, settings, Part(0, 1, epochs, 0, "s"), device=CPU)
    return model


def test_which_merged_value_a_label_holds_changes_no_bit(
    tmp_path: Path, dataset: Callable[..., Path], tiny_task: Task
) -> None:
    whole = prepare(dataset(merged=[["First", "second"]]), tiny_task, tmp_path / "cache", validation_share=0).train
    assert all(case.lacks == Lacks(merged=(("First", "second"),)) for case in whole)
    as_if_whole = tuple(replace(case, lacks=Lacks()) for case in whole)
    model = trained(tiny_task, whole)
    assert not _equal(model, trained(tiny_task, as_if_whole))
    _merge(whole)
    assert _equal(model, trained(tiny_task, whole))


def test_a_model_learns_from_merged_labels_what_they_tell(
    tmp_path: Path, dataset: Callable[..., Path], tiny_task: Task
) -> None:
    """With whole labels at half of the cases it learns both structures, and the merged half does no harm."""
    whole = prepare(dataset("whole"), tiny_task, tmp_path / "cache", validation_share=0).train
    merged = prepare(dataset("less", merged=[["first", "second"]]), tiny_task, tmp_path / "c2", validation_share=0)
    _merge(merged.train)
    model = trained(tiny_task, (*whole, *merged.train), epochs=12)
    found = validate(model, whole, tiny_task, device=CPU)
    assert min(found.dice) > 0.8
    there = validate(model, merged.train, tiny_task, device=CPU)
    assert all(math.isnan(dice) for dice in there.dice)
    assert there.loss < 0.5
    both = validate(model, (*whole, *merged.train), tiny_task, device=CPU)
    assert both.dice == pytest.approx(found.dice)


def test_an_unlabelled_structure_is_not_measured_and_the_others_are(
    tmp_path: Path, dataset: Callable[..., Path], tiny_task: Task
) -> None:
    data = prepare(dataset(unlabelled=["second"]), tiny_task, tmp_path / "cache", validation_share=0)
    first, second = validate(fresh(tiny_task), data.train, tiny_task, device=CPU).dice
    assert 0 <= first <= 1
    assert math.isnan(second)


def test_evaluation_leaves_out_what_a_label_does_not_tell(
    tmp_path: Path, dataset: Callable[..., Path], tiny_task: Task
) -> None:
    cases = find_cases(dataset(unlabelled=["second"]))[:2]
    result = evaluate(fresh(tiny_task), tiny_task, cases, tmp_path / "out", device=CPU, seed=0)
    first, second = result.structures
    assert (first.dice.count, first.dice.excluded) == (2, 0)
    assert (second.dice.count, second.dice.excluded, second.dice.mean) == (0, 2, None)
    assert result.calibration[1].expected_error is None


def _merge(cases: tuple[PreparedCase, ...]) -> None:
    """Give both structures the value of the first, as a hospital does that does not tell them apart."""
    for case in cases:
        np.save(case.folder / "label.npy", np.minimum(np.load(case.folder / "label.npy"), 1))


def _equal(first: SegFormer3D, second: SegFormer3D) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# --- Contrasts that are absent ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["zscore", "zscore_nonzero", "minmax"])
def test_an_absent_contrast_is_zero_and_the_others_are_as_ever(
    tmp_path: Path, make_dataset: MakeDataset, tiny_task: Task, scaling: Any
) -> None:
    model = replace(tiny_task.model, in_channels=3)
    task = replace(tiny_task, modalities=("flair", "t1", "t2"), intensity=scaling, model=model)
    image, label = blocks(0)
    whole = np.stack([image, image**2 + 1, np.exp(image)], axis=-1).astype(np.float32)
    full = make_dataset(tmp_path / "full", {"case": (whole, label)})
    less = make_dataset(tmp_path / "less", {"case": (whole[..., [0, 2]], label)})
    described = json.loads((less / "dataset.json").read_text())
    (less / "dataset.json").write_text(json.dumps({**described, "absent": ["T1"]}))
    cache = tmp_path / "cache"
    complete, lacking = (prepare_case(find_cases(folder)[0], task, cache).image() for folder in (full, less))
    assert lacking.shape == complete.shape
    assert not lacking[1].any()
    np.testing.assert_array_equal(lacking[[0, 2]], complete[[0, 2]])
    assert not read_case(find_cases(less)[0], task).image[1].any()
    assert present_task(task, Lacks(absent=("t1",))).modalities == ("flair", "t2")
    assert not [finding for finding in check_folder(less, task, workers=1).findings if finding.case]


def test_an_absent_contrast_does_not_vary_and_the_others_do_as_ever(
    tmp_path: Path, make_dataset: MakeDataset, tiny_task: Task
) -> None:
    task = replace(tiny_task, modalities=("a", "b"), model=replace(tiny_task.model, in_channels=2))
    image, label = blocks(0)
    (files,) = find_cases(make_dataset(tmp_path / "data", {"case": (np.stack([image, image], axis=-1), label)}))
    case = prepare_case(files, task, tmp_path / "cache")
    lacking = replace(case, lacks=Lacks(absent=("a",)))
    for seed in range(20):
        whole, less = (
            sample_patch(kind, task, TrainingSettings(augment=True), np.random.default_rng(seed)).image
            for kind in (case, lacking)
        )
        assert not less[0].any()
        assert torch.equal(less[1], whole[1])


def test_what_is_said_to_be_absent_is_part_of_the_key_of_a_prepared_case(
    tmp_path: Path, make_dataset: MakeDataset, tiny_task: Task
) -> None:
    task = replace(tiny_task, modalities=("a", "b"), model=replace(tiny_task.model, in_channels=2))
    (case,) = find_cases(make_dataset(tmp_path / "data", {"case": blocks(0)}))
    first, second = (
        prepare_case(replace(case, lacks=Lacks(absent=(name,))), task, tmp_path / "cache") for name in ("a", "b")
    )
    assert first.folder != second.folder
    assert np.array_equal(first.image()[1], second.image()[0])


# --- How it is said --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"merged": "first"}, "'merged' must be a list of groups"),
        ({"merged": ["first", "second"]}, "each group of 'merged' must be a list of names"),
        ({"merged": [["first"]]}, "each group of 'merged' must name two structures or more"),
        ({"merged": [["first", 2]]}, "each group of 'merged' must be a list of names"),
        ({"unlabelled": "second"}, "'unlabelled' must be a list of names"),
        ({"absent": [""]}, "'absent' must be a list of names"),
        ({"merged": [["first", "second"]], "unlabelled": ["Second"]}, "'second' may stand once in absent, merged"),
    ],
)
def test_another_form_is_refused_in_one_line(dataset: Callable[..., Path], said: dict[str, Any], text: str) -> None:
    folder = dataset(**said)
    with pytest.raises(DataError, match=text) as raised:
        find_cases(folder)
    assert "\n" not in str(raised.value)
    assert str(folder / "dataset.json") in str(raised.value)


@pytest.mark.parametrize(
    ("lacks", "text"),
    [
        (
            Lacks(merged=(("first", "third"),)),
            "a structure 'third' is lacking, and those of task tiny are first, second",
        ),
        (Lacks(unlabelled=("third",)), "structure 'third' is lacking"),
        (Lacks(absent=("CT",)), "a contrast 'CT' is lacking, and those of task tiny are MRI"),
        (Lacks(absent=("MRI",)), "all contrasts, or all structures"),
        (Lacks(unlabelled=("first", "second")), "all contrasts, or all structures"),
    ],
)
def test_names_that_are_not_the_tasks_are_refused(tiny_task: Task, lacks: Lacks, text: str) -> None:
    with pytest.raises(CaseError, match=text):
        check_lacks(lacks, tiny_task)


def test_regions_cannot_be_merged() -> None:
    with pytest.raises(CaseError, match="overlap in task phantom; name the regions that the label does not show"):
        check_lacks(Lacks(merged=(("whole tumour", "tumour core"),)), PHANTOM)


def test_a_wrong_name_ends_training_in_one_line(tmp_path: Path, dataset: Callable[..., Path], tiny_task: Task) -> None:
    with pytest.raises(DataError, match=r"no usable case: all 4 were set aside, the first because .*'third'"):
        prepare(dataset(unlabelled=["third"]), tiny_task, tmp_path / "cache")
    with pytest.raises(DataError, match="'third' is lacking"):
        check_folder(dataset("again", unlabelled=["third"]), tiny_task, workers=1)


def test_a_folder_of_another_layout_says_it_in_a_file_of_its_own(
    tmp_path: Path, make_dataset: MakeDataset, tiny_task: Task
) -> None:
    folder = make_dataset(tmp_path / "plain", {f"case{n}": blocks(n) for n in range(2)}, layout="plain")
    assert read_lacks(folder) == Lacks()
    (folder / "dataset.json").write_text(json.dumps({"unlabelled": ["second"]}))
    assert [case.lacks for case in find_cases(folder)] == [UNLABELLED, UNLABELLED]
    with pytest.raises(DataError, match="does not tell its task"):
        task_of_folder(folder)
