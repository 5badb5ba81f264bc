"""Local training: the same bits every time, one schedule over all parts, AdamW's own updates, and it learns."""

import copy
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segformer3d.dataset import PreparedCase, prepare
from segformer3d.errors import CheckpointError, ConfigurationError, DataError
from segformer3d.files import StorageError
from segformer3d.losses import make_loss, targets
from segformer3d.model import SegFormer3D, build
from segformer3d.optimizer_file import load_optimizer, save_optimizer
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task, get_task
from segformer3d.training import Part, Step, learning_rate, make_optimizer, train_part, validate
from segformer3d.training_reports import TrainingReport
from tests.conftest import MakeDataset

CPU = torch.device("cpu")
ONCE = Part(0, 1, 1, 0, "site")


@pytest.fixture(scope="session")
def cases(
    tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset, tiny_task: Task
) -> tuple[PreparedCase, ...]:
    """Six volumes of the patch's size, each with two bright blocks in noise: one block 1, the other, brighter, 2."""
    folder, scans = tmp_path_factory.mktemp("training"), {}
    for number in range(6):
        generator = np.random.default_rng(number)
        label = np.zeros((12, 12, 12), np.int16)
        x, y, z = generator.integers(0, 6, 3)
        label[x : x + 6, y : y + 6, :6] = 1
        label[z : z + 6, x : x + 6, 6:] = 2
        scans[f"case{number}"] = (label * 3 + generator.normal(0, 0.5, label.shape), label)
    data = prepare(make_dataset(folder / "data", scans), tiny_task, folder / "cache", validation_share=0)
    return data.train


def fresh(task: Task, seed: int = 0) -> SegFormer3D:
    torch.manual_seed(seed)
    return build(task.model, task.output_bias)


def train(
    task: Task,
    cases: Sequence[PreparedCase],
    part: Part = ONCE,
    settings: TrainingSettings | None = None,
    model: SegFormer3D | None = None,
    before: Path | None = None,
    after: Path | None = None,
    workers: int = 0,
) -> tuple[SegFormer3D, TrainingReport, list[Step]]:
    steps: list[Step] = []
    model = model or fresh(task)
    report = train_part(
        model,
        cases,
        task,
        settings or TrainingSettings(),
        part,
        device=CPU,
        optimizer_from=before,
        optimizer_to=after,
        on_step=steps.append,
        workers=workers,
    )
    return model, report, steps


@pytest.fixture(scope="module")
def once(
    tmp_path_factory: pytest.TempPathFactory, tiny_task: Task, cases: tuple[PreparedCase, ...]
) -> tuple[SegFormer3D, list[Step], Path]:
    """What `ONCE` makes of a fresh model, its steps, and the file of its moments."""
    after = tmp_path_factory.mktemp("once") / "moments.safetensors"
    model, _, steps = train(tiny_task, cases, after=after)
    return model, steps, after


def equal(first: SegFormer3D, second: SegFormer3D) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# --- Determinism -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_part_that_is_run_again_gives_the_same_bits(
    tmp_path: Path, tiny_task: Task, cases: tuple[PreparedCase, ...], dropout: float
) -> None:
    task = replace(tiny_task, model=replace(tiny_task.model, decoder_dropout=dropout))
    runs = []
    for number in range(2):
        torch.manual_seed(number)  # whatever the process did before
        after = tmp_path / f"{number}.safetensors"
        model = copy.deepcopy(fresh(task))
        torch.rand(number + 1)
        runs.append((*train(task, cases, model=model, after=after), after.read_bytes()))
    (first, _, steps, moments), (second, _, again, moments_again) = runs
    assert equal(first, second)
    assert steps == again
    assert moments == moments_again


@pytest.mark.parametrize(
    "part", [Part(0, 1, 1, 1, "site"), Part(0, 1, 1, 0, "other site"), Part(1, 2, 1, 0, "site")], ids=str
)
def test_seed_site_and_part_each_have_random_numbers_of_their_own(
    tiny_task: Task, cases: tuple[PreparedCase, ...], once: tuple[SegFormer3D, list[Step], Path], part: Part
) -> None:
    assert not equal(once[0], train(tiny_task, cases, part)[0])


