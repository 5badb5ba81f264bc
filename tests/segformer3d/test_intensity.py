"""Intensities as the model sees them: zero mean and unit spread, windows, and the short way for files of few values."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from segformer3d.intensity import scale_contrasts, scale_intensity
from segformer3d.task import INTENSITIES, Intensity, Task
from tests.segformer3d.test_volumes import SHAPE, ramp_image

Array = NDArray[Any]


def two_scanners() -> Array:
    """Two contrasts that differ by five orders of magnitude, with zeros outside the head."""
    image = np.random.default_rng(1).normal(100, 15, (2, *SHAPE)).astype(np.float32)
    image[:, :2] = 0
    image[1] *= 1e5
    return image


def test_zscore(two_contrasts: Task) -> None:
    scaled = scale_intensity(two_scanners(), two_contrasts)
    np.testing.assert_allclose(scaled.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=(1, 2, 3)), 1, rtol=1e-5)
    assert scaled.dtype == np.float32


def test_zscore_of_what_is_not_zero(two_contrasts: Task) -> None:
    scaled = scale_intensity(two_scanners(), replace(two_contrasts, intensity="zscore_nonzero"))
    assert (scaled[:, :2] == 0).all()
    np.testing.assert_allclose(scaled[:, 2:].mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled[:, 2:].std(axis=(1, 2, 3)), 1, rtol=1e-5)


def test_zscore_of_a_mask_is_finite(two_contrasts: Task) -> None:
    mask = (two_scanners() != 0).astype(np.float32)
    assert np.isfinite(scale_intensity(mask, replace(two_contrasts, intensity="zscore_nonzero"))).all()


def test_minmax(two_contrasts: Task) -> None:
    image = two_scanners()
    scaled = scale_intensity(image, replace(two_contrasts, intensity="minmax"))
    np.testing.assert_allclose(scaled[0], image[0] / image[0].max(), rtol=1e-5)
    assert (scaled.min(), scaled.max()) == (0, 1)


def test_window(tiny_task: Task) -> None:
    image = np.array([-2000, -150, 0, 250, 3000], np.float32).reshape(1, 5, 1, 1)
    scaled = scale_intensity(image, replace(tiny_task, intensity="window", window=(-150, 250)))
    np.testing.assert_allclose(scaled.flatten(), [0, 0, 0.375, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-38, 1e30])
def test_scans_of_any_magnitude_scale_alike(tiny_task: Task, factor: float) -> None:
    image = ramp_image()[None] + 1
    expected = scale_intensity(image, tiny_task)
    np.testing.assert_allclose(scale_intensity(image * np.float32(factor), tiny_task), expected, rtol=1e-4, atol=1e-4)


WHOLE_NUMBERS = arrays(
    st.sampled_from([np.int8, np.uint8, np.int16, np.uint16]), (3, 4, 2), elements=st.integers(0, 127)
) | arrays(np.int16, (3, 4, 2), elements=st.integers(-(2**15), 2**15 - 1))


@given(whole=WHOLE_NUMBERS, intensity=st.sampled_from(INTENSITIES), turned=st.booleans())
def test_files_of_few_values_scale_as_their_floats_do(
    tiny_task: Task, whole: NDArray[Any], intensity: Intensity, turned: bool
) -> None:
    assume(whole.min() < whole.max())
    task = replace(tiny_task, intensity=intensity, window=(-100, 90) if intensity == "window" else None)
    whole = whole[::-1, :, ::-1].T if turned else whole  # as the axes of files do
    scaled = scale_contrasts([whole], [0], task)
    np.testing.assert_allclose(scaled, scale_intensity(whole[None].astype(np.float32), task), rtol=1e-5, atol=1e-5)


def test_zeros_around_a_brain_of_whole_numbers_count_for_nothing(tiny_task: Task) -> None:
    brain = np.arange(10, 37, dtype=np.int16).reshape(3, 3, 3)
    brain[::2, ::2] = 0  # it fills no box
    found = brain[brain != 0]
    scaled = scale_contrasts([np.pad(brain, 1)], [0], replace(tiny_task, intensity="zscore_nonzero"))[0]
    expected = np.where(brain == 0, 0, (brain - found.mean()) / found.std())
    np.testing.assert_allclose(scaled, np.pad(expected, 1), rtol=1e-5, atol=1e-6)


def test_whole_numbers_far_from_zero_keep_their_spread(tiny_task: Task) -> None:
    whole = np.full((40, 40, 40), 65_534, np.uint16)
    whole[0] = 65_535
    scaled = scale_contrasts([whole], [0], tiny_task)
    np.testing.assert_allclose(scaled[0, 0], np.sqrt(39), rtol=1e-6)
    np.testing.assert_allclose(scaled[0, 1:], -1 / np.sqrt(39), rtol=1e-6)


def test_absent_contrasts_are_zero(two_contrasts: Task) -> None:
    scaled = scale_contrasts([two_scanners()[1]], [1], two_contrasts)
    assert not scaled[0].any()
    np.testing.assert_array_equal(scaled[1], scale_intensity(two_scanners(), two_contrasts)[1])
