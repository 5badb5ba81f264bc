"""Who is compared with whom: networks of four contrasts and three classes, each built as its authors build it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from monai.networks.nets import UNETR, DynUNet, SegResNet, SwinUNETR, UNet
from torch import nn

from benchmarks.plain import PlainSegFormer3D
from segformer3d.model import SegFormer3D

CONTRASTS, CLASSES = 4, 3


@dataclass(frozen=True)
class Contender:
    """A network and how it is run.

    Attributes:
        name: for the report.
        network: a name of `NETWORKS`.
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
PEERS = tuple(Contender(name, name) for name in ("UNETR", "SwinUNETR", "SegResNet", "DynUNet", "UNet"))


def build_network(name: str, side: int) -> nn.Module:
    """A network with random weights; some must know the side of the cubes that they will see."""
    torch.manual_seed(0)
    return NETWORKS[name](side)


NETWORKS: Mapping[str, Callable[[int], nn.Module]] = {
    "plain": lambda side: PlainSegFormer3D(CONTRASTS, CLASSES),
    "segfed": lambda side: SegFormer3D(CONTRASTS, CLASSES),
    "UNETR": lambda side: UNETR(CONTRASTS, CLASSES, img_size=side),
    "SwinUNETR": lambda side: SwinUNETR(CONTRASTS, CLASSES, feature_size=48),
    "SegResNet": lambda side: SegResNet(in_channels=CONTRASTS, out_channels=CLASSES, init_filters=16),
    "DynUNet": lambda side: DynUNet(
        spatial_dims=3,
        in_channels=CONTRASTS,
        out_channels=CLASSES,
        kernel_size=[3] * 6,
        strides=[1, 2, 2, 2, 2, 2],
        upsample_kernel_size=[2] * 5,
        res_block=False,
    ),
    "UNet": lambda side: UNet(
        spatial_dims=3,
        in_channels=CONTRASTS,
        out_channels=CLASSES,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    ),
}
