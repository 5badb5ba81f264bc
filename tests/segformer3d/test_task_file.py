"""One's own task from a TOML file: what it comes to, and one line for each rule that it breaks."""

from pathlib import Path

import pytest
import torch

from segformer3d.errors import ConfigurationError
from segformer3d.model import build
from segformer3d.task import task_from_json
from segformer3d.task_file import read_task_file
from segformer3d.tasks import Structure, choose_task, named_task

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "brain-metastases.toml"
SMALLEST = """
name = "mine"
modalities = ["CT"]
[[structures]]
name = "mass"
labels = [3]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "task.toml"
    path.write_text(text)
    return path


def test_the_smallest_task(tmp_path: Path) -> None:
    task = read_task_file(written(tmp_path, SMALLEST))
    assert (task.name, task.modalities, task.structures) == ("mine", ("CT",), (Structure("mass", (3,)),))
    assert (task.label_values, task.activation, task.spacing) == ((0, 3), "softmax", None)
    assert (task.model.in_channels, task.model.num_classes) == (1, 2)
    assert task_from_json(task.to_json()) == task
    assert hash(task_from_json(task.to_json())) == hash(task)


def test_the_example_of_the_documentation() -> None:
    task = read_task_file(EXAMPLE)
    assert (task.channels, task.model.in_channels, task.patch, task.flip_axes) == (2, 2, (96, 96, 96), (0,))
    assert task.model.patch_stride[0] == (2, 2, 2)
    with torch.no_grad():
        assert build(task.model, task.output_bias).eval()(torch.zeros(1, 2, 32, 32, 32)).shape == (1, 2, 32, 32, 32)


def test_a_task_is_chosen_by_its_file(tmp_path: Path) -> None:
    path = written(tmp_path, SMALLEST)
    assert choose_task(str(path), None).name == "mine"
    assert named_task("task.toml", tmp_path) == choose_task(str(path), None), "beside the file that names it"
    assert named_task("hippocampus", tmp_path).name == "hippocampus"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("name =", "title ="), "unknown setting 'title'; a task knows name, modalities,"),
        (('name = "mine"', ""), "a task needs name"),
        (('modalities = ["CT"]', ""), "a task needs modalities"),
        (('"mine"', '"My task"'), "name must be 1 to 40 small letters, digits, - and _, got 'My task'"),
        (('"mine"', '"../x"'), "name must be 1 to 40 small letters"),
        (('"mine"', '"brats2017"'), "the name 'brats2017' is a built-in task's; choose another"),
        (('["CT"]', '"CT"'), "modalities must be a list of names of contrasts, got 'CT'"),
        (('["CT"]', "[1]"), "modalities must be a list of names of contrasts"),
        (("labels = [3]", "labels = 3"), r"structures must be tables \[\[structures\]\], each with a name and a list"),
        (("labels = [3]", "colour = 3"), r"structures must be tables \[\[structures\]\]"),
        (("labels = [3]", "labels = [0]"), "structure 'mass' of task 'mine' must use labels of .* other than 0"),
        (("labels = [3]", "labels = []"), "structure 'mass' of task 'mine' must use labels"),
        (('["CT"]', '["CT"]\nlabel_values = [0, 1]'), "structure 'mass' of task 'mine' must use labels of"),
        (('["CT"]', '["CT"]\nactivation = "relu"'), "activation must be 'softmax' or 'sigmoid'"),
        (('["CT"]', '["CT"]\nspacing = 1.0'), "spacing must be a list of lengths in mm, got 1.0"),
        (('["CT"]', '["CT"]\nspacing = [1.0, 0, 1]'), "spacing takes three positive lengths in mm"),
        (('["CT"]', '["CT"]\npatch = [96.0, 96, 96]'), "patch must be a list of voxel counts"),
        (('["CT"]', '["CT"]\npatch = [96, 96]'), "patch takes three voxel counts"),
        (('["CT"]', '["CT"]\nintensity = "window"'), "window takes"),
        (('["CT"]', '["CT"]\nintensity = 3'), "intensity must be the name of a scaling"),
        (('["CT"]', '["CT"]\nflip_axes = ["x"]'), "flip_axes must be a list of axes"),
        (('["CT"]', '["CT"]\nmirror = 1'), "mirror must be true or false"),
        (('["CT"]', '["CT"]\nprior = [2]'), "prior takes one share"),
        (('["CT"]', '["CT"]\nmodel = 3'), r"model must be a table \[model\]"),
        (("[[structures]]", "[model]\nwidth = 3\n[[structures]]"), "unknown model setting 'width'"),
        (("[[structures]]", "[model]\nnum_classes = 3\n[[structures]]"), "num_classes of .model. follows from"),
        (("modalities", "modalities = modalities"), "is not valid TOML"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_broken_rule_is_named_with_its_file(tmp_path: Path, change: tuple[str, str], text: str) -> None:
    path = written(tmp_path, SMALLEST.replace(*change, 1))
    with pytest.raises(ConfigurationError, match=text) as refused:
        read_task_file(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the task .*my\.toml: No such file"):
        named_task("my.toml", tmp_path)
