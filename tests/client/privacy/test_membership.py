"""Membership inference finds what a model has memorised and nothing in a fresh one; a run folder's audit says both.

Oracles: counting all pairs; cases worked out by hand; closed forms; models that were trained on noise.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.privacy import run_audit
from client.privacy.accounting import Event, spent
from client.privacy.audit_commands import AuditError, audit_and_print
from client.privacy.membership import (
    auc,
    clopper_pearson,
    halves,
    likelihood_ratios,
    loss_logit,
    membership_test,
    patient_losses,
    score_attack,
    shadow_test,
)
from client.privacy.promise import Promise
from client.privacy.run_audit import audit_run, most_found, read_run
from client.privacy.settings import PrivacySettings
from segformer3d.checkpoint import save
from segformer3d.dataset import prepare
from segformer3d.errors import CheckpointError, ConfigurationError, DataError
from segformer3d.fit import initial_model
from segformer3d.model import SegFormer3D
from segformer3d.patients import Patient, patients_of
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task, adjust
from segformer3d.training import Part, train_part, validate

from ..tiny_site import TINY, write_site

CPU = torch.device("cpu")
QUICK = TrainingSettings(batch_size=2, learning_rate=1e-2, augment=False)
TASK = adjust(TINY, {"norm": "group"}, {})


# ---- Scores ----


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=12),
    st.lists(st.integers(0, 6), min_size=1, max_size=12),
)
def test_auc_is_the_share_of_pairs_in_order(members: list[int], others: list[int]):
    pairs = [1.0 if m > o else 0.5 if m == o else 0.0 for m in members for o in others]
    found = auc(np.array(members, float), np.array(others, float))
    assert found == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_the_true_positive_rate_is_that_of_the_strictest_threshold():
    others = np.arange(200.0)  # 1 % of 200 may be accused: 199 and 198, so members must be above 197
    result = score_attack(np.array([197.0, 197.5, 198.0, 500.0]), others)
    assert result.tpr == 0.75
    assert (result.tpr_low, result.tpr_high) == clopper_pearson(3, 4)
    assert result.fpr_high == clopper_pearson(2, 200)[1]


def test_with_few_others_none_may_be_accused():
    result = membership_test([0.1, 0.2, 0.5], [0.3, 0.4])
    assert result.tpr == pytest.approx(2 / 3)  # a loss below 0.3
    assert result.fpr_high == pytest.approx(1 - 0.025 ** (1 / 2))  # none of two
    assert (result.members, result.others) == (3, 2)
    assert result.auc == pytest.approx(4 / 6)


def test_ties_find_nobody():
    result = membership_test([0.5] * 10, [0.5] * 10)
    assert (result.auc, result.tpr) == (0.5, 0.0)
    assert result.auc_low < 0.5 < result.auc_high


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (5, 5), (3, 10), (1, 100)])
def test_clopper_and_pearson_end_where_a_tail_has_two_and_a_half_percent(successes: int, trials: int):
    def at_least(p: float, k: int) -> float:
        return sum(math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in range(k, trials + 1))

    low, high = clopper_pearson(successes, trials)
    assert low == 0 if successes == 0 else at_least(low, successes) == pytest.approx(0.025)
    assert high == 1 if successes == trials else 1 - at_least(high, successes + 1) == pytest.approx(0.025)


def test_the_interval_of_the_auc_covers_the_truth():
    """Of 400 experiments with 15 and 30 Gaussian scores, at most 5 % and a margin miss the closed form."""
    generator, shift = np.random.default_rng(0), 1.0
    truth = 0.5 * (1 + math.erf(shift / 2))
    missed = 0
    for _ in range(400):
        result = score_attack(generator.normal(shift, 1, 15), generator.normal(0, 1, 30))
        missed += not result.auc_low <= truth <= result.auc_high
    assert missed / 400 < 0.05 + 0.03


@pytest.mark.parametrize(("members", "others"), [([], [1.0]), ([1.0], [])])
def test_both_groups_are_needed(members: list[float], others: list[float]):
    with pytest.raises(DataError, match="needs patients of both kinds"):
        membership_test(members, others)


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(DataError, match="not a finite number"):
        membership_test([math.nan], [1.0])


# ---- Likelihood ratios ----


def test_everyone_is_in_half_of_the_shadow_models():
    inside = halves(7, 8, seed=1)
    assert (inside.sum(axis=0) == 4).all()
    assert set(inside.sum(axis=1)) == {3, 4}
    assert not (inside == halves(7, 8, seed=2)).all()


@pytest.mark.parametrize(("patients", "shadows"), [(1, 8), (9, 3), (9, 2)])
def test_shadow_models_come_in_pairs(patients: int, shadows: int):
    with pytest.raises(DataError, match="shadow models need"):
        halves(patients, shadows, seed=0)


@given(st.floats(1e-6, 30))
def test_the_logit_is_that_of_the_probability(loss: float):
    p = math.exp(-loss)
    assert loss_logit(np.array([loss]))[0] == pytest.approx(math.log(p) - math.log1p(-p), rel=1e-6, abs=1e-9)


def test_the_ratio_is_that_of_two_gaussians():
    """Two patients and four models, by hand: the deviations are shared, with one degree of freedom for each mean."""
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [4.0, 2.0], [2.0, 3.0]])
    inside = np.array([[True, False], [False, True], [True, False], [False, True]])
    target = np.array([3.0, 1.0])
    found = likelihood_ratios(np.log1p(np.exp(-target)), np.log1p(np.exp(-logits)), inside)

    def density(x: float, mean: float, variance: float) -> float:
        return -((x - mean) ** 2) / 2 / variance - math.log(variance) / 2

    within, without = (2 * 1 + 2 * 1) / 2, (2 * 1 + 2 * 1) / 2
    expected = [
        density(3, 3, within) - density(3, 1, without),
        density(1, 2, within) - density(1, 1, without),
    ]
    assert found == pytest.approx(expected, abs=1e-9)


def test_likelihood_ratios_see_through_how_hard_patients_are():
    """Losses that vary between patients more than membership moves them: the threshold is blind, the ratio is not."""
    generator, patients, shadows = np.random.default_rng(3), 200, 8
    hard = generator.uniform(0.2, 1.5, patients)
    inside = halves(patients, shadows, seed=3)

    def losses(chosen: Any) -> Any:
        return hard * np.where(chosen, 0.8, 1.0) * np.exp(generator.normal(0, 0.08, np.shape(chosen)))

    member = np.arange(patients) < 100
    target = losses(member)
    threshold = membership_test(target[:100], target[100:])
    scores = likelihood_ratios(target, losses(inside), inside)
    ratio = score_attack(scores[:100], scores[100:])
    assert threshold.auc < 0.7
    assert ratio.auc > threshold.auc + 0.2
    assert ratio.auc_low > 0.8


# ---- Models ----


def unrelated(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a ball drawn at random into the label: what a model knows of it, it knows by heart."""
    grid = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), axis=-1)
    label = (np.linalg.norm(grid - generator.uniform(4, 12, 3), axis=-1) < 4).astype(np.uint8)
    return generator.normal(0, 1, label.shape).astype(np.float32), label


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> tuple[Patient, ...]:
    folder = tmp_path_factory.mktemp("noise")
    data = prepare(write_site(folder / "data", 16, 5, unrelated), TINY, folder / "cache", validation_share=0.0)
    return patients_of(data.train)


