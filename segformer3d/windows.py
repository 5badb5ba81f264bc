"""Sliding windows over volumes of any size, in memory that depends on a window and not on the volume.

Windows lie where MONAI's sliding window puts them and are blended with the same Gaussian weights, so the results are
the same (MONAI itself takes seconds to load). They are visited along X: planes that no later window will touch are
finished, and handed on as a slab, while the others wait in a band as thick as one window. Axes are channels (C in, K
out), X, Y, Z.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segformer3d.boxes import Place
from segformer3d.config import Triple

Image = NDArray[np.float32]
Predict = Callable[[Tensor], Tensor]


def slide(
    predict: Predict, image_CXYZ: Image, window: Triple, *, overlap: float, at_once: int, device: torch.device
) -> Iterator[Tensor]:
    """Blend the predictions of overlapping windows.

    Args:
        predict: windows (B, C, x, y, z) on the device to values (B, K, x, y, z) there.
        image_CXYZ: the volume; a memory-mapped one is read window by window. On axes where it is smaller than a
            window, it goes on with its outermost voxels.
        window: voxels of a window.
        overlap: the share of a window that its neighbour covers as well, in [0, 1).
        at_once: windows in one batch.
        device: where to predict and blend.

    Yields:
        Slabs (K, n, Y, Z), float32 on the CPU, which one behind the other along X make up the volume.
    """
    padded_CXYZ, inside = _at_least(image_CXYZ, window)
    size = padded_CXYZ.shape[1:]
    band = _Band(window, size, device)
    for batch in _batches(size, window, overlap, at_once):
        if batch[0][0].start > band.start:
            yield _crop(band.advance(batch[0][0].start), inside)
        windows_BCxyz = torch.from_numpy(np.stack([padded_CXYZ[:, *place] for place in batch])).to(device)
        for place, values_Kxyz in zip(batch, predict(windows_BCxyz), strict=True):
            band.add(place, values_Kxyz.float())
    yield _crop(band.advance(size[0]), inside)


class _Band:
    """The planes that windows still add to: sums of weighted values, and of weights, from plane `start` on."""

    def __init__(self, window: Triple, size: Sequence[int], device: torch.device) -> None:
        self.start = 0
        self._weight_xyz = gaussian_weights(window).to(device)
        self._weights_XYZ = torch.zeros((window[0], *size[1:]), device=device)
        self._values_KXYZ: Tensor | None = None  # until the first window tells the number of channels

    def add(self, place: Place, values_Kxyz: Tensor) -> None:
        """Add a window whose first plane is `start`."""
        if self._values_KXYZ is None:
            self._values_KXYZ = self._weights_XYZ.new_zeros((values_Kxyz.shape[0], *self._weights_XYZ.shape))
        self._values_KXYZ[:, :, *place[1:]].addcmul_(values_Kxyz, self._weight_xyz)
        self._weights_XYZ[:, *place[1:]] += self._weight_xyz

    def advance(self, start: int) -> Tensor:
        """The planes before `start`, finished; the band then begins there."""
        assert self._values_KXYZ is not None, "a band moves on after its first window"
        done, self.start = start - self.start, start
        slab_KXYZ = self._values_KXYZ[:, :done] / self._weights_XYZ[:done]
        for sums in (self._values_KXYZ, self._weights_XYZ[None]):
            sums[:, :-done] = sums[:, done:].clone()
            sums[:, -done:] = 0
        return slab_KXYZ.cpu()


def _batches(size: Sequence[int], window: Triple, overlap: float, at_once: int) -> Iterator[list[Place]]:
    """The places of windows, in order along X; those of one batch begin at the same plane."""
    starts = [
        _starts(length, side, max(1, int(side * (1 - overlap)))) for length, side in zip(size, window, strict=True)
    ]
    batch: list[Place] = []
    for x, y, z in product(*starts):
        place = (slice(x, x + window[0]), slice(y, y + window[1]), slice(z, z + window[2]))
        if batch and (len(batch) == at_once or place[0].start != batch[0][0].start):
            yield batch
            batch = []
        batch.append(place)
    yield batch


def _starts(length: int, side: int, interval: int) -> list[int]:
    """Where windows begin on an axis: `interval` apart, the last one as far as it goes."""
    return [min(start, length - side) for start in range(0, length - side + interval, interval)]


def gaussian_weights(window: Triple) -> Tensor:
    """How much each voxel of a window counts (x, y, z): a Gaussian of an eighth of each side, 0.001 at least."""
    sides = [torch.arange(side, dtype=torch.float32) - (side - 1) / 2 for side in window]
    x, y, z = (torch.exp(-((8 * at / side) ** 2) / 2) for at, side in zip(sides, window, strict=True))
    return (x[:, None, None] * y[:, None] * z).clamp(min=1e-3)


def _at_least(image_CXYZ: Image, window: Triple) -> tuple[Image, Place]:
    """The image continued to the size of a window where it is smaller, and where in it the image lies."""
    missing = [max(0, side - size) for side, size in zip(window, image_CXYZ.shape[1:], strict=True)]
    x, y, z = (slice(m // 2, m // 2 + size) for m, size in zip(missing, image_CXYZ.shape[1:], strict=True))
    if any(missing):
        image_CXYZ = np.pad(image_CXYZ, [(0, 0), *((m // 2, m - m // 2) for m in missing)], mode="edge")
    return image_CXYZ, (x, y, z)


def _crop(slab_KXYZ: Tensor, inside: Place) -> Tensor:
    """A slab without the continuation. Where there is one along X, the only slab is as thick as a window."""
    return slab_KXYZ[:, *inside]


def resample(slabs: Iterator[Tensor], size: Triple, wanted: Triple) -> Iterator[Tensor]:
    """Trilinear interpolation of a volume that comes in slabs (K, n, Y, Z) along X, over the same field of view.

    The numbers are those of `F.interpolate` (align_corners=False) of the whole volume, which is never whole in memory.

    Args:
        slabs: the volume.
        size: of the volume, in voxels.
        wanted: the size to bring it to.
    """
    position = ((torch.arange(wanted[0], dtype=torch.float64) + 0.5) * size[0] / wanted[0] - 0.5).clamp(0, size[0] - 1)
    lower = position.floor().long()
    upper = (lower + 1).clamp(max=size[0] - 1)
    share_X11 = (position - lower).float()[:, None, None]
    held_KXYZ, first, done = None, 0, 0  # planes that are still needed, the number of the first, rows that are out
    for slab_KXYZ in slabs:
        planes = F.interpolate(slab_KXYZ[None], (slab_KXYZ.shape[1], *wanted[1:]), mode="trilinear")[0]
        held_KXYZ = planes if held_KXYZ is None else torch.cat([held_KXYZ, planes], dim=1)
        ready = int((upper < first + held_KXYZ.shape[1]).sum())
        if ready > done:
            rows = slice(done, ready)
            yield held_KXYZ[:, lower[rows] - first].lerp(held_KXYZ[:, upper[rows] - first], share_X11[rows])
            done = ready
            passed = min(int(lower[min(ready, wanted[0] - 1)]) - first, held_KXYZ.shape[1])
            held_KXYZ, first = held_KXYZ[:, passed:], first + passed
