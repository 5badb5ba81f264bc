"""Oracles: textbook sizes and positions, the order of brightness under T1 weighting, determinism to the byte."""

import hashlib

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from segformer3d.cases import find_cases
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.tasks import choose_task, get_task
from segformer3d.volumes import read_case
from simulations.hippocampus_phantoms import (
    ANTERIOR,
    POSTERIOR,
    make_hippocampus_phantom,
    write_hippocampus_phantoms,
)


def phantom(seed):
    return make_hippocampus_phantom(np.random.default_rng(seed))


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def phantoms():
    return [phantom(seed) for seed in range(20)]


def test_a_case_is_a_small_crop_around_one_structure_of_two_parts(phantoms):
    for image, label in phantoms:
        assert (image.dtype, label.dtype) == (np.float32, np.uint8)
        assert image.shape == label.shape
        assert all(low <= side <= high for side, low, high in zip(image.shape, (31, 40, 24), (43, 59, 47), strict=True))
        assert np.isfinite(image).all()
        assert image.min() >= 0
        assert set(np.unique(label)) == {0, ANTERIOR, POSTERIOR}
        pieces, _ = ndimage.label(label > 0)
        assert np.bincount(pieces.ravel())[1:].max() > 0.95 * (label > 0).sum()
    assert len({image.shape for image, _ in phantoms}) > 10


def test_sizes_and_positions_are_those_of_anatomy(phantoms):
    # About 3 ml and 40 mm from front to back, of which the head takes a third to a half; the tail lies higher.
    volumes, lengths, heads, rises = [], [], [], []
    for _, label in phantoms:
        head, tail = np.argwhere(label == ANTERIOR), np.argwhere(label == POSTERIOR)
        volumes.append((label > 0).sum() / 1000)
        lengths.append(np.ptp(np.argwhere(label)[:, 1]) + 1)
        heads.append(np.ptp(head[:, 1]) / lengths[-1])
        rises.append(tail[:, 2].mean() - head[:, 2].mean())
        assert head[:, 1].mean() > tail[:, 1].mean() + 10
    assert 2.2 < np.mean(volumes) < 3.8
    assert 34 < np.mean(lengths) < 44
    assert 0.33 < np.mean(heads) < 0.55
    assert np.mean(rises) > 3


def test_both_hemispheres_occur(phantoms):
    # In front the structure lies nearer to the midline than in the middle: to the right of it on the left side.
    sides = set()
    for _, label in phantoms:
        x, y, _ = np.argwhere(label).T
        middle, ends = np.quantile(y, (0.35, 0.65)), np.quantile(y, 0.08)
        sides.add(x[y < ends].mean() > x[(y > middle[0]) & (y < middle[1])].mean())
    assert sides == {True, False}


def test_the_structure_is_darker_than_what_surrounds_it_and_brighter_than_fluid(phantoms):
    darker = []
    for image, label in phantoms:
        own = image[label > 0].mean()
        assert own > np.quantile(image, 0.02)
        around = ndimage.binary_dilation(label > 0, iterations=6) & (label == 0)
        darker.append(own < np.quantile(image[around], 0.8))
    assert np.mean(darker) > 0.8


def test_one_threshold_is_no_segmentation(phantoms):
    # The best band of brightness in hindsight, in each case.
    best = []
    for image, label in phantoms[:8]:
        edges = np.quantile(image, np.linspace(0, 1, 21))
        truth, scores = label > 0, [0.0]
        for low in range(20):
            for high in range(low + 1, 21):
                found = (image >= edges[low]) & (image <= edges[high])
                scores.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
        best.append(max(scores))
    assert np.mean(best) < 0.5


def test_scales_differ_by_orders_of_magnitude(phantoms):
    means = [image.mean() for image, _ in phantoms]
    assert max(means) > 100 * min(means)


def test_a_folder_is_the_same_to_the_byte_whenever_it_is_written(tmp_path):
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        write_hippocampus_phantoms(tmp_path / name, cases=2, seed=seed)
    first, other = digests(tmp_path / "first"), digests(tmp_path / "other")
    assert first == digests(tmp_path / "again")
    assert len(first) == 5
    assert {name for name in first if first[name] == other[name]} == {"dataset.json"}


def test_a_case_does_not_depend_on_how_many_there_are(tmp_path):
    write_hippocampus_phantoms(tmp_path / "few", cases=1, seed=5)
    write_hippocampus_phantoms(tmp_path / "more", cases=2, seed=5)
    few, more = digests(tmp_path / "few"), digests(tmp_path / "more")
    assert all(more[name] == few[name] for name in few if name != "dataset.json")
    assert len(set(more.values())) == len(more)


def test_the_folder_is_a_dataset_of_the_hippocampus_task(tmp_path):
    write_hippocampus_phantoms(tmp_path, cases=2, seed=1)
    assert choose_task(None, tmp_path) == get_task("hippocampus")
    cases = find_cases(tmp_path)
    assert [case.name for case in cases] == ["phantom_001", "phantom_002"]
    stored = nib.load(cases[0].images[0])
    assert nib.aff2axcodes(stored.affine) == ("R", "A", "S")
    image, label = phantom([1, 1])
    volume = read_case(cases[0], get_task("hippocampus"))
    np.testing.assert_array_equal(volume.image, image[None])
    np.testing.assert_array_equal(volume.label, label)
    assert volume.spacing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"cases": 0}, "must be 1 or more, got 0"), ({"seed": -1}, "got -1"), ({"seed": 2**32}, "got 4294967296")],
)
def test_counts_and_seed_have_rules_and_nothing_is_written_when_they_break(tmp_path, change, text):
    with pytest.raises(ConfigurationError, match=text):
        write_hippocampus_phantoms(tmp_path / "new", **({"cases": 1, "seed": 0} | change))
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not an empty folder"):
        write_hippocampus_phantoms(tmp_path, cases=1, seed=0)
