"""Contours to masks: exact arithmetic, areas of circles, and hand-worked rings are the oracles."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread

from segformer3d.dicom.checks import check_series
from segformer3d.dicom.contours import fill, read_contours
from segformer3d.dicom.geometry import Grid
from segformer3d.dicom.series import find_series
from segformer3d.errors import CaseError
from tests.examples import examples

from .conftest import Written
from .writing import LPS, oblique_affine, save, write_structure_set

SIZE = (12, 10)
Polygon = Sequence[tuple[int, int]]  # in eighths of a voxel


def exactly_inside(x: int, y: int, polygon: Polygon) -> bool | None:
    """Whether a point lies inside by the even-odd rule, in whole numbers; None on an edge."""
    inside = False
    for (x0, y0), (x1, y1) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        cross = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        if cross == 0 and min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1):
            return None
        if (y0 > y) != (y1 > y) and (cross > 0) == (y1 > y0):  # the edge passes on the right
            inside = not inside
    return inside


COORDINATE = st.integers(-16, 100)


@settings(max_examples=examples(25))
@given(st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=9))
def test_a_voxel_is_inside_when_its_centre_is(polygon: Polygon) -> None:
    mask = fill(np.array(polygon, np.float64) / 8, SIZE)
    assert mask.shape == SIZE
    for x, y in np.ndindex(SIZE):
        expected = exactly_inside(8 * x, 8 * y, polygon)
        assert expected is None or mask[x, y] == expected, (x, y)


@pytest.mark.parametrize("radius", [3.3, 10.0, 40.0, 90.0])
def test_a_circle_has_its_area(radius: float) -> None:
    """The number of lattice points in a circle is pi r² up to a few times r^(2/3); painting pixels adds about pi r."""
    angles = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    circle = 100 + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert abs(int(fill(circle, (201, 201)).sum()) - np.pi * radius**2) < 3 * radius ** (2 / 3)


# --- Structure sets --------------------------------------------------------------------------------------------------


def rectangle(low: tuple[float, float], high: tuple[float, float], k: float) -> NDArray[np.float64]:
    """Corners (columns, rows) on slice k, as points in mm, LPS, of the oblique series."""
    (a, b), (c, d) = low, high
    corners = np.array([(a, b, k, 1), (c, b, k, 1), (c, d, k, 1), (a, d, k, 1)])
    return (LPS @ oblique_affine() @ corners.T).T[:, :3]


MakeMask = Callable[..., NDArray[np.bool_]]


@pytest.fixture
def mask_of(tmp_path: Path, plain: Written) -> MakeMask:
    """`mask_of(*polygons, kind="CLOSED_PLANAR")` is the mask of one structure, on a series of 9 x 7 x 5 voxels."""

    def make(*polygons: NDArray[np.float64], kind: str = "CLOSED_PLANAR") -> NDArray[np.bool_]:
        path = write_structure_set(tmp_path / "plan.dcm", plain.slices, {"other": [], "target": polygons}, kind=kind)
        found = find_series([plain.folder, path])
        grid: Grid = check_series(found.series[0]).grid
        (mask,) = read_contours(found.labels[0], grid, [[1]])
        return mask

    return make


def box(*ranges: range) -> NDArray[np.bool_]:
    mask = np.zeros((9, 7, 5), np.bool_)
    mask[np.ix_(*ranges)] = True
    return mask


def test_a_rectangle_on_two_slices(mask_of: MakeMask) -> None:
    mask = mask_of(*(rectangle((1.5, 0.5), (4.5, 2.5), k) for k in (1, 2)))
    assert np.array_equal(mask, box(range(2, 5), range(1, 3), range(1, 3)))


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_a_contour_inside_another_is_a_hole(mask_of: MakeMask, kind: str) -> None:
    outer, inner = rectangle((0.5, 0.5), (7.5, 5.5), 2), rectangle((2.5, 1.5), (5.5, 4.5), 2)
    ring = box(range(1, 8), range(1, 6), range(2, 3)) & ~box(range(3, 6), range(2, 5), range(2, 3))
    assert np.array_equal(mask_of(inner, outer, kind=kind), ring)


def test_a_keyhole_is_a_hole(mask_of: MakeMask) -> None:
    """One contour that goes in along a line, around the hole, and out along the same line."""
    outer, inner = rectangle((0.5, 0.5), (7.5, 5.5), 2), rectangle((2.5, 1.5), (5.5, 4.5), 2)
    keyhole = np.concatenate([outer, outer[:1], inner[:1], inner[::-1], outer[:1]])
    ring = box(range(1, 8), range(1, 6), range(2, 3)) & ~box(range(3, 6), range(2, 5), range(2, 3))
    assert np.array_equal(mask_of(keyhole), ring)


def test_contours_side_by_side_add_up_and_copies_do_not_cancel(mask_of: MakeMask) -> None:
    one, other = rectangle((0.5, 0.5), (2.5, 2.5), 0), rectangle((4.5, 3.5), (6.5, 5.5), 0)
    expected = box(range(1, 3), range(1, 3), range(1)) | box(range(5, 7), range(4, 6), range(1))
    assert np.array_equal(mask_of(one, other, one), expected)


def test_a_contour_may_reach_beyond_the_image(mask_of: MakeMask) -> None:
    assert np.array_equal(mask_of(rectangle((-5.5, 3.5), (1.5, 40.5), 4)), box(range(2), range(4, 7), range(4, 5)))
    assert not mask_of(rectangle((-9.5, 0.5), (-3.5, 4.5), 4)).any()


@pytest.mark.parametrize(
    ("polygons", "said"),
    [
        ([rectangle((0.5, 0.5), (4.5, 4.5), 1), rectangle((2.5, 2.5), (6.5, 5.5), 1)], "cross on a slice"),
        ([rectangle((0.5, 0.5), (4.5, 4.5), 1.3)], "does not lie in a slice of the series"),
        (
            [rectangle((0.5, 0.5), (4.5, 4.5), 1) + np.array([[0], [0], [0], [2]])],
            "does not lie in a slice of the series",
        ),
        ([rectangle((0.5, 0.5), (4.5, 4.5), 5)], "lies beyond the slices of the series"),
        ([rectangle((0.5, 0.5), (4.5, 4.5), -1)], "lies beyond the slices of the series"),
        ([np.full((3, 3), 1e300)], "does not lie in a slice of the series|lies beyond"),
    ],
)
def test_contours_that_mean_nothing(mask_of: MakeMask, polygons: list[NDArray[np.float64]], said: str) -> None:
    with pytest.raises(CaseError) as refused:
        mask_of(*polygons)
    assert re.search(said, str(refused.value))


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR"])
def test_marks_and_lines_have_no_area(mask_of: MakeMask, kind: str) -> None:
    assert not mask_of(rectangle((0.5, 0.5), (4.5, 4.5), 1), kind=kind).any()


@pytest.mark.parametrize("endless", [False, True], ids=["lengths", "marks"])
def test_wherever_a_structure_set_is_cut_it_is_refused(tmp_path: Path, plain: Written, endless: bool) -> None:
    """The contour that is cut off must not go missing in silence, whether sequences have lengths or end marks."""
    polygons = [rectangle((0.5, 0.5), (4.5, 4.5), k) for k in (1, 2)]
    path = write_structure_set(tmp_path / "plan.dcm", plain.slices, {"target": polygons})
    if endless:
        dataset = dcmread(path)
        for sequence in dataset.iterall():
            sequence.is_undefined_length = sequence.VR == "SQ"
        save(dataset, path)
    assert (b"SQ\0\0\xff\xff\xff\xff" in path.read_bytes()) is endless
    whole, grid = path.read_bytes(), check_series(find_series([plain.folder]).series[0]).grid
    start = whole.index(b"target")
    for length in range(start, len(whole), 23):
        path.write_bytes(whole[:length])
        found = find_series([plain.folder / "IM0000", path])
        for label in found.labels:
            with pytest.raises(CaseError, match="truncated or damaged"):
                read_contours(label, grid, [[0]])
        assert found.labels or found.damaged
