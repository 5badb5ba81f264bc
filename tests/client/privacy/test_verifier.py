"""The verifier: the claim for what is right, none for each thing that has made claims false elsewhere."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.privacy import mechanism, noise, probes, training
from client.privacy.promise import make_promise
from client.privacy.settings import PrivacySettings
from client.privacy.verifier import Finding, Pipeline, Verdict, model_findings, verify
from client.privacy.verify_commands import (
    Configuration,
    UnprovenError,
    read_configuration,
    verify_and_print,
    verify_configuration,
)
from segformer3d.checkpoint import save
from segformer3d.errors import CheckpointError, ConfigurationError
from segformer3d.fit import initial_model
from segformer3d.tasks import adjust

from ..tiny_site import TINY

TASK = adjust(TINY, {"norm": "group"}, {})
ASKED = PrivacySettings(epsilon=8.0, patients=20, sampling_rate=0.5, crops=3, trainable=())
RUN = Configuration(TASK, 10, ASKED, Pipeline())


def broken(verdict: Verdict) -> set[str]:
    assert (verdict.claim is None) == any(not finding.holds for finding in verdict.findings)
    return {finding.check for finding in verdict.findings if not finding.holds}


def test_what_segfed_does_is_claimed_with_the_epsilon_of_the_accountant():
    verdict = verify_configuration(RUN)
    assert broken(verdict) == set()
    promise = make_promise(ASKED, 10, 20, float("inf"), 1.0)
    assert f"epsilon {promise.epsilon:.3f} and delta {promise.delta:g}" in str(verdict.claim)
    assert "one patient with all of his or her scans" in str(verdict.claim)


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        ({"unit": "crop"}, "the unit is the patient"),
        ({"unit": "case"}, "the unit is the patient"),
        ({"clipping": "batch"}, "each patient's gradient is clipped once"),
        ({"clipping": "crop"}, "each patient's gradient is clipped once"),
        ({"clipping": "none"}, "each patient's gradient is clipped once"),
        ({"sampling": "shuffled"}, "the accountant assumes the sampling that is done"),
        ({"sampling": "all"}, "the accountant assumes the sampling that is done"),
        ({"accountant": "none"}, "every step is accounted for"),
        ({"divisor": "drawn"}, "sums are divided by a public number"),
        ({"noise": "seeded"}, "the noise cannot be worked out"),
        ({"noise": "none"}, "the noise cannot be worked out"),
        ({"metrics": "released"}, "nothing else leaves unpaid"),
        ({"weights": "counts"}, "sites are weighted by public numbers"),
        ({"selection": "private"}, "no model is chosen by private scores"),
        ({"normalisation": "dataset"}, "a patient's image depends on that patient alone"),
    ],
)
def test_each_broken_link_takes_the_claim_away(changed: dict[str, str], check: str):
    assert check in broken(verify(replace(Pipeline(), **changed), (), "all is well"))


@pytest.mark.parametrize(
    "changed", [{"metrics": "accounted"}, {"weights": "equal"}, {"selection": "public"}, {"normalisation": "public"}]
)
def test_other_ways_that_are_right_keep_the_claim(changed: dict[str, str]):
    assert verify(replace(Pipeline(), **changed), (), "all is well").claim == "all is well"


class Disguised(nn.BatchNorm1d):
    """Opacus looks for exact types and passes this."""


class Mixing(nn.Module):
    """No layer of a known kind: batch statistics by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0, keepdim=True)


class Flat(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.linear = norm, nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x.flatten(1)))


@pytest.mark.parametrize(
    ("model", "checks"),
    [
        (Flat(nn.Identity()), set()),
        (Flat(nn.BatchNorm1d(64)), {"layer", "remembers", "logits"}),
        (Flat(Disguised(64)), {"layer", "remembers", "logits"}),
        (Flat(nn.BatchNorm1d(64, track_running_stats=False)), {"layer", "logits"}),
        (Flat(Mixing()), {"logits"}),
    ],
    ids=["right", "batch norm", "disguised", "without memory", "by hand"],
)
def test_layers_that_mix_patients_are_found(model: nn.Module, checks: set[str]):
    before = [value.clone() for value in model.state_dict().values()]
    findings = model_findings(model, (4, 4, 4), 1)
    found = {word for word in ("layer", "remembers", "logits") for f in findings if word in f.check and not f.holds}
    assert found == checks
    assert all(torch.equal(*pair) for pair in zip(before, model.state_dict().values(), strict=True))


