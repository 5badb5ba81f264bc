"""A model as the command line asks for it: from which file, for which task, with whose norms."""

from dataclasses import dataclass, replace
from pathlib import Path

from segformer3d.checkpoint import load
from segformer3d.errors import ConfigurationError
from segformer3d.model import SegFormer3D
from segformer3d.model_description import known_task, load_task, read_notes
from segformer3d.norms import MEAN, choose_norms
from segformer3d.tasks import Task, named_task


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is ready to be used.

    Attributes:
        network: in evaluation mode.
        task: that it solves.
        norms: whose they are, in words, where sites have kept their own (FedBN); else None.
    """

    network: SegFormer3D
    task: Task
    norms: str | None


def load_model(path: Path, task: str | None, norms: str | None = None) -> Loaded:
    """Read a model for a task.

    Args:
        path: the model's file.
        task: a task's name or TOML file; needed for models that do not say.
        norms: for models of FedBN, which must say: the file of a site's own norms, or "mean".

    Raises:
        CheckpointError: a file is damaged, or does not fit the model.
        ConfigurationError: there is no such task, or it does not fit; or norms must be named, or must not.
    """
    chosen = load_task(path) if task is None else named_task(task)
    network = load(path)
    if (network.config.in_channels, network.config.num_classes) != (len(chosen.modalities), chosen.channels):
        raise ConfigurationError(
            f"{path} takes {network.config.in_channels} contrasts and gives {network.config.num_classes} channels; "
            f"task {chosen.name} needs {len(chosen.modalities)} and {chosen.channels}"
        )
    whose = choose_norms(network, path, read_notes(path).get("norms"), norms)
    return Loaded(network, chosen if task is None else _as_trained(chosen, known_task(path)), whose)


def load_rival(path: Path, task: str | None) -> Loaded:
    """A second model to compare with; one of FedBN has the mean of the sites' norms."""
    return load_model(path, task, MEAN if "norms" in read_notes(path) else None)


def _as_trained(asked: Task, trained: Task | None) -> Task:
    """Labels as they are asked for, images as the model knows them: on another grid it would see another world."""
    if trained is None:
        return asked
    seen = {name: getattr(trained, name) for name in ("spacing", "patch", "intensity", "window", "model")}
    return replace(asked, **seen)
