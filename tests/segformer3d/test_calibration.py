"""Oracles: bins worked by hand, a forecaster that is right by construction, and slabs that add up to the whole."""

import numpy as np
import pytest

from segformer3d.calibration import BINS, FLOOR, calibrate, no_voxels, reliability


def volume(*values):
    return np.array(values, np.float32).reshape(1, -1, 1, 1)


def truths(*values):
    return np.array(values, bool).reshape(1, -1, 1, 1)


def test_bins_by_hand():
    probabilities = volume(0.0, 0.005, 0.04, 0.25, 0.27, 0.95, 0.95, 1.0)
    truth = truths(0, 1, 0, 0, 1, 1, 1, 1)
    (found,) = calibrate(("tumour",), reliability(probabilities, truth))
    filled = {place: entry for place, entry in enumerate(found.bins) if entry.voxels}
    assert {place: entry.voxels for place, entry in filled.items()} == {0: 1, 2: 2, 9: 3}
    assert (filled[0].low, filled[0].high, filled[9].high) == (FLOOR, 0.1, 1.0)
    assert (filled[2].mean_probability, filled[2].observed) == (pytest.approx(0.26), 0.5)
    assert (filled[9].mean_probability, filled[9].observed) == (pytest.approx(2.9 / 3), 1.0)
    # Over six voxels: |0.04 - 0|, |0.52 - 1| and |2.9 - 3|; one of the five true voxels was given less than 1 %.
    assert found.expected_error == pytest.approx((0.04 + 0.48 + 0.1) / 6)
    assert found.overlooked == pytest.approx(1 / 5)


def test_an_empty_bin_and_an_empty_structure_have_no_numbers():
    (found,) = calibrate(("tumour",), reliability(volume(0.0, 0.0), truths(0, 0)))
    assert (found.expected_error, found.overlooked) == (None, None)
    assert all(entry.mean_probability is None and entry.observed is None for entry in found.bins)
    assert found.to_json()["bins"][0]["voxels"] == 0


def test_a_forecaster_that_is_right_has_next_to_no_error():
    generator = np.random.default_rng(0)
    probabilities = generator.random((1, 60, 50, 40), np.float32)
    truth = generator.random(probabilities.shape) < probabilities
    (right,) = calibrate(("tumour",), reliability(probabilities, truth))
    (bold,) = calibrate(("tumour",), reliability(np.sqrt(probabilities), truth))
    assert right.expected_error < 0.005
    # Given √p where p is right, the mean error is ∫ √p - p dp = 1/6.
    assert bold.expected_error == pytest.approx(1 / 6, abs=0.01)


def test_slabs_add_up_to_the_whole():
    generator = np.random.default_rng(1)
    probabilities = generator.random((3, 17, 9, 8), np.float32)
    truth = generator.random(probabilities.shape) < 0.3
    whole, parts = reliability(probabilities, truth), no_voxels(3)
    for start in (0, 5, 16):
        stop = {0: 5, 5: 16, 16: 17}[start]
        parts = parts + reliability(probabilities[:, start:stop], truth[:, start:stop])
    assert np.array_equal(whole.voxels, parts.voxels)
    assert np.array_equal(whole.observed, parts.observed)
    assert np.array_equal(whole.below, parts.below)
    assert np.allclose(whole.probability, parts.probability, rtol=1e-12)
    assert whole.voxels.shape == (3, BINS)
