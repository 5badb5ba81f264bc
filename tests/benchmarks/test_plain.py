"""The baseline is the published network, by golden data, and the product's network computes what the baseline does."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmarks.plain import PlainSegFormer3D
from segformer3d.checkpoint import from_published
from segformer3d.published import translate
from tests.segformer3d.conftest import Golden, read_golden

TINY = {
    "in_channels": 4,
    "num_classes": 3,
    "embed_dims": (8, 16, 24, 32),
    "num_heads": (1, 2, 3, 4),
    "decoder_head_embedding_dim": 32,
}


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return read_golden(shared)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())


def test_the_baseline_gives_the_published_logits(golden: Golden) -> None:
    model = PlainSegFormer3D(**golden.config)
    model.load_state_dict(golden.named("weight"))
    image = golden.tensors["input"].float()
    assert relative_error(model.eval()(image), golden.tensors["eval_logits"]) < 1e-5
    assert relative_error(model.train()(image), golden.tensors["train_logits"]) < 1e-5


def test_the_baseline_has_the_published_names_and_shapes(shared: Path) -> None:
    described = json.loads((shared / "reference" / "segformer3d_b0_state_dict.json").read_text())["state_dict"]
    ours = {name: list(value.shape) for name, value in PlainSegFormer3D().state_dict().items()}
    assert ours == {name: shape for name, (_, shape) in described.items()}


@pytest.mark.parametrize("batch", [1, 2])
def test_the_product_computes_what_the_baseline_computes(batch: int) -> None:
    """Logits and every gradient, on a cube of two windows' reductions, with random norms."""
    torch.manual_seed(0)
    plain = PlainSegFormer3D(**TINY)
    for name, value in plain.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.3)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    ours = from_published(plain.state_dict(), num_heads=TINY["num_heads"])
    image = torch.randn(batch, 4, 64, 64, 64)
    with torch.no_grad():
        assert relative_error(ours.eval()(image), plain.eval()(image)) < 1e-5
    for model in (ours.train(), plain.train()):
        F.cross_entropy(model(image), torch.zeros(batch, 64, 64, 64, dtype=torch.long)).backward()
    theirs = translate({name: value.grad for name, value in plain.named_parameters()})
    whole = torch.cat([gradient.flatten() for gradient in theirs.values()]).norm()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - theirs[name]).norm() < 1e-4 * whole, name
