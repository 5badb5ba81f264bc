"""Rules of the model's shape, and its way to JSON and back."""

import dataclasses
import json
from typing import Any

import pytest

from segformer3d.config import ModelConfig, triple
from segformer3d.errors import ConfigurationError


def test_defaults_are_the_published_full_size() -> None:
    config = ModelConfig()
    assert config.embed_dims == (32, 64, 160, 256)
    assert config.num_heads == (1, 2, 5, 8)
    assert config.sr_ratios == ((4, 4, 4), (2, 2, 2), (1, 1, 1), (1, 1, 1))
    assert config.patch_kernel_size == ((7, 7, 7), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_one_number_stands_for_three_axes() -> None:
    short = ModelConfig(sr_ratios=(4, 2, 1, 1), patch_stride=[4, [2, 2, 2], 2, (2, 2, 2)])  # type: ignore[arg-type]
    assert short == ModelConfig()
    assert hash(short) == hash(ModelConfig())


def test_json_and_back(tiny_config: ModelConfig) -> None:
    for config in (ModelConfig(), tiny_config, dataclasses.replace(tiny_config, norm="group", decoder_dropout=0.5)):
        assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"colour": 1}, "unknown model setting 'colour'; known are decoder_dropout,"),
        ({"in_channels": 0}, "in_channels must be whole numbers of 1 or more, got 0"),
        ({"num_classes": 2.0}, "num_classes must be whole numbers of 1 or more, got 2.0"),
        ({"num_classes": True}, "num_classes must be whole numbers of 1 or more, got True"),
        ({"embed_dims": 32}, "embed_dims takes one entry per encoder stage, got 32"),
        ({"embed_dims": "abcd"}, "embed_dims takes one entry per encoder stage, got 'abcd'"),
        ({"embed_dims": ()}, "num_heads needs 0 entries"),
        ({"embed_dims": (32, 64, 160)}, "num_heads needs 3 entries, one per stage, got 4"),
        ({"embed_dims": (32, 64, 160, 255)}, r"embed_dims of stage 4 \(255\) must be a multiple of its heads \(8\)"),
        ({"depths": (1, 1, 1, 0)}, "depths must be whole numbers of 1 or more, got 0"),
        ({"depths": None}, "depths takes one entry per encoder stage, got None"),
        ({"sr_ratios": (4, 2, 1)}, "sr_ratios needs 4 entries"),
        ({"sr_ratios": (4, 2, 1, 0)}, "sr_ratio of stage 4 must be 1 or more on every axis"),
        ({"patch_stride": (4, 2, 2, (2, 0, 2))}, "stride and sr_ratio of stage 4 must be 1 or more"),
        ({"patch_stride": (4, 2, 2, (2, 2))}, "patch_stride takes a whole number or three of them"),
        ({"patch_stride": (4, 2, 2, "222")}, "patch_stride takes a whole number or three of them"),
        ({"patch_kernel_size": (7, 3, 3, 3.0)}, "patch_kernel_size takes a whole number or three of them"),
        ({"patch_padding": (3, 1, 1, -1)}, "patch_padding takes a whole number or three of them"),
        ({"patch_padding": (2, 1, 1, 1)}, "patch_padding of stage 1 must be at least"),
        ({"norm": "layer"}, "norm must be 'batch' or 'group', got 'layer'"),
        ({"decoder_dropout": 1.0}, r"decoder_dropout must be in \[0, 1\), got 1.0"),
        ({"decoder_dropout": float("nan")}, "decoder_dropout must be in"),
        ({"decoder_dropout": "0.1"}, "decoder_dropout must be in .* got '0.1'"),
        ({"decoder_head_embedding_dim": None}, "decoder_head_embedding_dim must be whole numbers of 1 or more"),
    ],
)
def test_a_broken_rule_is_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as refused:
        ModelConfig.from_json(values)
    assert "\n" not in str(refused.value)


def test_a_model_needs_a_stage() -> None:
    empty = dict.fromkeys(("embed_dims", "num_heads", "mlp_ratios", "depths", "sr_ratios"), ())
    empty |= dict.fromkeys(("patch_kernel_size", "patch_stride", "patch_padding"), ())
    with pytest.raises(ConfigurationError, match="embed_dims needs at least one stage"):
        ModelConfig.from_json(empty)


@pytest.mark.parametrize(("value", "expected"), [(3, (3, 3, 3)), ([1, 2, 3], (1, 2, 3)), (0, (0, 0, 0))])
def test_triple(value: object, expected: tuple[int, int, int]) -> None:
    assert triple("size", value) == expected


@pytest.mark.parametrize("value", [True, 1.5, "123", [1, 2], [1, 2, 3, 4], [1, 2, True], None, {1: 2}])
def test_what_is_no_triple(value: object) -> None:
    with pytest.raises(ConfigurationError, match="size takes a whole number or three of them"):
        triple("size", value)
