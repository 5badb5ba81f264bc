"""The network: against the published numbers, on volumes of any size, and each shortcut against what it replaces."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from segformer3d.config import ModelConfig
from segformer3d.decoder import Decoder, Projection
from segformer3d.encoder import EfficientAttention
from segformer3d.errors import ConfigurationError
from segformer3d.layers import apply_norm, conv_channels_last, make_norm, upsample, upsample_planes
from segformer3d.model import SegFormer3D, build
from segformer3d.published import translate
from segformer3d.tasks import get_task
from tests.examples import examples
from tests.segformer3d.conftest import Golden

# The published geometry (four stages, strides 4, 2, 2, 2) with few channels.
SMALL = ModelConfig(
    in_channels=1,
    num_classes=2,
    embed_dims=(8, 8, 8, 8),
    num_heads=(1, 2, 2, 4),
    mlp_ratios=(1, 2, 1, 2),
    depths=(1, 1, 1, 1),
    decoder_head_embedding_dim=16,
)
SIDE = st.integers(1, 40)


def golden_model(golden: Golden) -> SegFormer3D:
    model = SegFormer3D(**golden.config)
    model.load_state_dict(translate(golden.named("weight")))
    return model


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def seeded(config: ModelConfig, seed: int = 0) -> SegFormer3D:
    torch.manual_seed(seed)
    return build(config)


# --- Oracle: the published implementation ---------------------------------------------------------------------------


def test_inference_gives_the_published_logits(golden: Golden) -> None:
    with torch.no_grad():
        logits = golden_model(golden).eval()(golden.tensors["input"].float())
    assert relative_error(logits, golden.tensors["eval_logits"]) < 1e-4


def test_a_training_step_gives_the_published_logits_loss_gradients_and_statistics(golden: Golden) -> None:
    model = golden_model(golden).train()
    logits = model(golden.tensors["input"].float())
    loss = (logits * torch.linspace(-1, 1, logits.numel()).view(logits.shape)).mean() + (logits**2).mean()
    loss.backward()

    assert relative_error(logits.detach(), golden.tensors["train_logits"]) < 1e-4
    assert loss.item() == pytest.approx(golden.tensors["train_loss"].item(), rel=1e-4)
    gradients = translate(golden.named("grad"))
    whole = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert ours.keys() == gradients.keys()
    for name, gradient in ours.items():
        assert gradient is not None
        assert (gradient - gradients[name]).norm() < 1e-4 * whole, name
    statistics = translate(golden.named("after"))
    assert {name for name, _ in model.named_buffers()} == statistics.keys()
    for name, value in model.named_buffers():
        assert relative_error(value, statistics[name]) < 1e-4, name


def test_the_full_model_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in SegFormer3D().parameters()) == 4_525_251


# --- Property: any size in, the same size out ------------------------------------------------------------------------


@settings(max_examples=examples(30))
@given(size=st.tuples(SIDE, SIDE, SIDE), training=st.booleans(), norm=st.sampled_from(["batch", "group"]))
def test_logits_have_the_size_of_the_volume_whatever_it_is(
    size: tuple[int, int, int], training: bool, norm: Any
) -> None:
    model = seeded(replace(SMALL, norm=norm)).train(training)
    with torch.no_grad():
        logits = model(torch.randn(1, 1, *size))
    assert logits.shape == (1, 2, *size)
    assert torch.isfinite(logits).all()


GEOMETRIES = {
    "thick slices": {
        "patch_stride": ((4, 4, 1), (2, 2, 1)),
        "patch_kernel_size": ((7, 7, 3), (3, 3, 1)),
        "patch_padding": ((3, 3, 1), (1, 1, 0)),
        "sr_ratios": ((4, 4, 1), (1, 2, 3)),
    },
    "even kernels": {"patch_kernel_size": (4, 2), "patch_padding": (2, 1), "patch_stride": (4, 2), "sr_ratios": (3, 1)},
    "padding beyond need": {"patch_kernel_size": (3, 3), "patch_padding": (2, 3)},
    "stem stride 1": {"patch_stride": (1, 2)},
    "stem stride 2": {"patch_stride": (2, 2)},
    "stem stride 3": {"patch_stride": (3, 2)},
    "strides (1, 2, 3) and (3, 1, 2)": {"patch_stride": ((1, 2, 3), (3, 1, 2)), "sr_ratios": ((2, 1, 1), (1, 1, 2))},
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
@settings(max_examples=examples(8))
@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)))
def test_every_geometry_takes_every_size(
    tiny_config: ModelConfig, geometry: dict[str, Any], size: tuple[int, int, int]
) -> None:
    model = seeded(replace(tiny_config, **geometry)).train()
    logits = model(torch.randn(1, 1, *size))
    assert logits.shape == (1, 3, *size)
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_batch_of_single_voxels_is_a_training_batch(tiny_config: ModelConfig) -> None:
    logits = seeded(tiny_config).train()(torch.randn(2, 1, 1, 1, 1))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("shape", [(1, 8, 8, 8), (1, 2, 8, 8, 8), (1, 1, 8, 0, 8), (0, 1, 8, 8, 8)])
def test_what_is_no_volume_is_refused_in_one_line(tiny_config: ModelConfig, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"the model takes \(batch, 1, depth, height, width\), got "):
        seeded(tiny_config)(torch.zeros(shape))


# --- Determinism and independence ------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_model_and_the_same_logits(tiny_config: ModelConfig) -> None:
    image = torch.randn(2, 1, 9, 10, 11)
    first, second = seeded(tiny_config), seeded(tiny_config)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert torch.equal(first(image), second(image))
    assert not torch.equal(first(image), seeded(tiny_config, seed=1)(image))


def test_with_group_norm_a_volume_does_not_know_its_batch_mates(tiny_config: ModelConfig) -> None:
    model = seeded(replace(tiny_config, norm="group")).train()
    volume, others = torch.randn(1, 1, 10, 11, 12), torch.randn(2, 2, 1, 10, 11, 12) * 9
    with torch.no_grad():
        alone, *together = (model(torch.cat([volume, mates]))[0] for mates in (volume[:0], *others))
    for logits in together:
        torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-6)
    assert not list(model.buffers())


def test_with_batch_norm_it_does(tiny_config: ModelConfig) -> None:
    model = seeded(tiny_config).train()
    volume, other = torch.randn(1, 1, 10, 11, 12), torch.randn(1, 1, 10, 11, 12) * 9
    with torch.no_grad():
        assert (model(torch.cat([volume, other]))[0] - model(volume)[0]).abs().max() > 1e-3


# --- Norms -----------------------------------------------------------------------------------------------------------


def test_batch_norm_of_one_value_uses_the_running_statistics_and_keeps_them() -> None:
    norm = nn.BatchNorm1d(3).train()
    norm.running_mean, norm.running_var = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 9.0, 16.0])
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    y = apply_norm(norm, torch.tensor([[3.0, 5.0, 7.0]]).view(1, 1, 1, 1, 3))
    torch.testing.assert_close(y.flatten(), torch.ones(3), rtol=1e-4, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_batch_norm_is_torchs_over_all_but_the_last_axis() -> None:
    ours, theirs = nn.BatchNorm1d(5).train(), nn.BatchNorm3d(5).train()
    x = torch.randn(2, 3, 4, 5, 5)
    torch.testing.assert_close(apply_norm(ours, x).movedim(-1, 1), theirs(x.movedim(-1, 1)))
    assert ours.running_var is not None
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(apply_norm(ours.eval(), x).movedim(-1, 1), theirs.eval()(x.movedim(-1, 1)))


def test_group_norm_is_torchs_and_takes_a_group_of_one_value() -> None:
    norm = make_norm("group", 8)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 3, 4, 5, 8)
    theirs = F.group_norm(x.movedim(-1, 1), 8, norm.weight, norm.bias).movedim(1, -1)
    torch.testing.assert_close(apply_norm(norm, x), theirs)
    one = apply_norm(norm, torch.randn(1, 1, 1, 1, 8))
    torch.testing.assert_close(one.flatten(), norm.bias, rtol=0, atol=1e-4)


# --- Shortcuts against what they replace -----------------------------------------------------------------------------


@settings(max_examples=examples(40))
@given(
    size=st.tuples(*[st.integers(1, 6)] * 3),
    factor=st.tuples(*[st.integers(1, 5)] * 3),
    cut=st.tuples(*[st.integers(0, 4)] * 3),
)
def test_upsampling_is_trilinear_interpolation_and_a_crop(
    size: tuple[int, ...], factor: tuple[int, int, int], cut: tuple[int, ...]
) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = [n * f for n, f in zip(size, factor, strict=True)]
    kept = [max(1, n - c) for n, c in zip(whole, cut, strict=True)]
    expected = F.interpolate(x, size=whole, mode="trilinear", align_corners=False)[
        :, :, : kept[0], : kept[1], : kept[2]
    ]
    torch.testing.assert_close(upsample(x, factor, kept), expected, rtol=0, atol=1e-6)
    in_planes = upsample(x, (1, *factor[1:]), (size[0], *kept[1:]))
    planes = upsample_planes(x.movedim(1, -1).contiguous(), factor[1:], (kept[1], kept[2]))
    torch.testing.assert_close(planes.movedim(-1, 1), in_planes, rtol=0, atol=1e-6)


def test_upsampling_first_met_in_inference_mode_can_be_trained_through() -> None:
    with torch.inference_mode():
        upsample(torch.randn(1, 1, 13, 1, 1), (7, 1, 1), (90, 1, 1))
    x = torch.randn(1, 1, 13, 1, 1, requires_grad=True)
    upsample(x, (7, 1, 1), (90, 1, 1)).sum().backward()
    assert x.grad is not None


def published_decoder(decoder: Decoder, maps: list[Tensor], factors: list[int]) -> Tensor:
    """The published order: project, interpolate to the finest grid, concatenate coarse to fine, fuse, classify."""
    size = maps[0].shape[1:4]
    parts = []
    for stage in reversed(range(len(maps))):
        projection = decoder.projections[stage]
        projected = projection.norm(projection.linear(maps[stage])).movedim(-1, 1)
        scaled = F.interpolate(projected, scale_factor=factors[stage], mode="trilinear", align_corners=False)
        parts.append(scaled[:, :, : size[0], : size[1], : size[2]])
    fused = F.conv3d(torch.cat(parts, dim=1), decoder.fuse.weight[..., None, None, None])
    normed = F.relu(apply_norm(decoder.fuse_norm, fused.movedim(1, -1)))
    return F.linear(normed, decoder.classify.weight, decoder.classify.bias).movedim(-1, 1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_fusing_before_interpolating_equals_the_published_order(training: bool, norm: Any) -> None:
    torch.manual_seed(0)
    decoder = Decoder(replace(SMALL, norm=norm)).double().train(training)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter)
    if norm == "batch":
        nn.init.normal_(decoder.fuse_norm.running_mean)
        nn.init.uniform_(decoder.fuse_norm.running_var, 0.5, 2)
    maps = [torch.randn(2, *size, 8, dtype=torch.float64) for size in ((9, 6, 7), (5, 3, 4), (3, 2, 2), (2, 1, 1))]
    expected = published_decoder(copy.deepcopy(decoder), maps, [1, 2, 4, 8])
    torch.testing.assert_close(decoder(maps), expected, rtol=1e-10, atol=1e-10)


def test_the_decoder_goes_row_by_row_when_the_map_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    decoder = Decoder(SMALL).eval()
    maps = [torch.randn(2, *size, 8) for size in ((9, 7, 5), (5, 4, 3), (3, 2, 2), (2, 1, 1))]
    whole = decoder(maps)
    monkeypatch.setattr("segformer3d.decoder.VOXELS_AT_ONCE", 2 * 9 * 5)
    torch.testing.assert_close(decoder(maps), whole, rtol=1e-5, atol=1e-6)


def test_a_layer_norm_whose_variance_is_tiny_survives_the_fusion() -> None:
    """The variance is a quadratic form here; features that hardly differ are where that could lose digits."""
    torch.manual_seed(0)
    projection, fuse = Projection(8, 16), torch.randn(4, 16)
    nn.init.constant_(projection.linear.weight, 0.5)
    projection.linear.weight.data += 1e-3 * torch.randn(16, 8)
    x = torch.randn(1, 5, 5, 5, 8)
    fast = F.linear(projection.narrow(x), *projection.fused(fuse))
    exact = copy.deepcopy(projection).double()
    expected = F.linear(exact.norm(exact.linear(x.double())), fuse.double())
    assert relative_error(fast.detach(), expected.detach()) < 1e-4


@pytest.mark.parametrize("channels", [4, 5, 9])
def test_a_convolution_in_pairs_of_channels_is_the_convolution(channels: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv3d(channels, 3, 7, stride=4, padding=3).double()
    x = torch.randn(2, 9, 10, 11, channels, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(conv(x.movedim(-1, 1)).square().sum(), [x, *conv.parameters()])
    ours = torch.autograd.grad(conv_channels_last(x, conv).square().sum(), [x, *conv.parameters()])
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_spatial_reduction_is_a_strided_convolution() -> None:
    torch.manual_seed(0)
    attention = EfficientAttention(8, 2, (2, 3, 1)).double()
    assert attention.reduce is not None
    assert attention.reduce_norm is not None
    x_BDHWC = torch.randn(2, 4, 6, 5, 8, dtype=torch.float64)
    kernel = attention.reduce.weight.view(8, 8, 2, 3, 1)
    convolved = F.conv3d(x_BDHWC.movedim(-1, 1), kernel, attention.reduce.bias, stride=(2, 3, 1))
    expected = attention.reduce_norm(convolved.flatten(2).transpose(1, 2))
    torch.testing.assert_close(attention._reduced(x_BDHWC), expected, rtol=1e-12, atol=1e-12)


def test_attention_is_softmax_of_scaled_products_over_the_heads() -> None:
    torch.manual_seed(0)
    attention = EfficientAttention(6, 3, (1, 1, 1)).double()
    x_BDHWC = torch.randn(1, 2, 2, 3, 6, dtype=torch.float64)
    x_NC = x_BDHWC.view(12, 6)
    q, (k, v) = attention.query(x_NC), attention.key_value(x_NC).split(6, dim=1)
    heads = []
    for head in range(3):
        part = slice(2 * head, 2 * head + 2)
        heads.append((q[:, part] @ k[:, part].T / math.sqrt(2)).softmax(dim=1) @ v[:, part])
    expected = attention.project(torch.cat(heads, dim=1)).view(x_BDHWC.shape)
    torch.testing.assert_close(attention(x_BDHWC), expected, rtol=1e-12, atol=1e-12)


# --- Initialisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hippocampus", "phantom", "brats2017"])
def test_a_fresh_model_predicts_its_tasks_prior(name: str) -> None:
    task = get_task(name)
    torch.manual_seed(0)
    model = build(task.model, task.output_bias).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, task.model.in_channels, 24, 24, 24))
    probabilities = logits.softmax(1)[:, 1:] if task.activation == "softmax" else logits.sigmoid()
    prior = torch.tensor(task.prior)
    predicted = probabilities.mean(dim=(0, 2, 3, 4))
    assert (predicted / prior).log().abs().max() < math.log(2)


def test_without_a_prior_the_first_logits_are_near_zero_and_published_ones_are_not() -> None:
    image = torch.randn(1, 4, 32, 32, 32)
    torch.manual_seed(0)
    with torch.no_grad():
        ours = SegFormer3D().eval()(image)
        theirs = SegFormer3D(final_init="published").eval()(image)
    assert ours.abs().max() < 2
    assert theirs.abs().max() > 20


def test_published_initialisation_draws_the_published_spread() -> None:
    torch.manual_seed(0)
    state = SegFormer3D(final_init="published").state_dict()
    spreads = {
        "stages.0.embed.weight": math.sqrt(2 / (343 * 32)),
        "stages.1.blocks.0.feed_forward.depthwise.weight": math.sqrt(2 / 27),
        "stages.0.blocks.0.attention.reduce.weight": math.sqrt(2 / (64 * 32)),
        "decoder.fuse.weight": math.sqrt(2 / 256),
        "decoder.classify.weight": math.sqrt(2 / 3),
        "stages.3.blocks.1.attention.query.weight": 0.02,
    }
    for name, spread in spreads.items():
        assert float(state[name].std()) == pytest.approx(spread, rel=0.06), name
    assert all((value == 0).all() for name, value in state.items() if name.endswith("bias"))


@pytest.mark.parametrize("bias", [(0.0,), (0.0, math.inf, 0.0), (0.0, math.nan, 0.0), (0.0,) * 4])
def test_a_bias_that_does_not_fit_is_refused(tiny_config: ModelConfig, bias: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="output_bias needs 3 finite values, one per class"):
        build(tiny_config, bias)


@pytest.mark.parametrize("arguments", [{"final_init": "zeros"}, {"final_init": "published", "output_bias": (0.0,) * 3}])
def test_an_unknown_initialisation_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="final_init must be"):
        SegFormer3D(**SMALL.to_json() | {"num_classes": 3}, **arguments)
