"""Federation files, run folders and their progress, as the coordinator's commands see them."""

import json
from pathlib import Path

import pytest

from client.contract import PrepareReply
from client.privacy.settings import PrivacySettings
from segformer3d.checkpoint import save
from segformer3d.errors import CheckpointError, ConfigurationError
from segformer3d.fit import initial_model
from segformer3d.tasks import adjust
from segformer3d.training_reports import ValidationReport
from server.progress import Journal
from server.records import RoundStarted, RunFinished, RunRecord, Score, SiteReplied, SiteSetAside, SitesReady
from server.replies import SetAside
from server.run_folder import SETTINGS_FILE, newest_state, read_outcome, read_progress, read_settings
from server.runs import new_run, read_federation_file
from server.state import read_state

from .test_coordinator import Coordinator, coordinator  # noqa: F401 - a fixture

WHOLE = """
task = "hippocampus"
rounds = 7
minimum_sites = 3
again_s = 60
pace = 3
exchange = "compact"

[training]
learning_rate = 0.002

[model]
embed_dims = [8, 16]
num_heads = [1, 2]
mlp_ratios = [2, 2]
depths = [1, 1]
sr_ratios = [2, 1]
patch_kernel_size = [3, 3]
patch_stride = [2, 2]
patch_padding = [1, 1]
decoder_head_embedding_dim = 16
"""


def write(folder: Path, text: str) -> Path:
    (folder / "federation.toml").write_text(text)
    return folder / "federation.toml"


def test_a_federation_file_says_what_a_run_is(tmp_path: Path) -> None:
    settings = read_federation_file(write(tmp_path, WHOLE)).settings
    assert (settings.task.name, settings.rounds, settings.minimum_sites) == ("hippocampus", 7, 3)
    assert (settings.again_s, settings.pace, settings.training.learning_rate) == (60, 3, 0.002)
    assert settings.exchange == "compact"
    assert settings.task.model.embed_dims == (8, 16)


def test_a_task_of_ones_own_lies_beside_the_file(tmp_path: Path) -> None:
    own = 'name = "own"\nmodalities = ["CT"]\n[[structures]]\nname = "mass"\nlabels = [1]\n'
    (tmp_path / "own.toml").write_text(own)
    task = read_federation_file(write(tmp_path, 'task = "own.toml"\nrounds = 2\n')).settings.task
    assert (task.name, task.modalities) == ("own", ("CT",))
    with pytest.raises(ConfigurationError, match=r"federation\.toml: cannot read no\.toml: .*describes one"):
        read_federation_file(write(tmp_path, 'task = "no.toml"'))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task = ", "is not valid TOML"),
        ("rounds = 3", "it needs a task"),
        ('task = "kidneys"', "kidneys"),
        ('task = "hippocampus"\nround = 3', "unknown setting 'round'"),
        ('task = "hippocampus"\nrounds = 0', "rounds must be"),
        ('task = "hippocampus"\nexchange = "int3"', "exchange must be one of fp32, fp16"),
        ('task = "hippocampus"\ntraining = 3', "training must be a table"),
        ('task = "hippocampus"\n[training]\nspeed = 3', "speed"),
        ('task = "hippocampus"\n[model]\ndepth = 3', "depth"),
    ],
)
def test_each_mistake_is_one_line_with_the_files_name(text: str, told: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError, match=told) as caught:
        read_federation_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_federation_file_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no.toml: No such file or directory; name a federation file"):
        read_federation_file(tmp_path / "no.toml")


def test_a_new_run_has_its_settings_and_its_first_state(coordinator: Coordinator, tmp_path: Path) -> None:
    asked = read_federation_file(write(tmp_path, WHOLE))
    settings, run = asked.settings, new_run(coordinator, asked)
    folder = coordinator.run_folder(run)
    assert read_settings(folder) == settings
    newest = newest_state(folder)
    assert newest is not None
    assert (read_state(newest).run, read_state(newest).round) == (run, 0)