def test_a_worker_process_gives_the_same_bits(
    tiny_task: Task, cases: tuple[PreparedCase, ...], once: tuple[SegFormer3D, list[Step], Path]
) -> None:
    alone, steps, _ = once
    helped, _, steps_helped = train(tiny_task, cases, workers=1)
    assert equal(alone, helped)
    assert steps == steps_helped


def test_training_leaves_the_random_numbers_of_the_process_alone(
    tiny_task: Task, cases: tuple[PreparedCase, ...]
) -> None:
    model = fresh(tiny_task)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tiny_task, cases, model=model)
    assert torch.equal(torch.rand(3), expected)


# --- Parts -----------------------------------------------------------------------------------------------------------


def test_a_part_passes_over_every_case_once_an_epoch(tiny_task: Task, cases: tuple[PreparedCase, ...]) -> None:
    _, report, steps = train(tiny_task, cases, Part(0, 1, 3, 0, "site"), TrainingSettings(batch_size=4))
    assert (report.cases, report.samples, report.steps) == (6, 18, 5)
    assert [step.samples for step in steps] == [4, 4, 4, 4, 2]
    assert [step.number for step in steps] == [1, 2, 3, 4, 5]
    assert all(step.steps == 5 for step in steps)
    assert report.loss == pytest.approx(np.mean([step.loss for step in steps]))
    assert report.seconds > 0


def test_moments_and_step_counts_go_on_from_part_to_part(
    tmp_path: Path, tiny_task: Task, cases: tuple[PreparedCase, ...]
) -> None:
    pairs = TrainingSettings(batch_size=2)
    files = [tmp_path / f"{index}.safetensors" for index in range(2)]
    model, _, _ = train(tiny_task, cases, Part(0, 2, 1, 0, "site"), pairs, after=files[0])
    forgetful = copy.deepcopy(model)
    train(tiny_task, cases, Part(1, 2, 1, 0, "site"), pairs, model=model, before=files[0], after=files[1])
    train(tiny_task, cases, Part(1, 2, 1, 0, "site"), pairs, model=forgetful)
    counts = [{float(v) for name, v in load_file(file).items() if name.startswith("step:")} for file in files]
    assert counts == [{3.0}, {6.0}]
    assert not equal(model, forgetful)


def test_three_parts_are_adamw_without_a_break(
    tmp_path: Path, tiny_task: Task, cases: tuple[PreparedCase, ...]
) -> None:
    """Oracle: one AdamW of PyTorch, never written to a file, on the whole data set at once."""
    settings = TrainingSettings(batch_size=6, augment=False, warmup=0.0, gradient_clip=1e6)
    model, moments = fresh(tiny_task), tmp_path / "moments.safetensors"
    for index in range(3):
        part = Part(index, 3, 1, 0, "site")
        train(tiny_task, cases, part, settings, model, moments if index else None, moments)

    reference = fresh(tiny_task).train()
    optimizer = torch.optim.AdamW(
        reference.parameters(), weight_decay=settings.weight_decay, foreach=False, fused=False
    )
    image = torch.stack([torch.from_numpy(np.array(case.image())) for case in cases])
    target = targets(torch.stack([torch.from_numpy(np.array(case.label())) for case in cases]), tiny_task)
    for index in range(3):
        optimizer.param_groups[0]["lr"] = learning_rate(settings, index, 3)
        optimizer.zero_grad()
        make_loss(tiny_task, settings)(reference(image), target).backward()
        optimizer.step()
    # What they compute, not the weights: a bias before batch norm has noise for a gradient, which AdamW follows.
    with torch.no_grad():
        before, ours, theirs = (network.train()(image) for network in (fresh(tiny_task), model, reference))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert (ours - before).abs().max() > 0.05