def overfitted(patients: Sequence[Patient], seed: int = 0, epochs: int = 20) -> SegFormer3D:
    model = initial_model(TINY, seed)
    cases = [case for patient in patients for case in patient.cases]
    train_part(model, cases, TINY, QUICK, Part(0, 1, epochs, seed, "overfitted"), device=CPU)
    return model


def test_a_patients_loss_is_the_mean_over_his_or_her_cases(patients: tuple[Patient, ...]):
    model = initial_model(TINY, 0)
    both = Patient("both", (*patients[0].cases, *patients[1].cases))
    first, second, mean = patient_losses(model, [patients[0], patients[1], both], TINY, CPU)
    assert mean == pytest.approx((first + second) / 2)
    assert first == validate(model, patients[0].cases, TINY, device=CPU).loss


def test_a_model_that_learnt_by_heart_gives_its_patients_away(patients: tuple[Patient, ...]):
    """Six patients of noise, learnt without privacy; a fresh model tells them from others no better than chance."""
    members, others = patients[:6], patients[6:]
    fresh, learnt = initial_model(TINY, 0), overfitted(members)
    unknown, known = (
        membership_test(patient_losses(model, members, TINY, CPU), patient_losses(model, others, TINY, CPU))
        for model in (fresh, learnt)
    )
    assert unknown.auc_low < 0.5 < unknown.auc_high
    assert known.auc > 0.9
    assert known.auc_low > 0.5
    assert known.tpr > 0.5


