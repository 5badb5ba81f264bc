"""A task and sites so small that a round takes a fraction of a second: a bright ball in noise."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.contract import PREPARE, TRAIN, PrepareRequest, TrainRequest
from client.site import SiteSettings
from client.weights import Weights, weights_of
from segformer3d.config import ModelConfig
from segformer3d.model import build
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Structure, Task

TINY_MODEL = ModelConfig(
    in_channels=1,
    num_classes=2,
    embed_dims=(8, 16),
    num_heads=(1, 2),
    mlp_ratios=(2, 2),
    depths=(1, 1),
    sr_ratios=(2, 1),  # type: ignore[arg-type]
    patch_kernel_size=(3, 3),  # type: ignore[arg-type]
    patch_stride=(2, 2),  # type: ignore[arg-type]
    patch_padding=(1, 1),  # type: ignore[arg-type]
    decoder_head_embedding_dim=8,
)
TINY = Task(
    name="tiny",
    modalities=("MRI",),
    structures=(Structure("ball", (1,)),),
    label_values=(0, 1),
    patch=(16, 16, 16),
    model=TINY_MODEL,
)
RUN = "run-1"
Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def tiny_weights(seed: int = 0) -> Weights:
    """The weights of a fresh tiny model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return weights_of(build(TINY_MODEL))


def ball(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image and label of a bright ball near the middle of a volume of 16 to 19 voxels a side."""
    return _ball(generator, generator.integers(16, 20, 3))


def ball_of_one_window(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The same in a volume of the task's patch: one window where the others take eight."""
    return _ball(generator, np.array(TINY.patch))


def _ball(generator: np.random.Generator, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centre = size / 2 + generator.uniform(-2, 2, 3)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), axis=-1)
    label = (np.linalg.norm(grid - centre, axis=-1) < 4).astype(np.uint8)
    return (generator.normal(0, 0.3, size) + label).astype(np.float32), label


def write_site(folder: Path, cases: int, seed: int, draw: Draw = ball) -> Path:
    """A Decathlon folder of cases that `draw` makes up; case names are what must never leave the site."""
    generator = np.random.default_rng(seed)
    training = []
    for case in range(cases):
        entry = {"image": f"./imagesTr/secret_{case:03d}.nii.gz", "label": f"./labelsTr/secret_{case:03d}.nii.gz"}
        image, label = draw(generator)
        for place, array in ((entry["image"], image), (entry["label"], label)):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / place)
        training.append(entry)
    described = {"name": "tiny", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "ball"}}
    (folder / "dataset.json").write_text(json.dumps({**described, "training": training}), encoding="utf-8")
    return folder


def tiny_site(folder: Path, name: str = "site-1", cases: int = 4, seed: int = 1, draw: Draw = ball) -> SiteSettings:
    """The settings of a site whose data has been written."""
    data = write_site(folder / name / "data", cases, seed, draw)
    return SiteSettings(name, data, folder / name / "work", "cpu", threads=1)


def context_of(partition: int = 0) -> Context:
    """What Flower hands to a ClientApp besides the message."""
    return Context(1, 2, {"partition-id": partition}, RecordDict(), {})


def message_with(records: RecordDict, kind: str, node: int = 2) -> Message:
    """A message as it comes in at a site."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    message = Message(records, node, kind, ttl=600.0)
    message.metadata.__dict__["_message_id"] = "m1"
    return message


def prepare_message(task: Task = TINY) -> Message:
    """A coordinator's first message."""
    return message_with(PrepareRequest(RUN, task, 4).encode(), PREPARE)


def train_request(round_number: int = 1, weights: Weights | None = None) -> TrainRequest:
    """A request of a run of four rounds."""
    training = TrainingSettings(batch_size=2, learning_rate=1e-3)
    return TrainRequest(RUN, round_number, 4, 1, 7, TINY, training, weights or tiny_weights())


def train_message(round_number: int = 1, weights: Weights | None = None) -> Message:
    """The same as a message."""
    return message_with(train_request(round_number, weights).encode(), TRAIN)