def test_the_first_update_is_adamws_by_hand(tiny_task: Task, cases: tuple[PreparedCase, ...]) -> None:
    """Step 1 of AdamW from empty moments: w - rate · (decay · w + g / (|g| + 1e-8)), with g clipped to the norm."""
    settings = TrainingSettings(batch_size=6, augment=False, gradient_clip=0.01, weight_decay=0.5)
    model, reference = fresh(tiny_task), fresh(tiny_task).train()
    train(tiny_task, cases, settings=settings, model=model)

    image = torch.stack([torch.from_numpy(np.array(case.image())) for case in cases])
    target = targets(torch.stack([torch.from_numpy(np.array(case.label())) for case in cases]), tiny_task)
    make_loss(tiny_task, settings)(reference(image), target).backward()
    norm = nn.utils.clip_grad_norm_(reference.parameters(), settings.gradient_clip)
    assert norm > settings.gradient_clip
    rate = settings.learning_rate
    for (name, ours), before in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert before.grad is not None
        # Where a gradient is but rounding noise, its sign is not defined, and neither is the update.
        certain = before.grad.abs() > 1e-6
        expected = before - rate * (settings.weight_decay * before + before.grad / (before.grad.abs() + 1e-8))
        torch.testing.assert_close(ours[certain], expected[certain], rtol=1e-4, atol=rate * 0.02, msg=name)
        assert ((ours - before).abs() <= rate * (1 + settings.weight_decay * before.abs()) * 1.001).all()


@pytest.mark.parametrize("values", [(-1, 1, 1, 0), (1, 1, 1, 0), (0, 0, 1, 0), (0, 1, 0, 0), (0, 1, 1, -1)], ids=str)
def test_a_part_outside_its_schedule_is_refused(values: tuple[int, int, int, int]) -> None:
    with pytest.raises(ConfigurationError, match="a part needs 0 <= index < parts, epochs >= 1 and seed >= 0"):
        Part(*values, "site")


def test_nothing_to_train_on_is_one_line(tiny_task: Task) -> None:
    with pytest.raises(DataError, match="there is no case to train on"):
        train(tiny_task, ())


# --- Learning rate ---------------------------------------------------------------------------------------------------


@given(warmup=st.floats(0, 0.5), steps=st.integers(1, 300))
def test_the_rate_is_a_linear_warm_up_and_half_a_cosine(warmup: float, steps: int) -> None:
    settings = TrainingSettings(learning_rate=0.01, warmup=warmup)
    rates = np.array([learning_rate(settings, step, steps) for step in range(steps)])
    warm = max(1, int(warmup * steps))
    np.testing.assert_allclose(rates[:warm], 0.01 * np.arange(1, warm + 1) / warm)
    share = np.arange(steps - warm) / max(1, steps - warm)
    np.testing.assert_allclose(rates[warm:], 0.005 * (1 + np.cos(np.pi * share)), atol=1e-12)
    assert rates.max() == pytest.approx(0.01)
    assert (np.diff(rates[warm:]) <= 0).all()


def test_parts_follow_one_schedule_that_never_starts_again(tiny_task: Task, cases: tuple[PreparedCase, ...]) -> None:
    settings = TrainingSettings(batch_size=2, warmup=0.25, augment=False)
    model, rates = fresh(tiny_task), []
    for index in range(4):
        rates += [s.learning_rate for s in train(tiny_task, cases, Part(index, 4, 1, 0, "site"), settings, model)[2]]
    assert rates == [learning_rate(settings, step, 12) for step in range(12)]
    assert np.argmax(rates) in (2, 3)
    assert (np.diff(rates[3:]) < 0).all()


# --- Optimizer files -------------------------------------------------------------------------------------------------


def test_moments_are_read_as_they_were_written(tmp_path: Path, once: tuple[SegFormer3D, list[Step], Path]) -> None:
    model, _, path = once
    copied = tmp_path / "copy.safetensors"
    optimizer = make_optimizer(model, TrainingSettings())
    load_optimizer(path, optimizer, model)
    save_optimizer(copied, optimizer, model)
    assert copied.read_bytes() == path.read_bytes()
    assert set(load_file(path)) == {
        f"{kind}:{name}" for kind in ("step", "exp_avg", "exp_avg_sq") for name, _ in model.named_parameters()
    }


