"""What a process loads before it is ready, and in its first round: what it needs, and nothing that takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torch._dynamo", "monai", "ray", "matplotlib", "opacus", "scipy", "nibabel", "onnx")
LOADED = "import json, sys; print(json.dumps([name for name in {heavy} if name in sys.modules]))"
A_ROUND = """
import torch
from segformer3d.config import ModelConfig
from segformer3d.losses import make_loss
from segformer3d.model import build, skeleton
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import get_task
from segformer3d.training import make_optimizer
from segformer3d.windows import slide
task, settings = get_task("hippocampus"), TrainingSettings()
network = build(task.model)
skeleton(task.model).load_state_dict(network.state_dict(), assign=True)
optimizer = make_optimizer(network, settings)
optimizer.zero_grad()
scan = torch.zeros(1, 1, 32, 32, 32)
target = torch.zeros(1, task.model.num_classes, 32, 32, 32)
make_loss(task, settings)(network(scan), target).backward()
optimizer.step()
list(slide(network.eval(), scan[0].numpy(), (32, 32, 32), overlap=0.5, at_once=1, device=torch.device("cpu")))
"""


def loaded(code: str) -> set[str]:
    """Which of the heavy libraries a fresh process has loaded after this."""
    command = [sys.executable, "-c", code + "\n" + LOADED.format(heavy=HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("modules", "more", "needed"),
    [
        (("segfed", "client.init", "client.join", "client.status", "client.supernode"), "", set()),
        (("server.commands", "server.start", "server.status", "server.run_commands", "server.gate_process"), "", set()),
        (("server.app",), "", {"torch"}),
        (("client.worker", "simulations.engines.worker"), A_ROUND, {"torch", "scipy", "nibabel"}),
    ],
    ids=["a site's commands", "the coordinator's commands", "the rounds", "a site's worker, and a round of training"],
)
def test_a_process_loads_what_it_needs(modules: tuple[str, ...], more: str, needed: set[str]) -> None:
    assert loaded("\n".join(f"import {module}" for module in modules) + more) <= needed
