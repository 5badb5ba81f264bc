"""Steps of DP-SGD on a real model. Oracles: plain gradients where nothing is clipped, closed forms, independence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.privacy import training as private
from client.privacy.probes import Silence
from client.privacy.promise import Promise
from client.privacy.settings import PrivacySettings
from client.privacy.training import patient_unit, train_private
from segformer3d.dataset import prepare
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.fit import initial_model
from segformer3d.lacks import Lacks
from segformer3d.losses import make_loss, targets
from segformer3d.model import SegFormer3D
from segformer3d.patches import sample_patch
from segformer3d.patients import Patient, patients_of
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Structure, adjust
from segformer3d.training import Part

from ..tiny_site import TINY, write_site

TASK = adjust(TINY, {"norm": "group"}, {})
CPU = torch.device("cpu")
SGD = TrainingSettings(learning_rate=0.1, weight_decay=0.0, warmup=0.0, augment=False)
HUGE = 1e5


class Ones(Silence):
    """Noise that is known: one whole step of the grid times the deviation, everywhere."""

    def integers(self, size: int, deviation: float) -> NDArray[np.int64]:
        return np.full(size, round(deviation), np.int64)


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> tuple[Patient, ...]:
    folder = tmp_path_factory.mktemp("site")
    data = prepare(write_site(folder / "data", 4, seed=1), TASK, folder / "cache", validation_share=0.0)
    return patients_of(data.train)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "_noise", lambda *_: Silence())


def asked(**changed: object) -> PrivacySettings:
    values = {
        "epsilon": 8.0,
        "sampling_rate": 1.0,
        "patients": 4,
        "local_steps": 1,
        "crops": 2,
        "clip": HUGE,
        "learning_rate": 0.1,
    }
    return PrivacySettings(**{**values, "trainable": (), "optimizer": "sgd", **changed})  # type: ignore[arg-type]


def promise(patients: int = 4) -> Promise:
    return Promise(8.0, 1e-5, 0.0, 1.0, 1.0, 1, patients, proven=True)


def train(patients: tuple[Patient, ...], privacy: PrivacySettings, **changed: object) -> SegFormer3D:
    model = initial_model(TASK, 0)
    settings = TrainingSettings(**{**SGD.to_json(), **changed})  # type: ignore[arg-type]
    train_private(model, patients, TASK, settings, privacy, promise(), Part(0, 1, 1, 7, "s"), device=CPU)
    return model


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.usefixtures("silent")
def test_without_noise_and_clipping_it_is_plain_gradient_descent(patients: tuple[Patient, ...]):
    privacy, part = asked(), Part(0, 1, 1, 7, "s")
    plain = initial_model(TASK, 0)
    loss = make_loss(TASK, SGD)
    total = torch.zeros(())
    for patient in patients:
        own = int.from_bytes(private.hashlib.sha256(patient.name.encode()).digest()[:8], "big")
        generator = np.random.default_rng(part.random_key(0, own))
        generator.integers(2**62)
        for _ in range(privacy.crops):
            case = patient.cases[int(generator.integers(len(patient.cases)))]
            patch = sample_patch(case, TASK, SGD, generator)
            value = loss(plain(patch.image[None]), targets(patch.label[None], TASK))
            total = total + value / privacy.crops / len(patients)
    total.backward()
    with torch.no_grad():
        for parameter in plain.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.1 * parameter.grad)
    difference = (flat(train(patients, privacy)) - flat(plain)).abs().max()
    # The grid is HUGE / 2**23 = 0.012 wide, over four patients and the learning rate.
    assert float(difference) <= 0.1 * HUGE / 2**23 * 1.1


def test_a_patients_patches_may_come_in_any_batches(monkeypatch: pytest.MonkeyPatch, patients: tuple[Patient, ...]):
    # Dice pools a batch, by design; the mean cross-entropy of a patient's patches is the same however they are batched.
    entropy = lambda logits, target: -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()  # noqa: E731
    monkeypatch.setattr(private, "make_loss", lambda *_: entropy)
    found = [gradient_of(patients[0], batch_size=size) for size in (1, 2, 3, 4)]
    for other in found[1:]:
        assert float((other - found[0]).norm() / found[0].norm()) < 1e-5


def gradient_of(patient: Patient, batch_size: int = 1) -> Tensor:
    model = initial_model(TASK, 0)
    settings = TrainingSettings(**{**SGD.to_json(), "batch_size": batch_size})  # type: ignore[arg-type]
    patient_unit(model, patient, TASK, settings, asked(crops=4), Part(0, 1, 1, 7, "s"), CPU)(0)
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


def test_a_patients_gradient_does_not_depend_on_who_else_is_there(patients: tuple[Patient, ...]):
    fewer = patients_of([case for patient in patients[2:] for case in patient.cases])
    assert torch.equal(gradient_of(patients[2]), gradient_of(fewer[0]))
    assert not torch.equal(gradient_of(patients[2]), gradient_of(patients[3]))


def test_the_loss_of_a_patient_whose_label_tells_less_is_the_marginal_one(patients: tuple[Patient, ...]):
    """With a second structure that nobody outlines, its class is pulled exactly as the background is."""
    two = (*TASK.structures, Structure("shell", (2,)))
    task = replace(TASK, structures=two, label_values=(0, 1, 2), model=replace(TASK.model, num_classes=3), prior=())
    partial = replace(
        patients[0], cases=tuple(replace(c, lacks=Lacks(unlabelled=("shell",))) for c in patients[0].cases)
    )
    model = initial_model(task, 0)
    for parameter in model.decoder.classify.parameters():
        parameter.data[2] = parameter.data[0]
    patient_unit(model, partial, task, SGD, asked(crops=4), Part(0, 1, 1, 7, "s"), CPU)(0)
    found = [parameter.grad for parameter in model.decoder.classify.parameters()]
    assert all(grad is not None and grad[0].abs().max() > 0 for grad in found)
    for grad in found:
        torch.testing.assert_close(grad[2], grad[0])


@pytest.mark.usefixtures("silent")
def test_two_visits_of_a_patient_weigh_no_more_than_one(patients: tuple[Patient, ...]):
    both = Patient("p", (*patients[0].cases, *patients[1].cases))
    start = flat(initial_model(TASK, 0))
    moved = flat(train((both,), asked(clip=1e-3, crops=8))) - start
    assert float(moved.norm()) <= 0.1 * 1e-3 / 4 * (1 + 1e-3)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_what_is_named_is_trained(patients: tuple[Patient, ...], optimizer: str):
    model = train(patients, asked(clip=1.0, trainable=("decoder.classify.*", "*.fuse_norm.*"), optimizer=optimizer))
    before = dict(initial_model(TASK, 0).named_parameters())
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {f"decoder.{layer}.{kind}" for layer in ("classify", "fuse_norm") for kind in ("weight", "bias")}
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_naming_nothing_that_is_there_is_refused(patients: tuple[Patient, ...]):
    with pytest.raises(ConfigurationError, match="matches no parameter"):
        train(patients, asked(trainable=("no.such.*",)))


def test_the_proximal_pull_acts_after_the_noise(monkeypatch: pytest.MonkeyPatch, patients: tuple[Patient, ...]):
    monkeypatch.setattr(private, "_noise", lambda *_: Ones())
    monkeypatch.setattr(Ones, "chosen", lambda *_: [])  # nobody: what moves the weights is the noise and the pull
    monkeypatch.setattr(private, "learning_rate", lambda *_: 0.1)
    start = flat(initial_model(TASK, 0))
    moved = flat(train(patients, asked(clip=1.0, local_steps=2, proximal=0.5))) - start
    noise = 1.0 / 4  # multiplier times clip over the expected number
    first = 0.1 * noise
    second = 0.1 * (private.MOMENTUM * noise + noise - 0.5 * first)
    assert moved.numpy() == pytest.approx(-(first + second), rel=1e-3, abs=1e-7)


def test_mixed_precision_changes_no_guarantee(monkeypatch: pytest.MonkeyPatch, patients: tuple[Patient, ...]):
    monkeypatch.setattr(private, "_noise", lambda *_: Silence())
    start = flat(initial_model(TASK, 0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moved = flat(train(patients[:1], asked(clip=1e-3))) - start
    assert 0 < float(moved.norm()) <= 0.1 * 1e-3 / 4 * (1 + 1e-3)


def test_secure_noise_is_different_every_time_and_seeded_noise_is_not(patients: tuple[Patient, ...]):
    secure = [flat(train(patients, asked(clip=1.0))) for _ in range(2)]
    seeded = [flat(train(patients, asked(clip=1.0, noise="seeded"))) for _ in range(2)]
    assert not torch.equal(*secure)
    assert torch.equal(*seeded)


def test_moments_and_the_clipping_norm_are_handed_on(tmp_path: Path, patients: tuple[Patient, ...]):
    privacy = asked(clip=1.0, optimizer="adamw", quantile=0.5, trainable=("decoder.*",))
    model, moments = initial_model(TASK, 0), tmp_path / "moments.safetensors"
    done = train_private(
        model, patients, TASK, SGD, privacy, promise(), Part(0, 2, 1, 7, "s"), device=CPU, optimizer_to=moments
    )
    assert done.clip != 1.0
    rest = Part(1, 2, 1, 7, "s")
    again = train_private(model, patients, TASK, SGD, privacy, promise(), rest, device=CPU, optimizer_from=moments)
    assert abs(np.log(again.clip / done.clip)) <= 0.2 + 1e-9  # one step of the adaptation from where it was


def test_patients_are_told_apart_by_dataset_pattern_or_name(patients: tuple[Patient, ...]):
    cases = [case for patient in patients for case in patient.cases]
    assert [p.name for p in patients_of(cases)] == [f"secret_{n:03d}" for n in range(4)]
    assert [len(p.cases) for p in patients_of(cases, r"secret_00[01]|secret_(\d)")] == [2, 1, 1]
    with pytest.raises(DataError, match="does not match patient_pattern") as error:
        patients_of(cases, r"patient\d+")
    assert "secret" not in str(error.value)
    with pytest.raises(ConfigurationError, match="no regular expression"):
        patients_of(cases, "(")