def moments_without(stored: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in stored.items() if key != name}


DAMAGES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "empty": lambda _: {},
    "lost step": lambda stored: moments_without(stored, "step:stages.0.norm.bias"),
    "lost moment": lambda stored: moments_without(stored, "exp_avg_sq:stages.0.norm.bias"),
    "other first moment": lambda stored: stored | {"exp_avg:stages.0.norm.bias": torch.zeros(3)},
    "other second moment": lambda stored: stored | {"exp_avg_sq:stages.0.norm.bias": torch.zeros(3)},
    "other step": lambda stored: stored | {"step:stages.0.norm.bias": torch.zeros(3)},
}


@pytest.mark.parametrize("name", DAMAGES)
def test_moments_of_another_model_are_refused_before_anything_is_trained(
    tmp_path: Path,
    tiny_task: Task,
    cases: tuple[PreparedCase, ...],
    once: tuple[SegFormer3D, list[Step], Path],
    name: str,
) -> None:
    path = tmp_path / "moments.safetensors"
    save_file(DAMAGES[name](load_file(once[2])), path)
    model = fresh(tiny_task)
    with pytest.raises(CheckpointError, match=r"moments\.safetensors is of another architecture; remove it") as refused:
        train(tiny_task, cases, model=model, before=path)
    assert "\n" not in str(refused.value)
    assert equal(model, fresh(tiny_task))


@pytest.mark.parametrize("content", [None, b"", b"noise" * 99])
def test_damaged_or_missing_moments_are_one_line(
    tmp_path: Path, tiny_task: Task, cases: tuple[PreparedCase, ...], content: bytes | None
) -> None:
    path = tmp_path / "moments.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as refused:
        train(tiny_task, cases, before=path)
    assert "\n" not in str(refused.value)