def test_the_published_network_is_found_out():
    findings = model_findings(initial_model(TINY, 0), TINY.patch, 1)
    assert [finding.holds for finding in findings] == [False, False, False]


def mechanism_checks() -> dict[str, Finding]:
    return {f.check: f for f in probes.mechanism_findings(initial_model(TASK, 0), TASK, ASKED)}


def refuted() -> set[str]:
    return {check for check, finding in mechanism_checks().items() if not finding.holds}


MOVED = "one patient moves the sum by no more than the clipping norm"


def test_the_mechanism_stands_the_probes():
    for _ in range(3):
        assert refuted() == set()


def test_crops_that_are_clipped_one_by_one_are_found(monkeypatch: pytest.MonkeyPatch):
    """The mutation: every backward pass is taken for a patient."""
    real = training.patient_unit

    def unit(*arguments: Any) -> Any:
        model, patient, task, settings, privacy, part, device = arguments
        single = [real(model, patient, task, settings, replace(privacy, crops=1), part, device)] * privacy.crops

        def take(step: int) -> float:
            for crop in single[:-1]:
                crop(step)
                CURRENT[0].add()
            return single[-1](step)

        return take

    remember(monkeypatch)
    monkeypatch.setattr(probes, "patient_unit", unit)
    assert refuted() == {MOVED}
    assert mechanism_checks()[MOVED].seen == "moved by 3.000 clipping norms"


CURRENT: list[mechanism.PatientGradients] = []


def remember(monkeypatch: pytest.MonkeyPatch) -> None:
    made = mechanism.PatientGradients.__init__

    def init(self: mechanism.PatientGradients, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        CURRENT[:] = [self]

    monkeypatch.setattr(mechanism.PatientGradients, "__init__", init)


def test_batches_that_are_clipped_as_a_whole_are_found(monkeypatch: pytest.MonkeyPatch):
    """The mutation: gradients add up unclipped, and the sum is clipped to the norm times the number of patients."""

    def add(self: mechanism.PatientGradients) -> float:
        self._sum += self._flat
        self._flat.zero_()
        self._within += 1
        return 0.0

    def release(self: mechanism.PatientGradients) -> None:
        norm = float(self._sum.norm())
        self._flat.copy_(self._sum * min(1.0, self._within * self.clip / max(norm, 1e-30)))
        self._sum.zero_()

    monkeypatch.setattr(mechanism.PatientGradients, "add", add)
    monkeypatch.setattr(mechanism.PatientGradients, "release", release)
    assert MOVED in refuted()


def test_gradients_that_are_not_clipped_are_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mechanism, "max", lambda norm, clip: clip, raising=False)
    assert MOVED in refuted()


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.95])
def test_noise_that_is_too_weak_is_found(monkeypatch: pytest.MonkeyPatch, factor: float):
    real = noise.SecureNoise.integers
    monkeypatch.setattr(noise.SecureNoise, "integers", lambda self, size, d: real(self, size, max(1e-3, factor * d)))
    assert refuted() == {"the noise is as strong as the accountant thinks"}


@pytest.mark.parametrize(
    "chosen",
    [
        lambda self, count, rate: list(range(round(count * rate))),
        lambda self, count, rate: list(np.random.default_rng().permutation(count)[: round(count * rate)]),
        lambda self, count, rate: list(range(count)),
    ],
    ids=["the same", "a fixed number", "everyone"],
)
def test_sampling_that_is_not_poissons_is_found(monkeypatch: pytest.MonkeyPatch, chosen: Any):
    monkeypatch.setattr(noise.SecureNoise, "chosen", chosen)
    assert refuted() == {"patients are drawn by chance, each alone"}


