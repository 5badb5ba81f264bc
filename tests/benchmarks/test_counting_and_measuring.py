"""Counts against closed forms, ratios against hand-worked examples, and turns that alternate."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.contenders import OWN_NETWORKS, PEER_NETWORKS, build_network
from benchmarks.counting import multiply_accumulates
from benchmarks.measure import Series, interleaved, spoken, times_as_fast


class Attention(nn.Module):
    """Five queries and seven keys of width 8 for each of two heads, out of nothing but the input."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        q = x.flatten()[:80].view(1, 2, 5, 8)
        k = x.flatten()[:112].view(1, 2, 7, 8)
        return F.scaled_dot_product_attention(q, k, k)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Conv3d(4, 6, 3, padding=1), 6 * 4 * 27 * 8**3),
        (nn.Conv3d(4, 8, 2, stride=2, groups=4), 8 * 8 * 4**3),
        (nn.Sequential(nn.Flatten(0, 3), nn.Linear(8, 5)), 4 * 8 * 8 * 8 * 5),
        (Attention(), 2 * 2 * 5 * 7 * 8),
    ],
)
def test_multiply_accumulates_are_those_of_the_closed_form(model: nn.Module, expected: int) -> None:
    assert multiply_accumulates(model, torch.randn(1, 4, 8, 8, 8)) == expected


def test_the_plain_network_has_the_arithmetic_that_was_published() -> None:
    """15.5 GMAC at 128³, both products of attention included."""
    with torch.device("meta"):
        plain, image = build_network("plain", 32), torch.empty(1, 4, 128, 128, 128)
    assert multiply_accumulates(plain, image) == pytest.approx(15.5e9, rel=0.02)


# The least that each takes: an instance norm of these two would have a single voxel left of a cube of 32.
SIZES = dict.fromkeys([*OWN_NETWORKS, *PEER_NETWORKS], (32, 32, 32)) | dict.fromkeys(
    ("SwinUNETR", "DynUNet"), (64, 32, 32)
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "UNETR" in name else ()) for name in sorted(SIZES)]
)
def test_every_contender_takes_four_contrasts_and_gives_three_classes(name: str) -> None:
    size = SIZES[name]
    network = build_network(name, size[0]).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 4, *size)).shape == (1, 3, *size)


def test_a_ratio_is_the_median_of_the_turns_own() -> None:
    assert times_as_fast(Series((4.0, 8.0, 3.0)), Series((2.0, 2.0, 1.0))) == 3.0


def test_noise_is_half_the_distance_between_quartiles_over_the_median() -> None:
    assert Series((1.0, 2.0, 3.0, 4.0, 5.0)).noise == pytest.approx(1 / 3)
    assert Series((2.0,)).noise == 0
    assert spoken(Series((0.25, 0.5, 0.75))) == "0.500 s ±25%"


def test_turns_alternate_and_the_first_does_not_count() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    measured = interleaved({name: lambda name=name: run(name) for name in "ab"}, 2)  # type: ignore[misc]
    assert "".join(order) == "ababab"
    assert measured["a"].seconds == (3.0, 5.0)
