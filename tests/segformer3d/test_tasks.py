"""Tasks: what they promise of labels, priors and JSON, and how a dataset folder names one."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer3d.config import ModelConfig
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.tasks import TASKS, Structure, Task, adjust, choose_task, get_task, task_from_json, task_of_folder


@pytest.mark.parametrize("name", TASKS)
def test_built_in_tasks_survive_json(name: str) -> None:
    task = get_task(name)
    assert task.name == name
    back = task_from_json(json.loads(json.dumps(task.to_json())))
    assert back == task
    assert hash(back) == hash(task)


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigurationError, match="there is no task 'liver'; built in are hippocampus, phantom, brats2017, brats2021"
    ):
        get_task("liver")


# --- Closed forms ----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1e-6, 0.3), min_size=1, max_size=3))
def test_the_output_bias_is_the_prior_under_the_activation(prior: list[float]) -> None:
    structures = tuple(Structure(f"s{i}", (i,)) for i in range(1, len(prior) + 1))
    values = tuple(range(len(prior) + 1))
    softmax = Task(
        name="t",
        modalities=("a",),
        structures=structures,
        label_values=values,
        prior=tuple(prior),
        model=ModelConfig(in_channels=1, num_classes=len(prior) + 1),
    )
    exponentials = np.exp(softmax.output_bias)
    np.testing.assert_allclose(exponentials / exponentials.sum(), (1 - sum(prior), *prior), rtol=1e-9)
    sigmoid = replace(softmax, activation="sigmoid", model=replace(softmax.model, num_classes=len(prior)))
    np.testing.assert_allclose(1 / (1 + np.exp(-np.array(sigmoid.output_bias))), prior, rtol=1e-9)


def test_structures_of_the_brain_tumour_regions() -> None:
    masks = get_task("brats2017").structure_masks(np.array([[[0, 1, 2, 3]]], np.int16))
    assert masks.shape == (3, 1, 1, 4)
    assert masks[:, 0, 0].tolist() == [
        [False, True, True, True],
        [False, False, True, True],
        [False, False, False, True],
    ]


def test_channels() -> None:
    assert get_task("hippocampus").channels == 3, "softmax has a channel for the background"
    assert get_task("brats2017").channels == 3, "sigmoid has none"


def test_without_a_prior_the_structures_share_a_twentieth(tiny_task: Task) -> None:
    assert replace(tiny_task, prior=()).prior == (0.025, 0.025)


# --- Rules -----------------------------------------------------------------------------------------------------------

ONE = (Structure("first", (1,)),)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"modalities": ()}, "needs at least one modality and one structure"),
        ({"structures": ()}, "needs at least one modality and one structure"),
        ({"label_values": (1, 2)}, "label_values of task 'tiny' must hold 0, the background"),
        ({"label_values": (0, 1, 2, 40000)}, "whole numbers up to 32767"),
        ({"label_values": (0, 1, 2, -1)}, "whole numbers up to 32767"),
        (
            {"structures": (Structure("first", (3,)), Structure("second", (2,)))},
            "structure 'first' of task 'tiny' must use",
        ),
        ({"structures": (Structure("first", (0,)), Structure("second", (2,)))}, "other than 0, got"),
        (
            {"structures": (Structure("first", ()), Structure("second", (2,)))},
            "structure 'first' of task 'tiny' must use",
        ),
        ({"structures": (Structure("same", (1,)), Structure("same", (2,)))}, "must have different names"),
        ({"structures": (Structure("first", (1, 2)), Structure("second", (2,)))}, "need activation 'sigmoid'"),
        ({"activation": "relu"}, "activation must be 'softmax' or 'sigmoid', got 'relu'"),
        ({"intensity": "log"}, "intensity must be one of zscore, zscore_nonzero, minmax, window, got 'log'"),
        ({"intensity": "window"}, "window takes"),
        ({"window": (0.0, 1.0)}, "only with intensity 'window'"),
        ({"intensity": "window", "window": (1.0, 1.0)}, "low < high"),
        ({"intensity": "window", "window": (math.nan, 1.0)}, "low < high"),
        ({"intensity": "window", "window": (0.0, 1.0, 2.0)}, "low < high"),
        ({"patch": (8, 8)}, "patch takes three voxel counts of 1 or more"),
        ({"patch": (8, 8, 0)}, "patch takes three voxel counts of 1 or more"),
        ({"patch": (8, 8, 8.5)}, "patch takes three voxel counts of 1 or more"),
        ({"spacing": (1.0, 1.0)}, "spacing takes three positive lengths in mm"),
        ({"spacing": (1.0, 1.0, 0.0)}, "spacing takes three positive lengths in mm"),
        ({"spacing": (1.0, 1.0, math.inf)}, "spacing takes three positive lengths in mm"),
        ({"spacing": (math.nan, 1.0, 1.0)}, "spacing takes three positive lengths in mm"),
        ({"flip_axes": (3,)}, "flip_axes may hold 0, 1 and 2"),
        ({"flip_axes": (0, 0)}, "flip_axes may hold 0, 1 and 2, each once"),
        ({"prior": (0.1,)}, "prior takes one share in"),
        ({"prior": (0.5, 0.5)}, "prior takes one share in"),
        ({"prior": (0.1, 0.0)}, "prior takes one share in"),
        ({"prior": (0.1, math.nan)}, "prior takes one share in"),
        ({"modalities": ("a", "b")}, "must have 2 in_channels and 3 num_classes"),
        ({"structures": ONE, "prior": (0.1,)}, "must have 1 in_channels and 2 num_classes"),
    ],
)
def test_a_broken_rule_is_named(tiny_task: Task, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as refused:
        replace(tiny_task, **change)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change", [{"colour": 1}, {"structures": [1]}, {"patch": 96}, {"model": None}, {"spacing": "mm"}, {"prior": ["x"]}]
)
def test_what_is_no_description_of_a_task_is_refused(tiny_task: Task, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        task_from_json({**tiny_task.to_json(), **change})


# --- Adjusting -------------------------------------------------------------------------------------------------------


def test_model_and_grid_may_be_adjusted(tiny_task: Task) -> None:
    adjusted = adjust(tiny_task, {"norm": "group"}, {"patch": [8, 8, 4], "spacing": [1, 1, 2.5]})
    assert adjusted.model == replace(tiny_task.model, norm="group")
    assert adjusted.patch == (8, 8, 4)
    assert adjusted.spacing == (1, 1, 2.5)
    assert adjust(tiny_task, {}, {}) is tiny_task


@pytest.mark.parametrize(
    ("model", "grid"), [({"width": 1}, {}), ({"num_classes": 9}, {}), ({}, {"labels": []}), ({}, {"patch": [0, 1, 1]})]
)
def test_other_adjustments_are_refused(tiny_task: Task, model: dict[str, Any], grid: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        adjust(tiny_task, model, grid)


# --- What a folder says ----------------------------------------------------------------------------------------------


def described(folder: Path, **values: Any) -> Path:
    (folder / "dataset.json").write_text(json.dumps(values))
    return folder


def test_a_folder_that_names_a_built_in_task_has_it(tmp_path: Path) -> None:
    assert task_of_folder(described(tmp_path, name=" Hippocampus ")) is get_task("hippocampus")
    assert choose_task(None, tmp_path) is get_task("hippocampus")
    assert choose_task("phantom", tmp_path) is get_task("phantom")


DECATHLON = {"modality": {"0": "CT", "1": "PET"}, "labels": {"0": "background", "2": "node", "1": "mass"}}
NNUNET = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "mass": 1, "node": 2}}


@pytest.mark.parametrize("values", [DECATHLON, NNUNET], ids=["decathlon", "nnU-Net"])
def test_a_task_is_derived_from_modalities_and_labels(tmp_path: Path, values: dict[str, Any]) -> None:
    task = task_of_folder(described(tmp_path, name="Lung", **values))
    assert task.name == "lung"
    assert task.modalities == ("CT", "PET")
    assert task.structures == (Structure("mass", (1,)), Structure("node", (2,)))
    assert task.label_values == (0, 1, 2)
    assert (task.model.in_channels, task.model.num_classes) == (2, 3)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "has no 'channel_names'"),
        ({"modality": {"0": "CT"}}, "has no 'labels'"),
        ({"modality": ["CT"], "labels": {"1": "a"}}, "does not list its modalities and labels by number"),
        ({"modality": {"x": "CT"}, "labels": {"1": "a"}}, "does not list its modalities and labels by number"),
        ({"modality": {"0": "CT"}, "labels": ["a"]}, "does not list its modalities and labels by number"),
        ({"modality": {"0": "CT"}, "labels": {"a": ["x", 2]}}, "does not list its modalities and labels by number"),
        (
            {"modality": {"0": "CT"}, "labels": {"0": "background"}},
            "at least one modality and one structure|num_classes",
        ),
        ({"modality": {"0": "CT"}, "labels": {"-1": "ignore", "1": "a"}}, "whole numbers up to 32767"),
        ({"modality": {"0": "CT"}, "labels": {"1": "a", "2": "a"}}, "different names"),
    ],
)
def test_a_description_without_numbers_is_refused(tmp_path: Path, values: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text) as refused:
        task_of_folder(described(tmp_path, name="x", **values))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_description_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=r"dataset\.json"):
        task_of_folder(tmp_path)


def test_a_folder_without_a_description_needs_a_task(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii.gz").touch()
    with pytest.raises(DataError, match=r"does not tell its task; say --task, one of hippocampus.*, or a TOML file"):
        choose_task(None, tmp_path)


def test_the_shared_hippocampus_data_name_their_task(shared: Path) -> None:
    assert task_of_folder(shared / "data" / "hippocampus") is get_task("hippocampus")
