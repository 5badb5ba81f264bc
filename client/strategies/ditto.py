"""Ditto: beside the global model, a site trains one of its own, held near the global one.

Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021. In each round the personal
model v takes as many passes over the site's cases as the global one, on its loss plus lambda / 2 · |v - x|², x being
the global model that was received. It never leaves the site.
"""

from pathlib import Path

import torch

from client.contract import TrainRequest
from client.round_files import OPTIMIZER, RoundFiles
from client.strategies.proximal import proximal_pull
from client.weights import Weights, load_weights, weights_of
from segformer3d.checkpoint import read_weights, save_weights
from segformer3d.dataset import SiteData
from segformer3d.model import skeleton
from segformer3d.training import Part, train_part

PERSONAL = "personal"


def personal_models(folder: Path) -> RoundFiles:
    """Where a run's personal models are at a site: model files as `segfed evaluate` takes them."""
    return RoundFiles(folder, PERSONAL)


def train_personal(
    request: TrainRequest, data: SiteData, part: Part, folder: Path, *, device: torch.device, workers: int
) -> None:
    """Train a site's personal model for one round and keep it.

    Args:
        request: what is asked for the global model, and lambda, above 0.
        data: the site's.
        part: the round's, as for the global model.
        folder: the run's folder at the site.
        device, workers: see `segformer3d.training.train_part`.

    Raises:
        CheckpointError: the personal model or its optimizer's state is damaged.
        StorageError: they cannot be written.
    """
    number, task = request.round, request.task
    models, moments = personal_models(folder), RoundFiles(folder, f"{PERSONAL}-{OPTIMIZER}")
    before = models.before(number)
    model = skeleton(task.model)
    load_weights(model, request.weights if before is None else _kept(before))
    model.to(device)
    named = dict(model.named_parameters())
    towards = [torch.tensor(request.weights[name], device=device) for name in named]
    train_part(
        model,
        data.train,
        task,
        request.training,
        part,
        device=device,
        optimizer_from=moments.before(number),
        optimizer_to=moments.after(number),
        optimizer_over=moments.superseded(),
        workers=workers,
        adjust=proximal_pull(list(named.values()), request.rule.personal, towards),
    )
    save_weights(models.after(number), weights_of(model), task.model, task, {"round": number})
    for files in (models, moments):
        files.forget_old()


def _kept(path: Path) -> Weights:
    return {name: value.numpy() for name, value in read_weights(path)[0].items()}
