"""The Gaussian mechanism of a private step: clip each patient's gradient, sum, add noise, divide by a public number.

Real numbers of a computer leak. The sensitivity of a sum of floats is not what theory says (Casacuberta, Shoemate,
Vadhan and Wagaman, "Widespread underestimation of sensitivity in differentially private libraries", CCS 2022), and
the lowest bits of noisy floats tell which values they came from (Mironov, CCS 2012). So everything that depends on
patients is whole numbers here: a clipped gradient is truncated towards zero to multiples of C / 2**23, the sum of
such multiples is exact, and so is adding whole noise to it. What follows are functions of the noisy sum alone.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from client.privacy.accounting import joint_multiplier
from client.privacy.noise import Noise

# Steps between 0 and the clipping norm: the most that float32 still counts one by one.
GRID = 2**23
BLOCK = 2**17  # values that are clipped and added together: what fits a processor's cache
# Rounding when a gradient is scaled may lengthen it by this much; it is shortened by as much beforehand.
MARGIN = 1 - 2.0**-22
# Adaptive clipping: how fast the norm moves, and how noisy the count is that moves it, in noise multipliers: with 2 the
# gradients' noise grows by 3 %.
ADAPTATION, COUNT_NOISE = 0.2, 2.0


class PatientGradients:
    """Sums the clipped gradients of patients, and gives back their noisy mean.

    The parameters' `grad` are made views of one vector, so that a patient's gradient is clipped, truncated and summed
    in a few passes over memory. Whoever takes the gradient of a patient adds it to `grad`, in as many parts as he
    likes, and calls `add` once: that is where the patient becomes the unit.

    Args:
        parameters: what is trained, float32 on one device.
        clip: the largest norm of a patient's part.
        noise_multiplier: standard deviation of the noise over `clip`, above 0.
        expected: the public number to divide by: sampling rate times patients.
        noise: where the noise comes from.
        quantile: moves `clip` after each step towards this quantile of the norms; None keeps it. The noisy count that
            this takes is paid for by noisier gradients, so that both cost what `noise_multiplier` says.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        clip: float,
        noise_multiplier: float,
        expected: float,
        noise: Noise,
        quantile: float | None = None,
    ) -> None:
        self.clip = clip
        self._expected, self._noise, self._quantile = expected, noise, quantile
        self._count_deviation = COUNT_NOISE * noise_multiplier
        self._multiplier = noise_multiplier if quantile is None else _beside_count(noise_multiplier)
        self._flat = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
        self._sum = torch.zeros_like(self._flat, dtype=torch.float64)
        self._within = 0  # patients within the norm less those beyond it
        self._blocks = list(zip(torch.split(self._flat, BLOCK), torch.split(self._sum, BLOCK), strict=True))
        parts = torch.split(self._flat, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view(parameter.shape)

    def draw(self, patients: int, rate: float) -> list[int]:
        """Who takes part in a step, each with this chance, from the same source as the noise."""
        return self._noise.chosen(patients, rate)

    def add(self) -> float:
        """Take what `grad` holds as one patient's gradient, and clear it. Returns its norm, which must not leave.

        A gradient that is not finite adds nothing: that too is the patient's part alone.
        """
        norm = self._norm()
        self._within += 1 if norm <= self.clip else -1
        scale = GRID / max(norm, self.clip) * MARGIN if math.isfinite(norm) else None
        for part, total in self._blocks:
            if scale is not None:
                total.add_(part.mul_(scale).trunc_())
            part.zero_()
        return norm

    def _norm(self) -> float:
        """In float64: the bound on what a patient adds must not hang on rounding."""
        doubles = (part.double() for part, _ in self._blocks)
        return math.sqrt(sum(float(torch.dot(double, double)) for double in doubles))

    def release(self) -> None:
        """Put the noisy mean into `grad`, and begin anew."""
        whole = self._noise.integers(self._flat.numel(), self._multiplier * GRID)
        self._sum += torch.from_numpy(whole).to(self._sum.device)
        self._flat.copy_(self._sum.mul_(self.clip / GRID / self._expected))
        self._sum.zero_()
        if self._quantile is not None:
            self._move_clip(self._quantile)
        self._within = 0

    def clear(self) -> None:
        """Empty `grad` after a step has used it."""
        self._flat.zero_()

    def _move_clip(self, quantile: float) -> None:
        """A geometric step towards the quantile; a patient counts 1/2 or -1/2 in a noisy sum.

        Andrew, Thakkar, McMahan, Ramaswamy, "Differentially private learning with adaptive clipping", NeurIPS 2021.
        """
        count = self._within * GRID + int(self._noise.integers(1, 2 * self._count_deviation * GRID)[0])
        share = min(1.0, max(0.0, count / GRID / 2 / self._expected + 0.5))
        self.clip *= math.exp(-ADAPTATION * (share - quantile))


def _beside_count(noise_multiplier: float) -> float:
    return joint_multiplier(noise_multiplier, COUNT_NOISE * noise_multiplier)
