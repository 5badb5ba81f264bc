"""What is measured of one case, against NumPy, hand-worked labels and known geometry."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segformer3d.boxes import nonzero_box
from segformer3d.cases import CaseFiles
from segformer3d.data_check.facts import CaseFacts, Refused
from segformer3d.data_check.fingerprint import CELLS, at_cell_size, cell_size
from segformer3d.data_check.intensities import PERCENTILES, SAMPLE, SHAPE_PERCENTILES, even_sample
from segformer3d.data_check.measure import measure_case
from segformer3d.task import Task
from tests.conftest import WriteNifti
from tests.segformer3d.data_check.conftest import SHAPE, Array, sound_case

WriteCase = Any


@pytest.fixture
def measured(tmp_path: Path, tiny_task: Task, write_nifti: WriteNifti) -> WriteCase:
    """`measured(image, label=None, affine=identity)` are the facts of such a case."""

    def measure(image: Array, label: Array | None = None, affine: Array | None = None) -> CaseFacts:
        path = write_nifti(tmp_path / "image.nii.gz", image, affine)
        seen = None if label is None else write_nifti(tmp_path / "label.nii.gz", label, affine)
        facts = measure_case(CaseFiles("case", (path,), seen), task=tiny_task)
        assert isinstance(facts, CaseFacts)
        return facts

    return measure


def test_intensities_are_numpys(measured: WriteCase) -> None:
    image, label = sound_case(0)
    (channel,) = measured(image, label).channels
    values = image.astype(np.float64)
    assert (channel.lowest, channel.highest) == (float(image.min()), float(image.max()))
    np.testing.assert_allclose(channel.percentiles, np.percentile(values, PERCENTILES), rtol=1e-6)
    assert channel.mean == pytest.approx(values.mean(), rel=1e-6)
    assert channel.standard_deviation == pytest.approx(values.std(), rel=1e-6)
    standard = (values - values.mean()) / values.std()
    np.testing.assert_allclose(channel.standardised, np.percentile(standard, SHAPE_PERCENTILES), atol=1e-5)
    np.testing.assert_allclose(
        channel.in_structures, [standard[label == 1].mean(), standard[label == 2].mean()], rtol=1e-4
    )
    assert channel.levels == len(np.unique(image))
    assert channel.at_highest == pytest.approx(1 / image.size)
    assert (channel.zeros, channel.background) == (0, 0)


@pytest.mark.parametrize(("outside", "zeros"), [(0.0, 0.75), (-300.0, 0.0)])
def test_a_background_is_told_from_the_tissue(measured: WriteCase, outside: float, zeros: float) -> None:
    """Skull-stripped images have zeros outside, CT the lowest value; a quarter of the image is tissue here."""
    image = np.full((20, 20, 20), outside, np.float32)
    tissue = np.random.default_rng(0).normal(50, 10, (20, 20, 5)).astype(np.float32)
    image[:, :, :5] = tissue
    (channel,) = measured(image).channels
    assert (channel.zeros, channel.background) == (zeros, 0.75)
    assert channel.mean == pytest.approx(float(tissue.mean()), rel=1e-5)


def test_a_large_scan_is_sampled_evenly(measured: WriteCase) -> None:
    image = np.random.default_rng(0).normal(100, 15, (90, 80, 70)).astype(np.float32)
    (channel,) = measured(image).channels
    np.testing.assert_allclose(channel.percentiles, np.percentile(image, PERCENTILES), atol=0.5)
    assert channel.highest == image.max(), "the extremes are those of all voxels"


@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    most=st.integers(1, 5000),
)
def test_a_sample_is_as_large_as_it_may_be_and_never_empty(shape: tuple[int, int, int], most: int) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    sample = even_sample(array, most)
    assert 1 <= sample.size <= max(most, 1)
    if array.size <= most:
        assert sample.shape == shape
    assert SAMPLE > 10_000, "what is asked of a percentile needs as many"


def test_relations_of_contrasts_are_their_correlations(
    tmp_path: Path, tiny_task: Task, write_nifti: WriteNifti
) -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(size=SHAPE)
    channels = [first, first + generator.normal(size=SHAPE), -first]
    path = write_nifti(tmp_path / "image.nii.gz", np.stack(channels, -1).astype(np.float32))
    task = replace(tiny_task, modalities=("a", "b", "c"), model=replace(tiny_task.model, in_channels=3))
    facts = measure_case(CaseFiles("case", (path,), None), task=task)
    assert isinstance(facts, CaseFacts)
    expected = np.corrcoef([channel.ravel() for channel in channels])[np.triu_indices(3, 1)]
    np.testing.assert_allclose(facts.relations, expected, atol=1e-5)


def test_structures_are_counted_by_hand(measured: WriteCase) -> None:
    """Structure 1: a bar of 2 x 3 x 4 voxels at the left end, a voxel that touches it at a corner, and one apart."""
    image = np.random.default_rng(0).normal(size=(10, 10, 10)).astype(np.float32)
    image[:, :, 5:] = 0
    label = np.zeros((10, 10, 10), np.int16)
    label[0:2, 3:6, 0:4] = 1
    label[2, 6, 4] = 1
    label[8, 8, 7] = 1
    first, second = measured(image, label, np.diag([2.0, 1, 0.5, 1])).structures
    assert first.name == "first"
    assert first.volume_ml == pytest.approx(26 * 1e-3)
    assert (first.pieces, first.stray) == (2, pytest.approx(1 / 26))
    assert first.edges == ("left", "bottom")
    assert first.outside == pytest.approx(1 / 26), "one voxel lies where the image is 0"
    assert (second.volume_ml, second.pieces, second.stray, second.edges) == (0, 0, 0, ())


def test_geometry_of_a_turned_and_of_a_sheared_grid(measured: WriteCase) -> None:
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    image = sound_case(0)[0]
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([-1.0, 2.0, 3.0])
    geometry = measured(image, affine=matrix).geometry
    assert geometry.axes == "LAS"
    assert geometry.spacing_mm == pytest.approx((1, 2, 3), rel=1e-6)
    assert geometry.field_mm == pytest.approx((26, 48, 66), rel=1e-6)
    assert geometry.tilt_degrees == pytest.approx(20, abs=1e-3)
    assert geometry.shear_degrees == pytest.approx(0, abs=0.1)
    matrix[:3, :3] = np.array([[1, 0, 0], [0, 1, np.tan(angle)], [0, 0, 1]])
    assert measured(image, affine=matrix).geometry.shear_degrees == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR", "PIL"])
def test_facts_do_not_depend_on_how_the_axes_are_stored(
    tmp_path: Path, tiny_task: Task, measured: WriteCase, codes: str
) -> None:
    image, label = sound_case(3)
    plain = measured(image, label)
    orientations = nib.orientations  # type: ignore[attr-defined]
    turn = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(codes))
    paths = []
    for name, array in (("i", image), ("l", label)):
        stored = nib.Nifti1Image(array, np.eye(4)).as_reoriented(turn)  # type: ignore[attr-defined]
        paths.append(tmp_path / f"{name}.nii")
        nib.save(stored, paths[-1])  # type: ignore[attr-defined]
    facts = measure_case(CaseFiles("case", (paths[0],), paths[1]), task=tiny_task)
    assert isinstance(facts, CaseFacts)
    assert facts.geometry.axes == codes
    assert replace(facts, geometry=plain.geometry).to_json() == plain.to_json()
    np.testing.assert_array_equal(facts.fingerprint, plain.fingerprint)
    np.testing.assert_array_equal(facts.pictures, plain.pictures)


def test_what_cannot_be_read_is_refused_with_its_reason(tmp_path: Path, tiny_task: Task) -> None:
    facts = measure_case(CaseFiles("case", (tmp_path / "none.nii.gz",), None), task=tiny_task)
    assert isinstance(facts, Refused)
    assert facts.reason.startswith("the image file is missing")


def test_facts_are_plain_json(measured: WriteCase) -> None:
    told = measured(*sound_case(0)).to_json()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert {"fingerprint", "pictures", "outline"}.isdisjoint(told)


# --- Fingerprints ----------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_the_means_of_its_cells(measured: WriteCase) -> None:
    """64 voxels of 1 mm along each axis: cells of 2 mm, each the mean of 8 voxels."""
    image = np.random.default_rng(0).normal(5, 2, (64, 64, 64)).astype(np.float32)
    facts = measured(image)
    assert facts.cell_mm == 2
    assert facts.fingerprint.shape == (CELLS,) * 3
    means = image.reshape(32, 2, 32, 2, 32, 2).mean(axis=(1, 3, 5))
    (channel,) = facts.channels
    np.testing.assert_allclose(facts.fingerprint, (means - channel.mean) / channel.standard_deviation, atol=2e-3)


def test_smaller_scans_lie_in_the_middle(measured: WriteCase) -> None:
    facts = measured(np.random.default_rng(0).normal(size=(30, 20, 10)).astype(np.float32))
    assert facts.cell_mm == 1
    assert nonzero_box(facts.fingerprint) == (slice(1, 31), slice(6, 26), slice(11, 21))


def test_cells_can_be_made_larger_and_smaller() -> None:
    generator = np.random.default_rng(0)
    grid = np.zeros((CELLS,) * 3, np.float16)
    grid[8:24, 8:24, 8:24] = generator.integers(-4, 5, (16, 16, 16))
    larger = at_cell_size(grid, 1.0, 2.0)
    assert nonzero_box(larger) == (slice(12, 20),) * 3
    np.testing.assert_allclose(larger[12, 12, 12], grid[8:10, 8:10, 8:10].astype(np.float32).mean(), rtol=1e-6)
    back = at_cell_size(at_cell_size(grid, 2.0, 1.0).astype(np.float16), 1.0, 2.0)
    np.testing.assert_array_equal(back, grid)


@pytest.mark.parametrize(("side_mm", "cell"), [(32, 1), (33, 2), (240, 8), (0.5, 2**-6), (600, 32)])
def test_the_smallest_cell_that_covers_the_scan(side_mm: float, cell: float) -> None:
    assert cell_size((1.0, side_mm, side_mm / 2)) == max(cell, cell_size((1.0, 1.0, 1.0)))


@given(mask=arrays(np.int8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.sampled_from([0, 0, 0, 1])))
def test_the_box_around_what_is_not_zero(mask: Array) -> None:
    for array in (mask, mask[::-1, :, ::-1], np.asfortranarray(mask)):
        box = nonzero_box(array)
        places = np.argwhere(array)
        assert int(array[box].sum()) == int(array.sum())
        if len(places):
            expected = zip(places.min(axis=0), places.max(axis=0) + 1, strict=True)
            assert box == tuple(slice(int(low), int(high)) for low, high in expected)
        else:
            assert array[box].size == 0
