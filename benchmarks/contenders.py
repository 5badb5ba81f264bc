"""Who is compared with whom: networks of four contrasts and three classes, each built as its authors build it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.plain import PlainSegFormer3D
from segformer3d.model import SegFormer3D

CONTRASTS, CLASSES = 4, 3


@dataclass(frozen=True)
class Contender:
    """A network and how it is run.

    Attributes:
        name: for the report.
        network: a name that `build_network` knows.
        product: whether it runs as segfed runs programs (freed memory is kept), or in a process as it comes.
        half: whether it computes in bfloat16 (float16 on a GPU) where its layers allow.
    """

    name: str
    network: str
    product: bool = False
    half: bool = False


BASELINE = Contender("plain SegFormer3D", "plain")
TUNED_BASELINE = Contender("plain, freed memory kept", "plain", product=True)
OURS = Contender("segfed", "segfed", product=True)
OURS_HALF = Contender("segfed, 16 bit", "segfed", product=True, half=True)


def build_network(name: str, side: int) -> nn.Module:
    """A network with random weights; some must know the side of the cubes that they will see."""
    torch.manual_seed(0)
    if name in OWN_NETWORKS:
        return OWN_NETWORKS[name](CONTRASTS, CLASSES)
    from monai.networks import nets  # two seconds to import: only where it is used

    return PEER_NETWORKS[name](nets, side)


OWN_NETWORKS: Mapping[str, Callable[[int, int], nn.Module]] = {"plain": PlainSegFormer3D, "segfed": SegFormer3D}
PEER_NETWORKS: Mapping[str, Callable[[Any, int], nn.Module]] = {
    "UNETR": lambda nets, side: nets.UNETR(CONTRASTS, CLASSES, img_size=side),
    "SwinUNETR": lambda nets, side: nets.SwinUNETR(CONTRASTS, CLASSES, feature_size=48),
    "SegResNet": lambda nets, side: nets.SegResNet(in_channels=CONTRASTS, out_channels=CLASSES, init_filters=16),
    "DynUNet": lambda nets, side: nets.DynUNet(
        spatial_dims=3,
        in_channels=CONTRASTS,
        out_channels=CLASSES,
        kernel_size=[3] * 6,
        strides=[1, 2, 2, 2, 2, 2],
        upsample_kernel_size=[2] * 5,
        res_block=False,
    ),
    "UNet": lambda nets, side: nets.UNet(
        spatial_dims=3,
        in_channels=CONTRASTS,
        out_channels=CLASSES,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    ),
}
PEERS = tuple(Contender(name, name) for name in PEER_NETWORKS)
