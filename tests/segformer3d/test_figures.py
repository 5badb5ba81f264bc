"""Oracles: where a marked voxel must appear, outlines worked by hand in mm, equal bytes."""

from contextlib import contextmanager

import numpy as np
import pytest
from matplotlib.image import imread

from segformer3d import figures
from segformer3d.figures import overlay

SPACING = (0.5, 1.0, 3.0)
PNG = b"\x89PNG\r\n\x1a\n"


@contextmanager
def watched():
    """The figures that are drawn meanwhile, besides being saved."""
    kept = []
    save = figures._save

    def keep(figure, path):
        kept.append(figure)
        save(figure, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "_save", keep)
        yield kept


@pytest.fixture
def drawn():
    """The figures that were drawn."""
    with watched() as kept:
        yield kept


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """The figure of `volume()`, which nobody changes."""
    with watched() as kept:
        draw(tmp_path_factory.mktemp("usual") / "o.png", *volume())
    return kept[0]


def volume(shape=(20, 24, 10)):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    truth = np.zeros((2, *shape), bool)
    truth[0, 4:9, 6:12, 3:6] = True
    truth[1, 9:12, 6:12, 3:6] = True
    return image, truth, np.roll(truth, 2, axis=1)


def draw(path, image, truth, predicted, title="a case", names=("anterior", "posterior")):
    overlay(path, image, truth, predicted, SPACING, title, names)


def pixels_of(figure):
    """The pictures inside each of the axes, rows from top to bottom, grey levels in [0, 1]."""
    figure.canvas.draw()
    whole = np.asarray(figure.canvas.buffer_rgba())[..., :3].mean(axis=-1) / 255
    height = whole.shape[0]
    for axes in figure.axes:
        box = axes.get_window_extent()
        rows = slice(round(height - box.y1) + 1, round(height - box.y0) - 1)
        yield whole[rows, round(box.x0) + 1 : round(box.x1) - 1]


def test_the_right_anterior_superior_octant_is_at_the_upper_left(tmp_path, drawn):
    # These are the high indices of a RAS volume; radiologists see the patient's right, and the face, on the left.
    image = np.zeros((16, 16, 16), np.float32)
    image[8:, 8:, 8:] = 1.0
    image[0, 0, 0] = 0.5  # nothing but this voxel equals the corner, so nothing is cropped
    nothing = np.zeros((1, 16, 16, 16), bool)
    overlay(tmp_path / "o.png", image, nothing, nothing, (1.0, 1.0, 1.0), "", ["x"])
    assert len(drawn[0].axes) == 3
    for picture in pixels_of(drawn[0]):
        middle_row, middle_column = np.array(picture.shape) // 2
        assert picture[:middle_row, :middle_column].mean() > 0.85
        assert picture[middle_row:].mean() < 0.1
        assert picture[:, middle_column:].mean() < 0.1


@pytest.mark.parametrize(("panel", "letters"), [(0, "APIS"), (1, "RLIS"), (2, "RLPA")])
def test_the_edges_carry_their_letters(usual, panel, letters):
    assert [text.get_text() for text in usual.axes[panel].texts] == list(letters)


def test_panels_share_one_scale_in_mm(usual):
    sizes_mm = [(24 * 1.0, 10 * 3.0), (20 * 0.5, 10 * 3.0), (20 * 0.5, 24 * 1.0)]
    scales = []
    for axes, (width_mm, height_mm) in zip(usual.axes, sizes_mm, strict=True):
        box = axes.get_window_extent()
        scales += [box.width / width_mm, box.height / height_mm]
    assert scales == pytest.approx([scales[0]] * 6, rel=0.01)


def test_outlines_follow_the_edges_of_the_voxels_in_mm(usual):
    coronal = usual.axes[1]  # X leftwards, Z up
    first_truth, first_predicted = coronal.collections[:2]
    for outline, (low, high) in ((first_truth, (4, 9)), (first_predicted, (6, 11))):
        vertices = np.concatenate([path.vertices for path in outline.get_paths()])
        assert (vertices.min(axis=0), vertices.max(axis=0)) == (
            pytest.approx((low * SPACING[0], 3 * SPACING[2])),
            pytest.approx((high * SPACING[0], 6 * SPACING[2])),
        )


def test_truth_is_solid_and_prediction_dashed_in_the_colour_of_the_structure(usual):
    outlines = usual.axes[1].collections
    assert [outline.get_linestyle()[0][1] is not None for outline in outlines] == [False, True, False, True]
    colours = [tuple(outline.get_edgecolor()[0]) for outline in outlines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    legend = [text.get_text() for text in usual.legends[0].get_texts()]
    assert legend == ["anterior", "posterior", "truth", "prediction"]


def test_planes_cut_the_largest_truth_then_the_prediction_then_the_middle():
    nothing = np.zeros((1, 20, 24, 10), bool)
    truth, predicted = nothing.copy(), nothing.copy()
    truth[0, 4, 2:9, 3] = True
    truth[0, 4, 7, 2:5] = True
    predicted[0, 15, 20, 8] = True
    assert figures._centre(truth, predicted, "structure") == (4, 7, 3)
    assert figures._centre(nothing, predicted, "structure") == (15, 20, 8)
    assert figures._centre(nothing, nothing, "structure") == (10, 12, 5)


def test_planes_at_the_error_cut_where_most_voxels_are_wrong():
    truth = np.zeros((1, 20, 24, 10), bool)
    truth[0, 4:8, 4:8, 2:5] = True
    predicted = truth.copy()
    predicted[0, 12, 15:18, 8] = True
    assert figures._centre(truth, predicted, "error") == (12, 15, 8)
    assert figures._centre(truth, truth, "error") == figures._centre(truth, truth, "structure") == (4, 4, 2)


def test_planes_stand_in_line(usual):
    """Sagittal and coronal share their heights, coronal and axial their sides, and nothing overlaps."""
    sagittal, coronal, axial = (axes.get_position() for axes in usual.axes)
    assert (sagittal.y0, sagittal.y1) == pytest.approx((coronal.y0, coronal.y1))
    assert (coronal.x0, coronal.x1) == pytest.approx((axial.x0, axial.x1))
    assert sagittal.x1 < coronal.x0
    assert axial.y1 < coronal.y0


def test_the_empty_margin_of_a_scan_is_not_drawn(tmp_path, drawn):
    image = np.zeros((60, 60, 60), np.float32)
    image[20:40, 20:40, 20:40] = np.random.default_rng(1).random((20, 20, 20)) + 1
    nothing = np.zeros((1, 60, 60, 60), bool)
    overlay(tmp_path / "o.png", image, nothing, nothing, (1.0, 1.0, 1.0), "", ["x"])
    assert {axes.images[0].get_array().shape for axes in drawn[0].axes} == {(26, 26)}


@pytest.mark.parametrize("shape", [(35, 50, 35), (240, 240, 155), (6, 200, 200), (1, 1, 1)])
def test_any_size_and_any_mask_draws_without_a_warning(tmp_path, shape):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    full, nothing = np.ones((9, *shape), bool), np.zeros((9, *shape), bool)
    draw(tmp_path / "o.png", image, full, nothing, names=[f"structure {i}" for i in range(9)])
    height, width = imread(tmp_path / "o.png").shape[:2]
    assert 300 < width < 2000
    assert 150 < height < 1500


def test_the_same_data_gives_the_same_bytes_and_no_other_file(tmp_path):
    for name in ("one.png", "two.png"):
        draw(tmp_path / name, *volume())
    one, two = (tmp_path / name for name in ("one.png", "two.png"))
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes().startswith(PNG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]
