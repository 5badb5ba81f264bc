"""The tasks that are built in: the benchmarks of the SegFormer3D paper, the hippocampus, and segfed's own phantoms.

Grid, patch and intensities are those of the protocol that each benchmark is published with; axes are x, y, z in RAS.
Contrasts of the BraTS tasks stand in one order, so that weights can move from one to another.
"""

from collections.abc import Mapping

from segformer3d.config import ModelConfig
from segformer3d.task import Structure, Task

HIPPOCAMPUS = Task(
    name="hippocampus",
    modalities=("MRI",),
    structures=(Structure("anterior", (1,)), Structure("posterior", (2,))),
    label_values=(0, 1, 2),
    # The structures are a few voxels thick: a stem stride of 3 resolves them where the published 4 does not
    # (docs/accuracy.md has the figures). The patch is a multiple of all strides and reductions together.
    patch=(36, 48, 36),
    flip_axes=(0,),
    mirror=True,  # volumes are so small that 0.003 Dice cost seconds
    prior=(0.025, 0.025),
    model=ModelConfig(in_channels=1, num_classes=3, patch_stride=((3, 3, 3), (2, 2, 2), (2, 2, 2), (2, 2, 2))),
)


def _regions(core: tuple[int, ...], enhancing: int, edema: int) -> tuple[Structure, ...]:
    """The nested regions that every BraTS challenge scores, from the label values of its generation."""
    return (
        Structure("whole tumour", tuple(sorted((*core, edema)))),
        Structure("tumour core", core),
        Structure("enhancing tumour", (enhancing,)),
    )


PHANTOM = Task(
    name="phantom",
    modalities=("flair", "t1", "t1ce", "t2"),
    structures=_regions(core=(1, 3), enhancing=3, edema=2),
    label_values=(0, 1, 2, 3),
    activation="sigmoid",
    patch=(48, 48, 48),
    intensity="zscore_nonzero",
    flip_axes=(0,),
    prior=(0.05, 0.03, 0.02),
    model=ModelConfig(in_channels=4, num_classes=3),
)


def _brats(name: str, modalities: tuple[str, ...], structures: tuple[Structure, ...], values: tuple[int, ...]) -> Task:
    """The BraTS protocol of the SegFormer3D paper: patches of 128 a side, z-scores, regions with sigmoid.

    The challenge's images are on a grid of 1 mm, skull-stripped, and exactly 0 outside the brain: a voxel that is not 0
    is brain, and the few negative ones that resampling leaves at its edges are scaled like the others.
    """
    return Task(
        name=name,
        modalities=modalities,
        structures=structures,
        label_values=values,
        activation="sigmoid",
        spacing=(1.0, 1.0, 1.0),
        patch=(128, 128, 128),
        intensity="zscore_nonzero",
        flip_axes=(0,),  # tumours are as likely on either side; nothing else of a brain is symmetric
        prior=(0.01, 0.005, 0.003),
        model=ModelConfig(in_channels=4, num_classes=3),
    )


# Medical Segmentation Decathlon, Task01: 1 edema, 2 non-enhancing, 3 enhancing; one 4D file a case.
BRATS2017 = _brats("brats2017", ("FLAIR", "T1w", "t1gd", "T2w"), _regions((2, 3), enhancing=3, edema=1), (0, 1, 2, 3))

# BraTS 2020 and 2021: 1 necrotic and non-enhancing, 2 edema, 4 enhancing.
BRATS2021 = _brats("brats2021", ("flair", "t1", "t1ce", "t2"), _regions((1, 4), enhancing=4, edema=2), (0, 1, 2, 4))

# BraTS 2023 and later: 1 necrotic, 2 edema, 3 enhancing.
BRATS2023 = _brats("brats2023", ("t2f", "t1n", "t1c", "t2w"), _regions((1, 3), enhancing=3, edema=2), (0, 1, 2, 3))

# BTCV in the protocol that TransUNet began and nnFormer and SegFormer3D follow (Chen et al. 2021; Zhou et al. 2023):
# eight organs in the order of its tables. The other five of BTCV's thirteen labels (5 oesophagus, 9 vena cava, 10
# portal and splenic veins, 12 and 13 adrenal glands) are background.
SYNAPSE = Task(
    name="synapse",
    modalities=("CT",),
    structures=(
        Structure("aorta", (8,)),
        Structure("gallbladder", (4,)),
        Structure("left kidney", (3,)),
        Structure("right kidney", (2,)),
        Structure("liver", (6,)),
        Structure("pancreas", (11,)),
        Structure("spleen", (1,)),
        Structure("stomach", (7,)),
    ),
    label_values=tuple(range(14)),
    # nnFormer's grid and patch: the median spacing of the scans, and 64 slices of 128 x 128.
    spacing=(0.76, 0.76, 3.0),
    patch=(128, 128, 64),
    # TransUNet's window in Hounsfield units: soft tissue, with air and fat below and bone above cut off.
    intensity="window",
    window=(-125.0, 275.0),
    flip_axes=(),  # a mirrored abdomen has its kidneys, liver and spleen on the wrong side
    prior=(0.003, 0.001, 0.005, 0.005, 0.05, 0.003, 0.008, 0.012),
    # Slices are four times as thick as voxels are wide: half the stride along z gives 32 x 32 x 32 tokens, as a cube of
    # 128 does. The authors of SegFormer3D recommend these kernels and paddings for such volumes.
    model=ModelConfig(
        in_channels=1,
        num_classes=9,
        patch_kernel_size=((7, 7, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
        patch_stride=((4, 4, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
        patch_padding=((3, 3, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ),
)

# The Automated Cardiac Diagnosis Challenge in nnFormer's protocol (Bernard et al. 2018; Zhou et al. 2023).
ACDC = Task(
    name="acdc",
    modalities=("MRI",),
    structures=(Structure("right ventricle", (1,)), Structure("myocardium", (2,)), Structure("left ventricle", (3,))),
    label_values=(0, 1, 2, 3),
    # nnFormer's grid: 1.52 mm in the slices, which are 5 to 10 mm apart. Its patch has 14 slices; 16 (UNETR++'s choice)
    # is divided by all strides without a rest.
    spacing=(1.52, 1.52, 6.35),
    patch=(160, 160, 16),
    intensity="zscore",
    # Scanners turn the short axis any way within the slice; base and apex are never mixed up.
    flip_axes=(0, 1),
    prior=(0.02, 0.02, 0.02),
    # Stem and second stage leave the thin axis alone (nnFormer embeds 1 x 4 x 4 voxels): tokens of the first stage are
    # cubes of 6 mm, and keys and values lie 24 mm apart on every axis in the stages that reduce them.
    model=ModelConfig(
        in_channels=1,
        num_classes=4,
        sr_ratios=((4, 4, 4), (2, 2, 4), (1, 1, 1), (1, 1, 1)),
        patch_kernel_size=((7, 7, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
        patch_stride=((4, 4, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)),
        patch_padding=((3, 3, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ),
)

TASKS: Mapping[str, Task] = {
    task.name: task for task in (HIPPOCAMPUS, PHANTOM, BRATS2017, BRATS2021, BRATS2023, SYNAPSE, ACDC)
}
