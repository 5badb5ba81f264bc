"""Oracles: published SHA-256 digests, shares worked by hand, properties over generated cohorts, and real images."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer3d.cases import CaseFiles, find_cases
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.held_out import HeldOutError, held_out_of
from segformer3d.lacks import Lacks
from segformer3d.patients import patient_of
from simulations.partitions import (
    MINIMUM_CASES,
    PARTITIONS,
    held_out_cases,
    quantity_sizes,
    raw_intensity,
    split_cases,
    write_partition,
)
from simulations.phantoms import scanner_of_site, write_phantom_federation

HIPPOCAMPUS = Path(__file__).parents[3] / "shared" / "data" / "hippocampus"
needs_hippocampus = pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="needs ../shared/data/hippocampus")


@st.composite
def cohorts(draw):
    """Distinct names, an intensity or none for each, and a number of sites that they suffice for."""
    names = draw(st.lists(st.text(min_size=1, max_size=8), unique=True, min_size=2, max_size=40))
    scale = st.one_of(st.none(), st.floats())
    intensities = {name: draw(scale) for name in names}
    share = draw(st.floats(0.05, 0.5))
    return names, intensities, draw(st.integers(1, len(names) - len(held_out_cases(names, share)))), share


@settings(deadline=None)
@given(cohorts(), st.sampled_from(PARTITIONS), st.integers(0, 2**40), st.randoms(use_true_random=False))
def test_every_case_is_in_one_place_whatever_the_order(cohort, partition, seed, shuffler):
    names, intensities, sites, share = cohort
    split = split_cases(names, intensities, sites, seed, partition, share)
    assert Counter(name for part in (*split.sites, split.held_out) for name in part) == Counter(names)
    assert len(split.sites) == sites
    assert all(split.sites)
    assert split.held_out == held_out_cases(names, share)
    shuffled = shuffler.sample(names, len(names))
    assert split_cases(shuffled, intensities, sites, seed, partition, share) == split
    sizes = [len(part) for part in split.sites]
    if partition == "quantity":
        assert sizes == quantity_sizes(sum(sizes), sites)
    else:
        assert max(sizes) - min(sizes) <= 1


@settings(deadline=None)
@given(cohorts())
def test_intensity_groups_do_not_overlap_and_unreadable_cases_come_last(cohort):
    names, intensities, sites, share = cohort
    split = split_cases(names, intensities, sites, 0, "intensity", share)
    scales = [[intensities[name] for name in part] for part in split.sites]
    known = [[s if s is not None and np.isfinite(s) else np.inf for s in part] for part in scales]
    assert all(max(low) <= min(high) for low, high in pairwise(known))


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 60))
def test_quantity_sizes_add_up_fall_and_keep_the_minimum(cases, sites):
    if cases < sites:
        return
    sizes = quantity_sizes(cases, sites)
    assert sum(sizes) == cases
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) >= min(MINIMUM_CASES, cases // sites)


def test_quantity_sizes_by_hand():
    # 160 cases, 4 sites: 4 each, and 144 in the ratio 8:4:2:1, that is 76.8, 38.4, 19.2 and 9.6; the two cases that
    # rounding down leaves go to the largest remainders.
    assert quantity_sizes(160, 4) == [81, 42, 23, 14]
    assert quantity_sizes(9, 1) == [9]
    assert quantity_sizes(5, 4) == [2, 1, 1, 1]
    assert quantity_sizes(26, 2) == [4 + 16, 4 + 2]


def test_the_lowest_sha256_is_held_out():
    # SHA-256 begins with ca97 for "a", 3e23 for "b", 2e7d for "c", 18ac for "d" and 3f79 for "e".
    assert held_out_cases(list("abcde"), 0.2) == ("d",)
    assert held_out_cases(list("abcde"), 0.4) == ("c", "d")
    assert held_out_cases(list("ab"), 0.01) == ("b",)


def test_seeds_deal_differently_but_hold_out_the_same():
    names = [f"case_{number}" for number in range(30)]
    splits = [split_cases(names, {}, sites, seed, how) for how in PARTITIONS for sites in (1, 3) for seed in (0, 1)]
    assert len({split.held_out for split in splits}) == 1
    first, second = (split_cases(names, {}, 3, seed, "iid").sites for seed in (0, 1))
    assert first != second


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """Ten cases. Nobody may change them."""
    return dataset(tmp_path_factory.mktemp("ten") / "source", range(10))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sites": 0}, "at least 1 site, got 0"),
        ({"sites": 9}, "10 cases, 2 of them held out, leave 8 for 9 sites"),
        ({"seed": -1}, "seed of a partition must be 0 or more, got -1"),
        ({"partition": "dirichlet"}, "no partition 'dirichlet'; known are iid, quantity, intensity"),
        ({"held_out": 0.0}, "held-out share must be between 0 and 1, both excluded, got 0.0"),
        ({"held_out": 1.0}, "held-out share"),
        ({"held_out": float("nan")}, "held-out share"),
    ],
)
def test_what_breaks_a_rule_is_refused_before_anything_is_written(tmp_path, ten, change, text):
    asked = {"partition": "iid", "sites": 2, "seed": 0, "held_out": 0.2} | change
    with pytest.raises(ConfigurationError, match=text):
        write_partition(ten, tmp_path / "new", **asked)
    assert not (tmp_path / "new").exists()


def save(path, scale):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(int(scale)).uniform(0.5, 1, (4, 5, 6)) * scale
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), path)


def dataset(folder, numbers, **described):
    """A Decathlon folder whose case n has intensities up to 10 * (n + 1)."""
    entries = [{kind: f"./{kind}sTr/case_{n}.nii.gz" for kind in ("image", "label")} for n in numbers]
    for number, entry in zip(numbers, entries, strict=True):
        for file in entry.values():
            save(folder / file, 10 * (number + 1))
    described |= {"name": "Toy", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "thing"}}
    described |= {"training": entries, "numTraining": len(entries), "test": ["./imagesTs/x.nii.gz"], "numTest": 1}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def names_in(folder):
    return [case.name for case in find_cases(folder)]


def test_sites_are_decathlon_folders_of_links(tmp_path):
    source = dataset(tmp_path / "source", range(10), licence="CC-BY")
    folders = write_partition(source, tmp_path / "sites", "iid", sites=3, seed=0)
    assert [folder.name for folder in (*folders.sites, folders.held_out)] == ["site-1", "site-2", "site-3", "held-out"]
    found = [name for folder in (*folders.sites, folders.held_out) for name in names_in(folder)]
    assert sorted(found) == sorted(names_in(source))
    for folder in (*folders.sites, folders.held_out):
        described = json.loads((folder / "dataset.json").read_text())
        assert (described["name"], described["licence"], described["labels"]["1"]) == ("Toy", "CC-BY", "thing")
        assert (described["numTraining"], described["numTest"]) == (len(names_in(folder)), 0)
        for case in find_cases(folder):
            for file, kind in ((case.images[0], "imagesTr"), (case.label, "labelsTr")):
                assert file.is_symlink()
                assert file.readlink() == (source / kind / f"{case.name}.nii.gz").resolve()


def test_a_relative_source_gives_links_that_work_from_anywhere(tmp_path, monkeypatch):
    dataset(tmp_path / "source", range(4))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folders = write_partition(Path("../source"), Path("sites"), "intensity", sites=2, seed=0)
    file = (tmp_path / "here" / folders.held_out / "imagesTr").iterdir().__next__()
    assert file.readlink().is_absolute()
    assert file.is_file()


def test_files_are_copied_where_links_are_not_possible(tmp_path, monkeypatch):
    source = dataset(tmp_path / "source", range(3))

    def refuse(self, target, target_is_directory=False):
        raise OSError("this file system has no links")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folders = write_partition(source, tmp_path / "sites", "iid", sites=1, seed=0)
    for case in find_cases(folders.sites[0]):
        assert not case.images[0].is_symlink()
        assert case.images[0].read_bytes() == (source / "imagesTr" / case.images[0].name).read_bytes()


def test_only_intensity_opens_images_and_damaged_ones_go_to_the_last_site(tmp_path):
    source = dataset(tmp_path / "source", range(10))
    inside = [name for name in names_in(source) if name not in held_out_cases(names_in(source))]
    broken, missing = inside[0], inside[3]
    (source / "imagesTr" / f"{broken}.nii.gz").write_text("not an image")
    (source / "imagesTr" / f"{missing}.nii.gz").unlink()
    folders = write_partition(source, tmp_path / "sites", "intensity", sites=2, seed=0)
    assert {broken, missing} < set(names_in(folders.sites[1]))
    order = [name for name in sorted(inside, key=lambda n: int(n[5:])) if name not in (broken, missing)]
    assert set(names_in(folders.sites[0])) == set(order[:4])
    for path in (source / "imagesTr").iterdir():
        path.write_text("not an image")
    for partition in ("iid", "quantity"):
        folders = write_partition(source, tmp_path / partition, partition, sites=2, seed=0)
        assert len(names_in(folders.sites[0])) + len(names_in(folders.sites[1])) == 8


def test_a_plain_dataset_stays_plain_and_keeps_its_channels(tmp_path):
    for number in range(5):
        save(tmp_path / "source" / "labels" / f"p{number}.nii.gz", 1)
        for channel in range(2):
            save(tmp_path / "source" / "images" / f"p{number}_000{channel}.nii.gz", 10 + number)
    folders = write_partition(tmp_path / "source", tmp_path / "sites", "intensity", sites=2, seed=0)
    cases = [case for folder in (*folders.sites, folders.held_out) for case in find_cases(folder)]
    assert sorted(case.name for case in cases) == [f"p{number}" for number in range(5)]
    assert all(len(case.images) == 2 and case.images[1].is_file() and case.label.is_file() for case in cases)
    assert not (folders.held_out / "dataset.json").exists()


def test_images_in_folders_of_their_own_or_elsewhere_are_found_again(tmp_path):
    source = dataset(tmp_path / "source", range(3))
    save(tmp_path / "archive" / "extra.nii.gz", 5)
    described = json.loads((source / "dataset.json").read_text())
    for number, entry in enumerate(described["training"]):
        images = [f"./imagesTr/{number}/{contrast}.nii.gz" for contrast in ("t1", "t2")]
        for image in images:
            save(source / image, number + 1)
        entry["image"] = [*images, "../archive/extra.nii.gz"]
    (source / "dataset.json").write_text(json.dumps(described))
    folders = write_partition(source, tmp_path / "sites", "iid", sites=1, seed=0)
    (case, _) = find_cases(folders.sites[0])
    number = case.name.removeprefix("case_")
    assert [image.resolve().relative_to(tmp_path.resolve()).as_posix() for image in case.images] == [
        f"source/imagesTr/{number}/t1.nii.gz",
        f"source/imagesTr/{number}/t2.nii.gz",
        "archive/extra.nii.gz",
    ]


def test_sites_are_not_mixed_with_what_is_there(tmp_path):
    source = dataset(tmp_path / "source", range(4))
    write_partition(source, tmp_path / "sites", "iid", sites=2, seed=0)
    with pytest.raises(DataError, match="site-1 exists and is not an empty folder"):
        write_partition(source, tmp_path / "sites", "quantity", sites=2, seed=0)


def test_raw_intensity_is_the_logarithm_of_the_99th_percentile_of_positive_voxels(tmp_path):
    values = np.concatenate([np.zeros(1000), -np.arange(99.0), np.arange(1.0, 102.0)])
    first = values.reshape(10, 10, 12)
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(np.stack([first, 1000 * first], axis=-1).astype(np.float32), np.eye(4)), path)
    # Of 1, 2, ..., 101 the 99th percentile is 100; the second contrast plays no part.
    assert raw_intensity(CaseFiles("x", (path,), None)) == pytest.approx(np.log(100))


@pytest.mark.parametrize("damage", ["empty", "truncated", "zeros", "nan", "absurd size"])
def test_raw_intensity_of_a_damaged_image_is_none(tmp_path, damage):
    path = tmp_path / "x.nii.gz"
    values = np.full((20, 20, 20), {"zeros": 0, "nan": np.nan}.get(damage, 7), np.float32)
    image = nib.Nifti1Image(values, np.eye(4))
    if damage == "absurd size":
        raw = bytearray(image.to_bytes())
        raw[42:48] = np.full(3, 32767, "<i2").tobytes()
        path = tmp_path / "x.nii"
        path.write_bytes(raw)
    else:
        nib.save(image, path)
        raw = path.read_bytes()
        path.write_bytes({"empty": b"", "truncated": raw[: len(raw) // 2]}.get(damage, raw))
    assert raw_intensity(CaseFiles("x", (path,), None)) is None


def test_intensity_tells_the_scanners_of_phantoms_apart(tmp_path):
    mixture = write_phantom_federation(tmp_path / "phantoms", cases=[1, 1], held_out=5, seed=0).held_out
    gains = [scanner_of_site(0, site).gain for site in (1, 2)]
    assert max(gains) > 5 * min(gains)
    folders = write_partition(mixture, tmp_path / "sites", "intensity", sites=2, seed=0)
    # Case n of the mixture comes from the scanner of site 1 if n is odd, of site 2 if it is even.
    dark, bright = ([gains[(int(name[-3:]) - 1) % 2] for name in names_in(folder)] for folder in folders.sites)
    assert set(dark) == {min(gains)} or set(bright) == {max(gains)}
    assert len(dark) == len(bright) == 2


@needs_hippocampus
@pytest.mark.parametrize("partition", PARTITIONS)
def test_hippocampus(tmp_path, partition):
    folders = write_partition(HIPPOCAMPUS, tmp_path, partition, sites=4, seed=0)
    cases = {folder.name: find_cases(folder) for folder in (*folders.sites, folders.held_out)}
    total = len(find_cases(HIPPOCAMPUS))
    assert len({case.name for found in cases.values() for case in found}) == total == sum(map(len, cases.values()))
    patients = {place: {patient_of(case): case for case in reversed(found)} for place, found in cases.items()}
    assert len(patients["held-out"]) == pytest.approx(0.2 * sum(map(len, patients.values())), abs=0.5)
    assert all(case.images[0].is_file() and case.label.is_file() for found in cases.values() for case in found)
    if partition == "intensity":
        # A patient goes where the first of the two sides belongs.
        scales = [[raw_intensity(case) for case in patients[folder.name].values()] for folder in folders.sites]
        assert all(max(low) <= min(high) for low, high in pairwise(scales))
        assert min(scales[3]) - max(scales[0]) > 0.2


# --- Published held-out cases ----------------------------------------------------------------------------------------

PUBLISHED = held_out_of("acdc").names
OTHERS = tuple(f"patient{number:03d}" for number in (1, 4, 5, 6, 7))


def hearts(folder, patients):
    """ACDC by its names alone: the files are empty."""
    for patient in patients:
        place = folder / patient
        place.mkdir(parents=True)
        for frame in ("frame01", "frame12"):
            (place / f"{patient}_{frame}.nii.gz").write_bytes(b"image")
            (place / f"{patient}_{frame}_gt.nii.gz").write_bytes(b"label")
        (place / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: NOR\n")
    return folder


def patients_in(folder):
    return {case.patient for case in find_cases(folder)}


@pytest.mark.parametrize("partition", ["iid", "quantity", "intensity"])
def test_the_published_cases_are_what_is_held_out(tmp_path, partition):
    source = hearts(tmp_path / "source", (*PUBLISHED, *OTHERS))
    folders = write_partition(source, tmp_path / "sites", partition, sites=2, seed=0, task="acdc")
    assert patients_in(folders.held_out) == set(PUBLISHED)
    assert len(find_cases(folders.held_out)) == 40, "both frames of each"
    first, second = (patients_in(folder) for folder in folders.sites)
    assert not first & second
    assert first | second == set(OTHERS)
    facts = {case.facts for folder in (*folders.sites, folders.held_out) for case in find_cases(folder)}
    assert facts == {(("frame", "ED"), ("group", "NOR")), (("frame", "ES"), ("group", "NOR"))}, "they go with the files"


def test_some_published_cases_are_refused_or_used_nowhere(tmp_path):
    source = hearts(tmp_path / "source", (*PUBLISHED[:3], *OTHERS))
    with pytest.raises(HeldOutError, match=r"contains 3 of the 20 held-out patients .* 17 are missing or incomplete"):
        write_partition(source, tmp_path / "no", "iid", sites=2, seed=0, task="acdc")
    assert not (tmp_path / "no").exists()
    folders = write_partition(source, tmp_path / "sites", "iid", sites=2, seed=0, task="acdc", leave_out_published=True)
    places = (*folders.sites, folders.held_out)
    assert sorted(name for folder in places for name in patients_in(folder)) == sorted(OTHERS)
    assert patients_in(folders.held_out), "a share, as ever"


def test_ones_own_task_on_their_files_holds_them_out_as_well(tmp_path):
    whole = hearts(tmp_path / "whole", (*PUBLISHED, *OTHERS))
    folders = write_partition(whole, tmp_path / "sites", "iid", sites=2, seed=0, task="left-ventricle")
    assert patients_in(folders.held_out) == set(PUBLISHED)
    some = hearts(tmp_path / "some", (*PUBLISHED[:3], *OTHERS))
    with pytest.raises(HeldOutError, match="17 are missing or incomplete"):
        write_partition(some, tmp_path / "no", "iid", sites=2, seed=0, task="left-ventricle")


def test_a_dataset_without_published_cases_holds_out_a_share(tmp_path):
    others = tuple(f"patient{number:03d}" for number in (1, 4, 5, 6, 7, 8, 10, 11))
    source = hearts(tmp_path / "source", tuple(name for name in others if name not in PUBLISHED))
    folders = write_partition(source, tmp_path / "sites", "iid", sites=2, seed=0, task="left-ventricle")
    assert len(patients_in(folders.held_out)) == round(0.2 * len(patients_in(source)))


# --- Layouts ---------------------------------------------------------------------------------------------------------


def write_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"scan")


def as_nnunet(folder):
    for case in "abcdef":
        write_files(folder, f"imagesTr/{case}_0000.nii.gz", f"imagesTr/{case}_0001.nii.gz", f"labelsTr/{case}.nii.gz")
    described = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "lesion": 1}, "numTraining": 6}
    (folder / "dataset.json").write_text(json.dumps(described))


def as_nnunet_of_one_channel(folder):
    for case in "abcdef":
        write_files(folder, f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz")
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "mass": 1}, "numTraining": 6}
    (folder / "dataset.json").write_text(json.dumps(described))


def as_brats(folder):
    for patient in "12345":
        for visit in ("000", "001"):
            case = f"BraTS-GLI-0000{patient}-{visit}"
            write_files(folder, *[f"{case}/{case}-{kind}.nii.gz" for kind in ("t1n", "t1c", "t2w", "t2f", "seg")])


def as_btcv(folder):
    for number in (5, 6, 7, 9, 10, 11):  # none that the published protocol holds out
        write_files(folder, f"img/img{number:04d}.nii.gz", f"label/label{number:04d}.nii.gz")


def as_bids(folder):
    for subject in "abcdef":
        name = f"sub-{subject}/anat/sub-{subject}"
        write_files(folder, f"{name}_T1w.nii.gz", f"{name}_FLAIR.nii.gz", f"derivatives/x/{name}_dseg.nii.gz")
    rows = [f"sub-{subject}\tLeeds" for subject in "abcdef"]
    (folder / "participants.tsv").write_text("\n".join(["participant_id\tsite", *rows]))


@pytest.mark.parametrize("write", [as_nnunet, as_nnunet_of_one_channel, as_brats, as_btcv, as_bids])
def test_every_layout_is_dealt_so_that_a_site_finds_the_same_cases(tmp_path, write):
    def told(case):
        return case.name, [path.name for path in case.images], case.label.name, case.patient, case.contrasts, case.facts

    write(tmp_path / "source")
    cases = find_cases(tmp_path / "source")
    folders = write_partition(tmp_path / "source", tmp_path / "sites", "iid", sites=2, seed=0)
    places = [find_cases(folder) for folder in (*folders.sites, folders.held_out)]
    assert sorted(told(case) for place in places for case in place) == sorted(told(case) for case in cases)
    patients = [{case.patient or case.name for case in place} for place in places]
    assert sum(map(len, patients)) == len(set.union(*patients)), "no patient is in two places"


@pytest.mark.parametrize("layout", ["decathlon", "plain"])
def test_what_a_dataset_lacks_goes_with_its_cases(tmp_path, make_dataset, layout):
    volume = np.ones((4, 4, 4), np.int16)
    source = make_dataset(tmp_path / "source", {f"case{n}": (volume, volume) for n in range(6)}, layout=layout)
    told = json.loads((source / "dataset.json").read_text()) if layout == "decathlon" else {}
    (source / "dataset.json").write_text(json.dumps({**told, "unlabelled": ["second"]}))
    folders = write_partition(source, tmp_path / "sites", "iid", sites=2, seed=0)
    for place in (*folders.sites, folders.held_out):
        cases = find_cases(place)
        assert all(case.lacks == Lacks(unlabelled=("second",)) for case in cases)
        assert all(case.label.parent.name == ("labelsTr" if layout == "decathlon" else "labels") for case in cases)
