"""Published names and shapes against ours. Oracle: the published full-size state dict's names, dtypes and shapes."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segformer3d.config import ModelConfig
from segformer3d.errors import CheckpointError, ConfigurationError
from segformer3d.model import SegFormer3D
from segformer3d.published import infer_config, is_published, translate, translate_name


@pytest.fixture(scope="session")
def published(shared: Path) -> dict[str, Tensor]:
    """The full-size published state dict, without values."""
    described = json.loads((shared / "reference" / "segformer3d_b0_state_dict.json").read_text())["state_dict"]
    return {
        name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for name, (dtype, shape) in described.items()
    }


def test_every_published_weight_is_one_of_ours_and_every_one_of_ours_is_published(published: dict[str, Tensor]) -> None:
    ours = {name: (tuple(value.shape), value.dtype) for name, value in SegFormer3D().state_dict().items()}
    theirs = {name: (tuple(value.shape), value.dtype) for name, value in translate(published).items()}
    assert theirs == ours
    assert len(theirs) == len(published), "two published names became one of ours"


def test_the_full_size_is_read_off_the_weights(published: dict[str, Tensor]) -> None:
    assert infer_config(published, {}) == ModelConfig()


def test_what_the_caller_knows_wins(published: dict[str, Tensor]) -> None:
    config = infer_config(published, {"patch_stride": (2, 2, 2, 2), "num_heads": (2, 4, 5, 16)})
    assert config.patch_stride == ((2, 2, 2),) * 4
    assert config.num_heads == (2, 4, 5, 16)
    with pytest.raises(ConfigurationError, match="unknown model setting 'heads'"):
        infer_config(published, {"heads": 1})


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("segformer_encoder.embed_1.patch_embeddings.weight", "stages.0.embed.weight"),
        ("segformer_encoder.embed_4.norm.bias", "stages.3.embed_norm.bias"),
        ("segformer_encoder.norm2.weight", "stages.1.norm.weight"),
        ("segformer_encoder.tf_block1.1.attention.sr.weight", "stages.0.blocks.1.attention.reduce.weight"),
        ("segformer_encoder.tf_block1.1.attention.sr_norm.bias", "stages.0.blocks.1.attention.reduce_norm.bias"),
        ("segformer_encoder.tf_block3.0.attention.proj.bias", "stages.2.blocks.0.attention.project.bias"),
        ("segformer_encoder.tf_block3.0.mlp.dwconv.bn.running_var", "stages.2.blocks.0.feed_forward.norm.running_var"),
        ("segformer_encoder.tf_block3.0.mlp.dwconv.dwconv.bias", "stages.2.blocks.0.feed_forward.depthwise.bias"),
        ("segformer_decoder.linear_c4.bn.weight", "decoder.projections.3.norm.weight"),
        ("segformer_decoder.linear_fuse.0.weight", "decoder.fuse.weight"),
        ("segformer_decoder.linear_fuse.1.num_batches_tracked", "decoder.fuse_norm.num_batches_tracked"),
        ("module.segformer_decoder.linear_pred.bias", "decoder.classify.bias"),
    ],
)
def test_names(theirs: str, ours: str) -> None:
    assert translate_name(theirs) == ours


def test_our_own_names_are_not_taken_for_published_ones(published: dict[str, Tensor]) -> None:
    assert is_published(published)
    assert is_published({f"module.{name}": value for name, value in published.items()})
    assert not is_published(SegFormer3D().state_dict())
    assert not is_published({})


def test_a_foreign_name_is_refused() -> None:
    with pytest.raises(
        CheckpointError, match=r"the published SegFormer3D has no weight called 'backbone\.conv1\.weight'"
    ):
        translate_name("backbone.conv1.weight")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ({"segformer_decoder.linear_pred.weight": None}, "it has no decoder.classify.weight"),
        (
            {"segformer_encoder.tf_block2.0.mlp.fc1.weight": None},
            "it has no stages.1.blocks.0.feed_forward.expand.weight",
        ),
        ({"segformer_encoder.embed_1.patch_embeddings.weight": torch.zeros(3)}, "do not have a SegFormer3D's shapes"),
        ({"segformer_decoder.linear_pred.weight": torch.zeros(())}, "do not have a SegFormer3D's shapes"),
        ({"segformer_encoder.tf_block1.0.mlp.fc1.weight": torch.zeros(3, 0)}, "do not have a SegFormer3D's shapes"),
    ],
)
def test_a_part_of_a_model_is_refused(
    published: dict[str, Tensor], damage: dict[str, Tensor | None], text: str
) -> None:
    damaged = {name: value for name, value in {**published, **damage}.items() if value is not None}
    with pytest.raises(CheckpointError, match=text):
        infer_config(damaged, {})


def test_published_names_without_an_encoder_stage_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"it has no stages\.0\.embed\.weight"):
        infer_config({"segformer_decoder.linear_pred.weight": torch.zeros(3, 16, 1, 1, 1)}, {})
