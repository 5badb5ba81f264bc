"""Oracles: the array before it was written, the painted brightness, determinism to the byte, and stated ranges."""

import hashlib
from functools import cache

import nibabel as nib
import numpy as np
import pytest

from segformer3d.cases import find_cases
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.tasks import get_task, task_of_folder
from segformer3d.volumes import read_case
from simulations.phantoms import (
    CONTRASTS,
    Scanner,
    make_phantom,
    scanner_of_site,
    write_phantom_federation,
    write_phantom_site,
)

PERFECT = Scanner(gain=1000.0, bias=0.0, noise=0.0, gamma=1.0, blur=0.0)


@cache
def phantom(seed, scanner=PERFECT):
    """Made once; nobody can change it."""
    image, label = make_phantom(np.random.default_rng(seed), scanner)
    image.flags.writeable = label.flags.writeable = False
    return image, label


def phantom_of_site(seed, site):
    return phantom((seed, site), scanner_of_site(seed, site))


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Four hospitals, a case each but two of the second, and five cases held out. Nobody may change it."""
    return write_phantom_federation(tmp_path_factory.mktemp("federation"), cases=[1, 2, 1, 1], held_out=5, seed=1)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("site", [1, 2, 3, 4])
def test_every_case_is_four_contrasts_and_three_labels_in_an_empty_background(site):
    shapes = set()
    for seed in range(3):
        image, label = phantom_of_site(seed, site)
        assert (image.dtype, label.dtype) == (np.float32, np.uint8)
        assert image.shape == (*label.shape, len(CONTRASTS))
        assert set(np.unique(label)) == {0, 1, 2, 3}
        brain = image[..., 0] > 0
        assert (image[brain] >= 1).all()
        assert (image[~brain] == 0).all()
        assert image.max() <= np.iinfo(np.int16).max
        assert not label[~brain].any()
        assert 0.2 < brain.mean() < 0.7
        assert 0.01 < (label > 0).mean() < 0.2
        shapes.add(label.shape)
    assert len(shapes) > 1
    assert all(any(length % 32 for length in shape) and len(set(shape)) > 1 for shape in shapes)


def test_the_rim_is_thick_enough_for_a_coarse_stem():
    for seed in range(4):
        _, label = phantom(seed)
        assert (label == 3).sum() > 300
        # A cube of 2 voxels (the finer stem's token) fits into the rim many times.
        rim = np.lib.stride_tricks.sliding_window_view(label == 3, (2, 2, 2))
        assert rim.all(axis=(3, 4, 5)).sum() > 50


def test_contrasts_show_the_tissues_as_they_do_in_patients():
    flair, t1, t1ce, t2 = range(4)
    for seed in range(4):
        image, label = phantom(seed)
        healthy = (image[..., 0] > 0) & (label == 0)
        mean = {value: image[label == value].mean(axis=0) for value in (1, 2, 3)}
        usual = np.median(image[healthy], axis=0)
        assert mean[2][flair] > 1.2 * usual[flair]
        assert mean[2][t2] > 1.2 * usual[t2]
        assert mean[3][t1ce] > 1.2 * usual[t1ce]
        assert mean[3][t1ce] > 1.4 * mean[3][t1]
        assert mean[1][t1ce] < 0.8 * usual[t1ce]


def test_gain_scales_the_image_and_nothing_else():
    image, label = phantom(2)
    doubled, same_label = phantom(2, Scanner(gain=2000.0, bias=0.0, noise=0.0, gamma=1.0, blur=0.0))
    bright = image > 1  # the darkest voxels are lifted to 1, so that the brain never is background
    np.testing.assert_allclose(doubled[bright], 2 * image[bright], rtol=1e-6)
    np.testing.assert_array_equal(label, same_label)


def test_noise_is_rician():
    # E[magnitude^2] = signal^2 + 2 sigma^2 for a Rician magnitude.
    image, _ = phantom(3)
    noisy, _ = phantom(3, Scanner(gain=1000.0, bias=0.0, noise=0.1, gamma=1.0, blur=0.0))
    brain = image > 1
    extra = (noisy[brain].astype(np.float64) ** 2 - image[brain].astype(np.float64) ** 2).mean()
    assert extra == pytest.approx(2 * 100.0**2, rel=0.05)


def test_one_threshold_is_no_segmentation():
    # The best threshold in hindsight, on each contrast scaled as the task scales it, for the whole tumour and the rim.
    best = {"whole": 0.0, "enhancing": 0.0}
    cases = [phantom_of_site(seed, site) for site in (1, 2, 3, 4) for seed in range(2)]
    for name, contrast in (("whole", 0), ("enhancing", 2)):
        for threshold in np.arange(0, 3, 0.2):
            scores = []
            for image, label in cases:
                values = image[..., contrast]
                inside = values[values > 0]
                found = (values - inside.mean()) / inside.std() > threshold
                truth = label > 0 if name == "whole" else label == 3
                scores.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
            best[name] = max(best[name], np.mean(scores))
    assert 0.3 < best["whole"] < 0.88
    assert 0.3 < best["enhancing"] < 0.85


def test_scanners_are_spread_over_their_ranges_for_any_number_of_sites():
    for seed in (0, 1, 2):
        gains = np.log([scanner_of_site(seed, site).gain for site in range(1, 17)])
        quarters = np.histogram(gains, bins=4, range=np.log((150, 6000)))[0]
        assert quarters.min() >= 3
        assert np.abs(np.diff(gains)).min() > np.log(2)
    assert scanner_of_site(0, 1) == scanner_of_site(0, 1) != scanner_of_site(1, 1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("gain", 0.0),
        ("gain", float("nan")),
        ("gain", 20_000.0),
        ("bias", -0.1),
        ("noise", 2.0),
        ("gamma", 0.0),
        ("blur", -1.0),
        ("axes", "RAR"),
        ("axes", "ras"),
        ("tilt_degrees", 60.0),
    ],
)
def test_a_scanner_refuses_what_breaks_its_rule(setting, value):
    with pytest.raises(ConfigurationError, match=f"{setting} of a scanner must .*, got "):
        Scanner(**{setting: value})


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, dict[str, str]]:
    """The digests of sites that differ in one thing at most: `first` and `again` in nothing."""
    folder, asked = tmp_path_factory.mktemp("written"), {"cases": 1, "seed": 5, "site_index": 2, "prefix": "case"}
    for name, change in {"first": {}, "again": {}, "more": {"cases": 2}, "other": {"seed": 6}}.items():
        write_phantom_site(folder / name, **(asked | change))
    image = (folder / "first" / "imagesTr" / "case_001.nii.gz").read_bytes()
    assert image[4:8] == bytes(4), "the gzip header holds a time"
    return {place.name: digests(place) for place in folder.iterdir()}


def test_a_site_is_the_same_to_the_byte_whenever_it_is_written(written):
    first, other = written["first"], written["other"]
    assert first == written["again"]
    assert len(first) == 3
    assert {name for name in first if first[name] == other[name]} == {"dataset.json"}


def test_a_case_does_not_depend_on_how_many_there_are(written):
    few, more = written["first"], written["more"]
    assert len(more) == 5
    assert all(more[name] == few[name] for name in few if name != "dataset.json")
    assert len(set(more.values())) == len(more)


@pytest.mark.parametrize("site", [1, 2, 3, 4])
def test_stored_axes_lead_back_to_the_phantom(federation, site):
    folder, scanner = federation.sites[site - 1], scanner_of_site(1, site)
    image, label = make_phantom(np.random.default_rng([1, site, 1]), scanner)
    case = find_cases(folder)[0]
    stored = nib.load(case.images[0])
    assert "".join(nib.aff2axcodes(stored.affine)) == scanner.axes
    np.testing.assert_allclose(nib.affines.voxel_sizes(stored.affine), 1.0, rtol=1e-6)
    assert nib.affines.obliquity(stored.affine).max() == pytest.approx(np.deg2rad(scanner.tilt_degrees), abs=1e-6)
    volume = read_case(case, get_task("phantom"))
    np.testing.assert_array_equal(volume.image, np.moveaxis(np.rint(image), -1, 0))
    np.testing.assert_array_equal(volume.label, label)


def test_a_federation_is_sites_and_a_mixture_of_their_scanners(federation):
    places = (*federation.sites, federation.held_out)
    assert [folder.name for folder in places] == ["site-1", "site-2", "site-3", "site-4", "held-out"]
    cases = {folder.name: find_cases(folder) for folder in places}
    assert [len(found) for found in cases.values()] == [1, 2, 1, 1, 5]
    names = [case.name for found in cases.values() for case in found]
    assert len(set(names)) == 10
    axes = ["".join(nib.aff2axcodes(nib.load(case.images[0]).affine)) for case in cases["held-out"]]
    assert axes == [scanner_of_site(1, site).axes for site in (1, 2, 3, 4, 1)]
    assert task_of_folder(federation.sites[0]) == get_task("phantom")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cases": []}, "at least 1 site, got 0"),
        ({"cases": [1, 0]}, "cases of site 2 .* must be 1 or more, got 0"),
        ({"held_out": -1}, "held_out .* must be 1 or more, got -1"),
        ({"seed": -1}, "seed .* got -1"),
        ({"seed": 2**32}, "seed .* got 4294967296"),
    ],
)
def test_counts_and_seed_have_rules_and_nothing_is_written_when_they_break(tmp_path, change, text):
    asked = {"cases": [1], "held_out": 1, "seed": 0} | change
    with pytest.raises(ConfigurationError, match=text):
        write_phantom_federation(tmp_path / "new", **asked)
    assert not (tmp_path / "new").exists()


def test_hospitals_are_numbered_from_one(tmp_path):
    with pytest.raises(ConfigurationError, match="numbered from 1, got site index 0"):
        write_phantom_site(tmp_path / "new", cases=1, seed=0, site_index=0, prefix="case")


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "held-out").mkdir()
    (tmp_path / "held-out" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="held-out exists and is not an empty folder; remove it"):
        write_phantom_federation(tmp_path, cases=[1], held_out=1, seed=0)
    assert not (tmp_path / "site-1").exists()