@pytest.mark.slow
def test_shadow_models_give_them_away_too(patients: tuple[Patient, ...]):
    members, others = patients[:8], patients[8:]
    done: list[int] = []
    result = shadow_test(
        overfitted(members),
        members,
        others,
        TINY,
        lambda chosen, number: overfitted(chosen, number + 1),
        device=CPU,
        shadows=4,
        on_shadow=lambda number, total: done.append(number),
    )
    assert done == [1, 2, 3, 4]
    assert result.auc > 0.9


# ---- Run folders ----

STEPS = 4


WriteRun = Callable[..., Path]


@pytest.fixture(scope="module")
def write_run(tmp_path_factory: pytest.TempPathFactory) -> WriteRun:
    """`write_run(folder, private=...)`: a folder as `segfed simulate` leaves it, whose patients are drawn once."""
    sites = tmp_path_factory.mktemp("sites")
    for name, cases, seed in (("site-1", 4, 1), ("site-2", 4, 2), ("held-out", 3, 3)):
        write_site(sites / name, cases, seed, unrelated)
    return partial(_write_run, sites)


def _write_run(
    sites: Path,
    folder: Path,
    *,
    private: bool,
    noise: str = "secure",
    task: Task = TASK,
    delta: float | None = None,
    **changed: Any,
) -> Path:
    """Two sites, held-out cases, a model, run.json and summary.json."""
    shutil.copytree(sites, folder / "sites")
    save(folder / "last.safetensors", initial_model(task, 0), task)
    privacy = PrivacySettings(epsilon=8.0, patients=4, crops=1, local_steps=2, noise=noise)  # type: ignore[arg-type]
    own = {"crops": 1, "local_steps": 2, "noise": noise}  # the number of patients is worked out when they are dealt out
    settings = {
        **{
            "sites": 2,
            "seed": 0,
            "rounds": 2,
            "local_epochs": 1,
            "start": None,
            "patient_pattern": None,
            "training": QUICK.to_json(),
        },
        **{"epsilon": 8.0 if private else None, "delta": delta, "privacy": own if private else {}},
    }
    multiplier = 1.5
    claimed = spent((Event(privacy.sampling_rate, multiplier, STEPS),), 1e-5)
    promise = Promise(claimed, 1e-5, claimed, multiplier, privacy.sampling_rate, STEPS, 4, noise == "secure")
    promises = {name: {**promise.to_json(), **changed} for name in ("site-1", "site-2")}
    told = {"unit": "patient", "claimed": noise == "secure", "sites": promises} if private else None
    (folder / "run.json").write_text(json.dumps({"settings": settings}), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps({"privacy": told}), encoding="utf-8")
    return folder


def test_a_private_runs_mechanism_and_model_are_attacked(write_run: WriteRun, tmp_path: Path):
    phases: list[str] = []
    folder = write_run(tmp_path / "run", private=True)
    result = audit_run(folder, canaries=200, device="cpu", seed=1, on_phase=phases.append)
    (mechanism,), threshold = result["mechanism"], result["membership"]["threshold"]
    assert result == json.loads((folder / "privacy.json").read_text(encoding="utf-8"))
    assert result["verdict"] == "not refuted"
    assert mechanism["sites"] == ["site-1", "site-2"]  # one audit, for they promise the same
    assert 0 < mechanism["lower_bound"] <= mechanism["claimed"]
    assert (threshold["members"], threshold["others"]) == (8, 3)  # nothing is kept for validation in a private run
    assert result["membership"]["likelihood_ratio"] is None
    assert result["membership"]["allowed_tpr"] == most_found(mechanism["claimed"], 1e-5)
    assert result["model_sha256"] == hashlib.sha256((folder / "last.safetensors").read_bytes()).hexdigest()
    assert len(phases) == 3
    assert "secret" not in json.dumps(result) + "".join(phases)  # no case's name


def test_the_public_number_of_patients_is_that_of_the_runs_promises(write_run: WriteRun, tmp_path: Path):
    """With four patients a delta of 0.1 may be asked for; with the twenty that settings suppose, it may not."""
    run = read_run(write_run(tmp_path / "run", private=True, delta=0.1))
    assert run.privacy is not None
    assert (run.privacy.patients, run.privacy.delta) == (4, 0.1)


