"""The audit of a run folder: attack what the run promised its patients, and the model that it is about to release.

The run's own settings are played against canaries (`client.privacy.attack`), which needs no patient. The model is
asked about patients that it was trained on and others (`client.privacy.membership`); these results are themselves
computed from patients without noise, so they stay where the patients' data is.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client.privacy.attack import CANARIES, audit_mechanism
from client.privacy.mechanism import PatientGradients
from client.privacy.membership import FPR, SHADOWS, Train, membership_test, patient_losses, shadow_test
from client.privacy.promise import Promise, fewest_patients, read_promises
from client.privacy.settings import PrivacySettings
from client.privacy.training import train_private
from segformer3d.cases import find_cases
from segformer3d.checkpoint import load
from segformer3d.dataset import DEFAULT_VALIDATION_SHARE, prepare_cases
from segformer3d.errors import CheckpointError, ConfigurationError, ReplyError
from segformer3d.files import write_json
from segformer3d.fit import initial_model
from segformer3d.inference import choose_device
from segformer3d.model import SegFormer3D
from segformer3d.model_description import load_task
from segformer3d.patients import Patient, patients_of
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task
from segformer3d.training import Part, train_part

RESULT = "privacy.json"
MODEL = "last.safetensors"
# A right mechanism is accused by chance in at most one of ten thousand audits.
CONFIDENCE = 0.9999
# Passes over its half of the patients that a shadow model makes at most.
MOST_EPOCHS = 20
# Of its own and of others that the model is asked about; drawn at random where there are more.
MOST_PATIENTS = 300

OnPhase = Callable[[str], None]


@dataclass(frozen=True)
class AuditedRun:
    """What a run folder says of its run.

    Attributes:
        folder: of the run.
        task: what the model segments.
        sites, seed, epochs: of the simulation; epochs in all rounds together.
        patient_pattern: what of a case's name is the patient.
        start: the model that it began with; None for a random one.
        training: how sites trained.
        privacy: what was asked of them; None in a run without privacy.
        promises: by site; empty in a run without privacy.
        claimed: whether privacy is claimed; not where the noise came from a seed.
    """

    folder: Path
    task: Task
    sites: int
    seed: int
    epochs: int
    patient_pattern: str | None
    start: str | None
    training: TrainingSettings
    privacy: PrivacySettings | None
    promises: Mapping[str, Promise]
    claimed: bool


def audit_run(
    folder: Path,
    *,
    deep: bool = False,
    canaries: int = CANARIES,
    duels: int | None = None,
    shadows: int = SHADOWS,
    device: str = "auto",
    seed: int | None = None,
    on_phase: OnPhase = lambda text: None,
) -> dict[str, Any]:
    """Attack a run's mechanism and model, and write `privacy.json`.

    Args:
        folder: of a finished run.
        deep: also train shadow models for a likelihood-ratio attack.
        canaries, duels: of the attack on the mechanism; see `audit_mechanism`.
        shadows: how many shadow models.
        device: where to compute.
        seed: of the attack on the mechanism, for tests; None draws from the system.
        on_phase: told what begins.

    Returns:
        What was written: `verdict` is "refuted", "not refuted" or "no claim"; `mechanism` one result for each different
        promise; `membership` one result for each attack.

    Raises:
        SegfedError: the folder is no run folder or is damaged, or an argument is outside its range.
    """
    began = time.perf_counter()
    run, torch_device = read_run(folder), choose_device(device)
    mechanism = _audit_promises(run, canaries, duels, seed, on_phase)
    membership = _test_membership(run, torch_device, shadows if deep else 0, on_phase)
    result = {
        "verdict": _verdict(run, mechanism),
        "mechanism": mechanism,
        "membership": membership,
        "model": MODEL,
        "model_sha256": hashlib.sha256((folder / MODEL).read_bytes()).hexdigest(),
        "seconds": round(time.perf_counter() - began, 3),
    }
    write_json(folder / RESULT, result)
    return result


def read_run(folder: Path) -> AuditedRun:
    """What a run folder says.

    Raises:
        CheckpointError: it is no folder of a finished run, or is damaged.
    """
    described, summary = (_read_json(folder / name) for name in ("run.json", "summary.json"))
    try:
        settings, private = described["settings"], summary["privacy"]
        promises = read_promises(summary)
        return AuditedRun(
            folder,
            load_task(folder / MODEL),
            settings["sites"],
            settings["seed"],
            settings["rounds"] * settings["local_epochs"],
            settings["patient_pattern"],
            settings["start"],
            TrainingSettings.from_json(settings["training"]),
            PrivacySettings.of_run(settings, fewest_patients(promises)) if private else None,
            promises,
            bool(private and private["claimed"]),
        )
    except (ReplyError, ConfigurationError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} is damaged, or was made by another version ({error}); audit it with the version that made it"
        ) from error


def most_found(epsilon: float, delta: float) -> float:
    """The share of members that any attack can find at a false positive rate of 1 %, if the promise holds."""
    return min(1.0, math.exp(min(epsilon, 700.0)) * FPR + delta)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path.parent} is no folder of a finished run: {path.name} cannot be read ({error.strerror}); name the "
            "folder that `segfed simulate` reported"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({error})") from error


def _verdict(run: AuditedRun, mechanism: Sequence[Mapping[str, Any]]) -> str:
    if not run.claimed:
        return "no claim"
    return "refuted" if any(found["contradicts"] for found in mechanism) else "not refuted"


# ---- The mechanism ----


def _audit_promises(
    run: AuditedRun, canaries: int, duels: int | None, seed: int | None, on_phase: OnPhase
) -> list[dict[str, Any]]:
    """One audit for all sites that promise the same."""
    if run.privacy is None:
        return []
    found = []
    by_promise: dict[Promise, list[str]] = {}
    for name, promise in run.promises.items():
        by_promise.setdefault(promise.having_spent(0.0), []).append(name)
    for promise, sites in by_promise.items():
        on_phase(f"{canaries} canary patients against {promise.steps} steps of private training")
        result = audit_mechanism(
            promise,
            clip=run.privacy.clip,
            canaries=canaries,
            duels=duels,
            confidence=CONFIDENCE,
            seed=seed,
            make_gradients=partial(PatientGradients, quantile=run.privacy.quantile),
        )
        found.append({"sites": sorted(sites), **result.to_json()})
    return found


# ---- The model ----


def _test_membership(run: AuditedRun, device: torch.device, shadows: int, on_phase: OnPhase) -> dict[str, Any]:
    on_phase("reading the patients that the model was trained on, and others")
    members, others = (_some(group, run.seed) for group in _patients(run))
    model = load(run.folder / MODEL)
    on_phase(f"the model's loss on {len(members)} patients of its own and {len(others)} others")
    losses = [patient_losses(model, group, run.task, device) for group in (members, others)]
    found: dict[str, Any] = {"threshold": membership_test(*losses).to_json(), "likelihood_ratio": None}
    if shadows:
        on_phase(f"training {shadows} shadow models")
        ratio = shadow_test(
            model,
            members,
            others,
            run.task,
            _shadow(run, device),
            device=device,
            shadows=shadows,
            seed=run.seed,
            on_shadow=lambda done, total: on_phase(f"{done} of {total} shadow models trained"),
        )
        found["likelihood_ratio"] = {**ratio.to_json(), "shadows": shadows}
    allowed = [most_found(promise.epsilon, promise.delta) for promise in run.promises.values()]
    return {**found, "allowed_tpr": max(allowed) if run.claimed else None}


def _patients(run: AuditedRun) -> tuple[list[Patient], list[Patient]]:
    """Those the model was trained on, and those it never saw: held out, or kept by a site to validate with."""
    members: list[Patient] = []
    others = list(_prepared(run, "held-out", 0.0)[0])
    for number in range(1, run.sites + 1):
        trained, kept = _prepared(run, f"site-{number}", 0.0 if run.privacy else DEFAULT_VALIDATION_SHARE)
        names = {patient.name for patient in trained}
        members += trained
        others += [patient for patient in kept if patient.name not in names]
    return members, others


def _some(patients: Sequence[Patient], seed: int) -> list[Patient]:
    """Enough of them to tell an AUC, so that a large cohort does not take hours."""
    if len(patients) <= MOST_PATIENTS:
        return list(patients)
    chosen = np.random.default_rng(seed).choice(len(patients), MOST_PATIENTS, replace=False)
    return [patients[index] for index in sorted(chosen)]


def _prepared(run: AuditedRun, name: str, share: float) -> tuple[tuple[Patient, ...], tuple[Patient, ...]]:
    files = find_cases(run.folder / "sites" / name)
    data = prepare_cases(files, run.task, run.folder / "work" / name / "cache", validation_share=share)
    return patients_of(data.train, run.patient_pattern), patients_of(data.validation, run.patient_pattern)


def _shadow(run: AuditedRun, device: torch.device) -> Train:
    """Trains on some patients as the run did, but all at one place."""
    asked = run.privacy

    def train(patients: Sequence[Patient], number: int) -> SegFormer3D:
        model = initial_model(run.task, run.seed + number) if run.start is None else load(run.start)
        part = Part(0, 1, min(run.epochs, MOST_EPOCHS), run.seed, f"shadow-{number}")
        if asked is None:
            train_part(model, [c for p in patients for c in p.cases], run.task, run.training, part, device=device)
        else:
            promise = next(iter(run.promises.values()))
            once = replace(asked, local_steps=min(promise.steps, 10_000), noise="seeded")
            fewer = replace(promise, patients=len(patients))
            train_private(model, patients, run.task, run.training, once, fewer, part, device=device)
        return model

    return train
