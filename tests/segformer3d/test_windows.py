"""Sliding windows against MONAI's, slab-wise resampling against PyTorch's, and the memory that large volumes take."""

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional as F

from segformer3d.windows import gaussian_weights, resample, slide
from tests.examples import examples

CPU = torch.device("cpu")
WINDOW = (6, 5, 4)
SIZE = st.tuples(st.integers(1, 17), st.integers(1, 14), st.integers(1, 12))


def uneven(x_BCxyz: Tensor) -> Tensor:
    """Three channels that depend on where in its window a voxel lies: a blend with other weights would show."""
    ramp = torch.linspace(-1, 1, x_BCxyz[0, 0].numel()).view(x_BCxyz.shape[2:])
    return torch.stack([x_BCxyz[:, 0], x_BCxyz[:, 0] * ramp, ramp.expand(x_BCxyz.shape[0], *ramp.shape)], dim=1)


def random_image(size: tuple[int, ...], channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(channels, *size)).astype(np.float32)


# --- Oracle: MONAI ---------------------------------------------------------------------------------------------------


@settings(max_examples=examples(60))
@given(size=SIZE, overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]), at_once=st.integers(1, 5))
def test_the_blend_is_that_of_monai(size: tuple[int, int, int], overlap: float, at_once: int) -> None:
    image = random_image(size)
    expected = sliding_window_inference(
        torch.from_numpy(image)[None],
        WINDOW,
        sw_batch_size=2,
        predictor=uneven,
        overlap=overlap,
        mode="gaussian",
        padding_mode="replicate",
    )[0]
    slabs = list(slide(uneven, image, WINDOW, overlap=overlap, at_once=at_once, device=CPU))
    torch.testing.assert_close(torch.cat(slabs, dim=1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [(6, 5, 4), (1, 2, 3), (64, 8, 1)])
def test_the_weights_are_those_of_monai(window: tuple[int, int, int]) -> None:
    expected = compute_importance_map(window, mode="gaussian", sigma_scale=0.125)
    torch.testing.assert_close(gaussian_weights(window), expected, rtol=1e-5, atol=0)


def test_windows_are_visited_once_and_in_batches() -> None:
    seen: list[int] = []

    def count(x_BCxyz: Tensor) -> Tensor:
        seen.append(x_BCxyz.shape[0])
        return x_BCxyz

    list(slide(count, random_image((12, 10, 8)), WINDOW, overlap=0.0, at_once=3, device=CPU))
    assert seen == [3, 1, 3, 1], "2 x 2 windows at each of two planes, never two planes in one batch"


def test_finished_planes_come_before_the_rest_is_predicted() -> None:
    predicted = 0

    def count(x_BCxyz: Tensor) -> Tensor:
        nonlocal predicted
        predicted += x_BCxyz.shape[0]
        return x_BCxyz

    slabs = slide(count, random_image((60, 5, 4)), WINDOW, overlap=0.5, at_once=1, device=CPU)
    assert next(slabs).shape == (1, 3, 5, 4)
    assert predicted == 1


# --- Oracle: PyTorch's interpolation ---------------------------------------------------------------------------------


@settings(max_examples=examples(80))
@given(size=SIZE, wanted=SIZE, cuts=st.sets(st.integers(1, 16)))
def test_resampling_slabs_is_resampling_the_whole(
    size: tuple[int, int, int], wanted: tuple[int, int, int], cuts: set[int]
) -> None:
    volume = torch.from_numpy(random_image(size, 2))
    expected = F.interpolate(volume[None], size=wanted, mode="trilinear", align_corners=False)[0]
    edges = [0, *sorted(cut for cut in cuts if cut < size[0]), size[0]]
    slabs = (volume[:, low:high] for low, high in pairwise(edges))
    torch.testing.assert_close(torch.cat(list(resample(slabs, size, wanted)), dim=1), expected, rtol=1e-4, atol=1e-5)


# --- Memory ----------------------------------------------------------------------------------------------------------

LARGE_CT = """
import json, sys
from pathlib import Path
import numpy as np, torch  # all code is there before memory is measured
from segformer3d.config import ModelConfig
from segformer3d.inference import predict_label
from segformer3d.model import build
from segformer3d.tasks import Structure, Task
from segformer3d.volumes import Volume

patch, organs, *shape = (int(value) for value in sys.argv[1:])
config = ModelConfig(in_channels=1, num_classes=organs + 1, embed_dims=(8, 8, 8, 8), num_heads=(1, 1, 1, 1),
                     mlp_ratios=(1, 1, 1, 1), depths=(1, 1, 1, 1), decoder_head_embedding_dim=8,
                     patch_stride=((8, 8, 8), (2, 2, 2), (2, 2, 2), (2, 2, 2)))
task = Task("ct", ("CT",), tuple(Structure(f"organ {n}", (n,)) for n in range(1, organs + 1)),
            tuple(range(organs + 1)), patch=(patch,) * 3, intensity="window", window=(-160.0, 240.0), model=config)
image = np.full((1, *shape), -1000, np.float32)
x, y, z = (slice(n // 16, -(n // 16)) for n in shape)
image[:, x, y, z] = 40
image[:, x, y, z][..., ::2] = 90
volume = Volume(image, None, np.eye(4), np.eye(4))
torch.manual_seed(0)
model = build(config)
peak_mb = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before = peak_mb()
label = predict_label(model, task, volume, torch.device("cpu"))
print(json.dumps({"grown_mb": peak_mb() - before, "shape": label.shape, "air": int(label[0].max())}))
"""


@pytest.mark.parametrize(
    ("patch", "organs", "shape", "rest_mb"),
    [(32, 32, (1600, 32, 32), 150), pytest.param(128, 8, (512, 512, 600), 300, marks=pytest.mark.slow)],
    ids=["a long one with many classes", "a whole CT"],
)
def test_memory_does_not_hold_probabilities_of_the_whole_volume(
    patch: int, organs: int, shape: tuple[int, int, int], rest_mb: int
) -> None:
    arguments = [str(value) for value in (patch, organs, *shape)]
    done = subprocess.run(
        [sys.executable, "-c", LARGE_CT, *arguments], capture_output=True, text=True, check=True, timeout=1200
    )
    found = json.loads(done.stdout)
    print(found)
    assert found["shape"] == list(shape)
    assert found["air"] == 0, "air is background"
    voxel_mb, plane_mb = np.prod(shape) / 2**20, shape[1] * shape[2] / 2**20
    probabilities = 4 * (organs + 1)  # bytes a voxel
    # The scaled image, the label map, and three bands as thick as a window: far less than all probabilities.
    assert found["grown_mb"] < 12 * voxel_mb + 3 * probabilities * patch * plane_mb + rest_mb