def test_a_full_disk_keeps_the_older_moments(
    tmp_path: Path,
    tiny_task: Task,
    cases: tuple[PreparedCase, ...],
    once: tuple[SegFormer3D, list[Step], Path],
    full_disk: Callable[[int], AbstractContextManager[None]],
) -> None:
    path = tmp_path / "moments.safetensors"
    shutil.copy(once[2], path)
    before = path.read_bytes()
    with full_disk(len(before) // 2), pytest.raises(StorageError, match=r"cannot write .* free space"):
        train(tiny_task, cases, before=path, after=path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["moments.safetensors"]


# --- It learns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["softmax, dice alone", "sigmoid, group norm"])
def test_a_separable_problem_is_learnt(tiny_task: Task, cases: tuple[PreparedCase, ...], kind: str) -> None:
    task, settings = tiny_task, TrainingSettings(learning_rate=2e-2, augment=False)
    if kind == "sigmoid, group norm":
        task = replace(task, activation="sigmoid", model=replace(task.model, num_classes=2, norm="group"))
    else:
        settings = replace(settings, loss="dice")
    model = fresh(task)
    before = validate(model, cases, task, device=CPU)
    _, _, steps = train(task, cases, Part(0, 1, 10, 0, "site"), settings, model)
    after = validate(model, cases, task, device=CPU)
    losses = [step.loss for step in steps]
    assert np.mean(losses[-6:]) < 0.5 * np.mean(losses[:6])
    assert max(before.dice) < 0.5
    assert min(after.dice) > 0.8
    assert after.loss < before.loss


def test_augmented_training_learns_too(tiny_task: Task, cases: tuple[PreparedCase, ...]) -> None:
    model, _, steps = train(tiny_task, cases, Part(0, 1, 10, 0, "site"), TrainingSettings(learning_rate=2e-2))
    assert np.mean([s.loss for s in steps[-6:]]) < 0.7 * np.mean([s.loss for s in steps[:6]])
    assert min(validate(model, cases, tiny_task, device=CPU).dice) > 0.6


# --- Validation ------------------------------------------------------------------------------------------------------


class Says(nn.Module):
    """The same logits everywhere."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x_BCXYZ: Tensor) -> Tensor:
        """Logits (B, K, X, Y, Z)."""
        return self.logits.view(1, -1, 1, 1, 1).expand(x_BCXYZ.shape[0], -1, *x_BCXYZ.shape[2:])


def test_validation_by_hand(tiny_task: Task, cases: tuple[PreparedCase, ...]) -> None:
    """Structure 1 everywhere: Dice 2 · 216 / (216 + 1728) and 0. The loss is that of constant probabilities."""
    logits = (0.0, math.log(2), 0.0)  # probabilities 1/4, 1/2, 1/4
    report = validate(Says(*logits), cases[:1], tiny_task, device=CPU)  # type: ignore[arg-type]
    inside, whole = 216, 1728
    assert report.dice == pytest.approx((2 * inside / (inside + whole), 0.0))
    soft = [1 - 2 * p * inside / (p * whole + inside) for p in (0.5, 0.25)]
    entropy = -((whole - inside) * math.log(1 / 4) + inside * math.log(1 / 2)) / whole
    assert report.loss == pytest.approx(np.mean(soft) + entropy, rel=1e-4)
    assert report.cases == 1


def test_validation_of_regions_by_hand(tiny_task: Task, cases: tuple[PreparedCase, ...]) -> None:
    task = replace(tiny_task, activation="sigmoid", model=replace(tiny_task.model, num_classes=2))
    report = validate(Says(math.log(3), -math.log(3)), cases[:1], task, device=CPU)  # type: ignore[arg-type]
    inside, whole = 216, 1728
    assert report.dice == pytest.approx((2 * inside / (inside + whole), 0.0))
    soft = [1 - 2 * p * inside / (p * whole + inside) for p in (0.75, 0.25)]
    entropy = [-(inside * math.log(p) + (whole - inside) * math.log(1 - p)) / whole for p in (0.75, 0.25)]
    assert report.loss == pytest.approx(np.mean(soft) + np.mean(entropy), rel=1e-4)


def test_a_structure_that_is_rightly_not_found_scores_one(
    tmp_path: Path, tiny_task: Task, make_dataset: MakeDataset
) -> None:
    label = np.zeros((12, 12, 12), np.int16)
    image = np.random.default_rng(0).normal(size=label.shape)
    data = prepare(make_dataset(tmp_path / "data", {"a": (image, label)}), tiny_task, tmp_path / "cache")
    report = validate(Says(9.0, 0.0, 0.0), data.train, tiny_task, device=CPU)  # type: ignore[arg-type]
    assert report.dice == (1.0, 1.0)


def test_without_a_case_there_is_no_score(tiny_task: Task) -> None:
    report = validate(fresh(tiny_task), (), tiny_task, device=CPU)
    assert all(math.isnan(value) for value in (*report.dice, report.loss))
    assert report.cases == 0


def test_the_training_loss_and_the_validation_loss_agree(tiny_task: Task, cases: tuple[PreparedCase, ...]) -> None:
    """On one window, Dice plus cross-entropy from probabilities is the loss from logits."""
    model = fresh(tiny_task).eval()
    image = torch.from_numpy(np.array(cases[0].image()))[None]
    target = targets(torch.from_numpy(np.array(cases[0].label()))[None], tiny_task)
    with torch.no_grad():
        expected = make_loss(tiny_task, TrainingSettings())(model(image), target).item()
    assert validate(model, cases[:1], tiny_task, device=CPU).loss == pytest.approx(expected, rel=1e-4)


def test_the_full_model_takes_a_step_on_a_real_scan(tmp_path: Path, shared: Path) -> None:
    source, folder = shared / "data" / "hippocampus", tmp_path / "data"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for path in sorted((source / f"{kind}Tr").glob("*.nii.gz"))[:2]:
            (folder / kind / path.name).symlink_to(path)
    task = get_task("hippocampus")
    data = prepare(folder, task, tmp_path / "cache")
    model, report, _ = train(task, data.train)
    assert report.steps == 1
    assert 0 < report.loss < 10
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