def test_damaged_settings_are_told(tmp_path: Path) -> None:
    for text in (None, "", "[]", '{"rounds": 3}'):
        if text is not None:
            (tmp_path / SETTINGS_FILE).write_text(text)
        with pytest.raises(ConfigurationError):
            read_settings(tmp_path)


def test_progress_is_what_happened_last(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    assert read_outcome(tmp_path) == (False, None)
    journal = Journal(tmp_path, rounds=3)
    journal.note(SitesReady((PrepareReply("a", "r", 4, 2, 0, (0.1,), 1.0),)))
    journal.note(RoundStarted(1, 3, ("a", "b")))
    journal.note(SiteReplied("train", 1, "a", 2.0))
    journal.note(SiteSetAside(1, SetAside("b", "train", "its disk is full", "free space")))
    found = read_progress(tmp_path)
    assert found is not None
    assert (found.phase, found.round, found.rounds) == ("training", 1, 3)
    assert found.sites == {"a": "answered", "b": "set aside: its disk is full"}
    score = Score(3, (0.5,), 0.5, 1.0, 2)
    journal.note(RunFinished(RunRecord("r", 3, score, None, {"a": ValidationReport((0.5,), 1.0, 2, 0.1)}, (), 0, 0)))
    journal.close(None)
    assert read_outcome(tmp_path) == (True, None)
    Journal(tmp_path, rounds=3)  # it goes on
    assert read_outcome(tmp_path) == (False, None)
    journal.close("too few sites")
    assert read_outcome(tmp_path) == (True, "too few sites")
    assert json.loads((tmp_path / "outcome.json").read_text()) == {"reason": "too few sites"}


PRIVATE = (
    'start = "model.safetensors"\n'
    + WHOLE
    + """
[privacy]
epsilon = 4.0
patients = 30
"""
)


def test_a_private_run_has_group_norm_and_begins_with_the_model_that_is_named(
    tmp_path: Path,
    coordinator: Coordinator,
) -> None:
    asked = read_federation_file(write(tmp_path, PRIVATE))
    assert asked.settings.privacy == PrivacySettings(epsilon=4.0, patients=30)
    assert asked.settings.task.model.norm == "group"
    model = initial_model(asked.settings.task, 99)
    save(tmp_path / "model.safetensors", model, asked.settings.task)
    run = coordinator.run_folder(new_run(coordinator, asked))
    state = read_state(newest_state(run) or run)
    assert all((state.weights[name] == value.numpy()).all() for name, value in model.state_dict().items())
    assert read_settings(run) == asked.settings


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("epsilon = 4.0", "epsilon = 0", "privacy.epsilon must be above 0"),
        ("epsilon = 4.0", "epsilon = 4.0\ndelta = 0.5", "privacy.delta must be below 1 / patients"),
        ("epsilon = 4.0", "", "privacy needs an epsilon"),
        ("epsilon = 4.0", "epsilon = 4.0\nepsilom = 1", "unknown privacy setting 'epsilom'"),
        ("depths = [1, 1]", 'depths = [1, 1]\nnorm = "batch"', "a private run cannot have it"),
        ('start = "model.safetensors"', "start = 5", "start must be the name of a model file"),
    ],
)
def test_privacy_that_cannot_be_is_refused(tmp_path: Path, before: str, after: str, text: str) -> None:
    path = write(tmp_path, PRIVATE.replace(before, after))
    with pytest.raises(ConfigurationError, match=text) as error:
        read_federation_file(path)
    assert str(path) in str(error.value)


def test_a_model_of_another_shape_cannot_be_begun_with(
    tmp_path: Path,
    coordinator: Coordinator,
) -> None:
    asked = read_federation_file(write(tmp_path, PRIVATE))
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        new_run(coordinator, asked)
    task = adjust(asked.settings.task, {"norm": "batch"}, {})
    save(tmp_path / "model.safetensors", initial_model(task, 0), task)
    with pytest.raises(CheckpointError, match="another architecture"):
        new_run(coordinator, asked)
    assert not list(coordinator.runs.glob("*"))