FEDERATION = """
task = "hippocampus"
rounds = 10
[model]
embed_dims = [8, 16, 16, 16]
num_heads = [1, 2, 2, 2]
depths = [1, 1, 1, 1]
decoder_head_embedding_dim = 16
[privacy]
epsilon = 4.0
"""


def test_a_federation_file_is_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "federation.toml"
    path.write_text(FEDERATION)
    verify_and_print(str(path), None)
    told = capsys.readouterr().out
    assert "The claim: a site's 10 rounds" in told
    assert "BROKEN" not in told


def test_another_training_gets_no_claim_for_what_it_says_of_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = [f'{name} = "{value}"' for name, value in asdict(replace(Pipeline(), unit="crop")).items()]
    path = tmp_path / "other.toml"
    path.write_text(FEDERATION + "[pipeline]\n" + "\n".join(lines))
    with pytest.raises(UnprovenError, match="nothing can be claimed: it is not so that the unit is the patient"):
        verify_and_print(str(path), None)
    assert "a patient is in many crops" in " ".join(capsys.readouterr().out.split())


def test_a_model_with_batch_norm_gets_no_claim(tmp_path: Path):
    federation, model = tmp_path / "federation.toml", tmp_path / "model.safetensors"
    federation.write_text(FEDERATION)
    task = read_configuration(federation).task
    save(model, initial_model(adjust(task, {"norm": "batch"}, {}), 0), task)
    with pytest.raises(UnprovenError, match="no layer mixes the patients"):
        verify_and_print(str(federation), str(model))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('task = "hippocampus"\n', "asks for no privacy"),
        ('task = "hippocampus"\n[privacy]\nepsilon = -1.0\n', "privacy.epsilon must be above 0"),
        ("[privacy]\nepsilon = 1.0\n", "needs a task"),
        ("=", "is not valid TOML"),
        (FEDERATION + '[pipeline]\nunit = "patient"\n', "needs exactly"),
    ],
)
def test_files_that_say_too_little_are_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / "federation.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        verify_and_print(str(path), None)
    with pytest.raises(ConfigurationError, match="is no run folder"):
        verify_and_print(str(tmp_path), None)


def test_a_coordinators_run_folder_is_read(tmp_path: Path):
    told = {"task": TASK.to_json(), "rounds": 7, "privacy": ASKED.to_json()}
    (tmp_path / "federation.json").write_text(json.dumps(told))
    assert read_configuration(tmp_path) == replace(RUN, rounds=7)


def test_a_simulations_run_folder_is_read_with_the_patients_of_its_smallest_site(tmp_path: Path):
    settings = {"rounds": 10, "epsilon": 8.0, "delta": None, "privacy": {"sampling_rate": 0.5, "crops": 3}}
    (tmp_path / "run.json").write_text(json.dumps({"settings": settings, "task": TASK.to_json()}))
    assert read_configuration(tmp_path).privacy == PrivacySettings(8.0, sampling_rate=0.5, crops=3)
    promise = make_promise(ASKED, 10, 9, float("inf"), 1.0)
    sites = {f"site-{n}": replace(promise, patients=n).to_json() for n in (9, 8)}
    (tmp_path / "summary.json").write_text(json.dumps({"privacy": {"sites": sites}}))
    assert read_configuration(tmp_path).privacy == PrivacySettings(8.0, patients=8, sampling_rate=0.5, crops=3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("federation.json", '{"rounds": '),
        ("federation.json", "[]"),
        ("run.json", "{}"),
        ("run.json", '{"settings": 3, "task": "tiny"}'),
        ("summary.json", '{"privacy": {"sites": {"site-1": {}}}}'),
        ("summary.json", "[]"),
    ],
)
def test_a_damaged_run_folder_is_refused(tmp_path: Path, name: str, text: str):
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"epsilon": 8.0}, "task": TASK.to_json()}))
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match="is damaged, or was made by another version"):
        read_configuration(tmp_path)