def test_a_run_without_privacy_has_its_model_attacked(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = write_run(tmp_path / "run", private=False)
    audit_and_print(str(folder), deep=False, canaries=100, device="cpu")
    told = json.loads((folder / "privacy.json").read_text(encoding="utf-8"))
    assert (told["verdict"], told["mechanism"]) == ("no claim", [])
    assert told["membership"]["threshold"]["others"] == 5  # 3 held out, and one that each site validates with
    assert told["membership"]["allowed_tpr"] is None
    printed = capsys.readouterr().out
    assert "No privacy is claimed" in printed
    assert "canary" not in printed


@pytest.mark.parametrize("private", [pytest.param(True, marks=pytest.mark.slow), False])
def test_deep_trains_shadow_models(write_run: WriteRun, tmp_path: Path, private: bool):
    folder = write_run(tmp_path / "run", private=private)
    result = audit_run(folder, deep=True, canaries=50, duels=50, shadows=4, device="cpu", seed=2)
    ratio = result["membership"]["likelihood_ratio"]
    assert ratio["shadows"] == 4
    assert 0 <= ratio["auc_low"] <= ratio["auc"] <= ratio["auc_high"] <= 1


def test_a_claim_that_is_too_small_is_refuted_and_ends_in_an_error(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """As if the accountant had miscounted: the noise is what was promised, and the epsilon a fraction of its own."""
    folder = write_run(tmp_path / "run", private=True, epsilon=0.05)
    with pytest.raises(AuditError, match="do not release its model"):
        audit_and_print(str(folder), deep=False, canaries=300, device="cpu")
    assert "REFUTED" in capsys.readouterr().out
    assert json.loads((folder / "privacy.json").read_text(encoding="utf-8"))["verdict"] == "refuted"


def test_the_table_says_what_was_tried_found_claimed_and_not_shown(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    audit_and_print(str(write_run(tmp_path / "run", private=True)), deep=False, canaries=60, device="cpu")
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("canary patients", "guesses right", "at delta 1e-05", "AUC", "Not refuted", "does not show"):
        assert text in printed
    assert "secret" not in printed


def test_seeded_noise_claims_nothing(write_run: WriteRun, tmp_path: Path):
    folder = write_run(tmp_path / "run", private=True, noise="seeded", epsilon=0.05, proven=False)
    result = audit_run(folder, canaries=60, device="cpu", seed=3)
    assert result["verdict"] == "no claim"
    assert len(result["mechanism"]) == 1


@pytest.mark.parametrize("missing", ["run.json", "summary.json", "last.safetensors"])
def test_a_folder_that_is_no_finished_run_is_refused(write_run: WriteRun, tmp_path: Path, missing: str):
    folder = write_run(tmp_path / "run", private=True)
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        audit_run(folder, canaries=60, device="cpu", seed=4)
    assert not (folder / "privacy.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"privacy": {"sites": {"site-1": {}}, "claimed": true}}'])
def test_a_damaged_summary_is_refused(write_run: WriteRun, tmp_path: Path, text: str):
    folder = write_run(tmp_path / "run", private=True)
    (folder / "summary.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="is damaged"):
        audit_run(folder, canaries=60, device="cpu", seed=5)


def test_too_few_canaries_are_refused_before_anything_is_read(write_run: WriteRun, tmp_path: Path):
    folder = write_run(tmp_path / "run", private=True)
    with pytest.raises(ConfigurationError, match="an audit needs 50"):
        audit_run(folder, canaries=10, device="cpu")
    assert not (folder / "work").exists()


def test_what_a_promise_allows_is_its_definition():
    """TPR <= e^epsilon FPR + delta, at a false positive rate of 1 %, and never above 1."""
    assert most_found(1.0, 1e-5) == pytest.approx(math.e * 0.01 + 1e-5)
    assert most_found(8.0, 1e-5) == 1.0
    assert most_found(math.inf, 0.0) == 1.0
    assert run_audit.CONFIDENCE >= 0.9999


def test_of_a_large_cohort_some_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_audit, "MOST_PATIENTS", 3)
    everyone = [Patient(f"p{number}", ()) for number in range(10)]
    some = run_audit._some(everyone, 1)
    assert len({patient.name for patient in some}) == 3
    assert some == run_audit._some(everyone, 1) != run_audit._some(everyone, 2)
    assert run_audit._some(everyone[:3], 1) == everyone[:3]
