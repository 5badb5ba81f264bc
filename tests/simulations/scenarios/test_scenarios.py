"""Scenarios. Oracles: hashes of files, nibabel's own resampling through the affines, values worked by hand."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import nibabel.processing
import numpy as np
import pytest
from scipy import ndimage

from segformer3d.cases import find_cases
from segformer3d.dataset import prepare
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.lacks import Lacks
from segformer3d.patients import patient_of
from segformer3d.tasks import Structure, Task, get_task
from simulations.partitions import quantity_sizes, write_partition
from simulations.run import PHANTOMS_PER_SITE, phantoms_of
from simulations.scenarios import SCENARIOS, get_scenario
from simulations.scenarios.attacks import reverse
from simulations.scenarios.label_habits import merge, widen
from simulations.scenarios.scanners import (
    AXES,
    BIAS,
    BLUR,
    GAMMA,
    NOISE,
    SLICES,
    SiteScanner,
    bias_field,
    scan,
    site_scanners,
)
from simulations.settings import SimulationSettings
from simulations.site_folders import FederationFolders
from tests.conftest import MakeDataset

from .conftest import OBLIQUE, WriteScenario, array, blobs, digests

PERFECT = SiteScanner(1.0, 0.0, 1.0, 0, 0.0, (0.0,) * 9, 0.0, "RAS")
FILES = [name for name in SCENARIOS if name != "missing-contrasts"]
PHANTOM = get_task("phantom")


# --- All of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_files_are_a_function_of_the_seed_and_no_patient_is_in_two_places(
    scenario: WriteScenario, write_scenario: WriteScenario, source: Path, name: str
) -> None:
    before = digests(source)
    places = write_scenario(name)
    assert [digests(place) for place in scenario(name)] == [digests(place) for place in places]
    assert digests(source) == before
    patients = [{patient_of(case) for case in find_cases(place)} for place in places]
    assert max(Counter(patient for place in patients for patient in place).values()) == 1
    assert sum(len(find_cases(place)) for place in places) == 12
    assert all(patients)


@pytest.mark.parametrize("name", FILES)
def test_what_is_held_out_is_the_same_in_every_scenario(
    scenario: WriteScenario, write_scenario: WriteScenario, name: str
) -> None:
    (*_, expected), (*_, found) = scenario("iid"), write_scenario(name, seed=3)
    assert digests(found) == digests(expected)


@pytest.mark.parametrize("name", FILES)
def test_the_gate_takes_every_case(scenario: WriteScenario, tiny_task: Task, tmp_path: Path, name: str) -> None:
    for place in scenario(name):
        data = prepare(place, tiny_task, tmp_path / "cache" / place.name)
        assert not data.set_aside


@pytest.mark.parametrize(("name", "changed"), [("labels", {1, 2}), ("scanners", set(range(1, 21)))])
def test_twenty_sites(tmp_path: Path, make_dataset: MakeDataset, tiny_task: Task, name: str, changed: set[int]) -> None:
    """Every one of them has cases, and the files of those that the scenario names are other than they were dealt."""
    source = make_dataset(tmp_path / "source", {f"case_{n:02d}": blobs(n) for n in range(26)}, affine=OBLIQUE)
    scenario = get_scenario(name)
    folders = write_partition(source, tmp_path / "sites", scenario.partition, 20, 0, task=tiny_task.name)
    before = [digests(site) for site in folders.sites]
    scenario.change(folders.sites, 0, tiny_task)
    after = [digests(site) for site in folders.sites]
    assert {n for n, (old, new) in enumerate(zip(before, after, strict=True), start=1) if old != new} == changed
    assert len(find_cases(folders.held_out)) + sum(len(find_cases(site)) for site in folders.sites) == 26
    for site in folders.sites:
        data = prepare(site, tiny_task, tmp_path / "cache" / site.name)
        assert data.train
        assert not data.set_aside


def test_another_seed_gives_other_scanners(scenario: WriteScenario) -> None:
    one, other = (scenario("scanners", seed=seed)[0] for seed in (0, 1))
    assert digests(one) != digests(other)


def test_a_file_outside_the_dataset_is_refused_rather_than_written_to(
    tmp_path: Path, source: Path, tiny_task: Task
) -> None:
    site = tmp_path / "site-1"
    site.mkdir()
    described = json.loads((source / "dataset.json").read_text())
    outside = str(source / "labelsTr" / "hippocampus_001.nii.gz")
    (site / "dataset.json").write_text(
        json.dumps(
            {**described, "training": [{"image": str(source / "imagesTr/hippocampus_001.nii.gz"), "label": outside}]}
        )
    )
    before = digests(source)
    for name in ("scanners", "hostile-labels"):
        with pytest.raises(DataError, match="lies outside the dataset"):
            get_scenario(name).change([site], 0, tiny_task)
    assert digests(source) == before


def test_a_damaged_file_is_left_to_the_gate(tmp_path: Path, write_scenario: WriteScenario, tiny_task: Task) -> None:
    site = write_scenario("iid")[0]
    broken = find_cases(site)[0].images[0]
    broken.unlink()
    broken.write_bytes(b"no image")
    get_scenario("scanners").change([site], 0, tiny_task)
    assert broken.read_bytes() == b"no image"
    assert len(prepare(site, tiny_task, tmp_path / "cache").set_aside) == 1


# --- Scanners --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_follow_the_geometry_to_the_voxel(scenario: WriteScenario, source: Path, seed: int) -> None:
    """The original label, looked up by nibabel at the places in mm of the new voxels, is the new label."""
    checked, axes, shapes = 0, set(), set()
    for site in scenario("scanners", seed=seed)[:-1]:
        for case in find_cases(site):
            image, label = nib.load(case.images[0]), nib.load(case.label)
            original = nib.load(source / "labelsTr" / case.label.name)
            expected = nibabel.processing.resample_from_to(original, (label.shape, label.affine), order=0)
            np.testing.assert_array_equal(np.asanyarray(expected.dataobj), np.asanyarray(label.dataobj))
            np.testing.assert_allclose(image.affine, label.affine)
            assert image.shape == label.shape
            axes.add("".join(nib.aff2axcodes(label.affine)))
            shapes.add(label.shape)
            checked += 1
    assert checked == 10
    assert len(axes) == 4
    assert len(shapes) > 1


def test_images_lie_where_their_labels_do(scenario: WriteScenario) -> None:
    """In spite of blur, bias and noise the structures are brighter than what is around them, as in the original."""
    for site in scenario("scanners")[:-1]:
        for case in find_cases(site):
            image, label = array(case.images[0]), array(case.label)
            means = [image[(label == value) & (image > 0)].mean() for value in (0, 1, 2)]
            assert means == sorted(means)


def test_scanners_are_spread_evenly_within_their_ranges() -> None:
    for sites in (4, 8, 20):
        scanners = site_scanners(sites, seed=5)
        assert scanners == site_scanners(sites, seed=5)
        assert scanners != site_scanners(sites, seed=6)
        for name, (low, high) in (("blur", BLUR), ("bias", BIAS), ("noise", NOISE)):
            shares = sorted((getattr(scanner, name) - low) / (high - low) for scanner in scanners)
            assert shares == pytest.approx([(n + 0.5) / sites for n in range(sites)])
        assert all(GAMMA[0] < scanner.gamma < GAMMA[1] for scanner in scanners)
        thickness = Counter(scanner.slices for scanner in scanners)
        assert set(thickness) == set(SLICES)
        assert max(thickness.values()) - min(thickness.values()) == 0
        assert len({scanner.axes for scanner in scanners}) == min(sites, len(AXES))


def test_a_perfect_scanner_shows_the_image_itself() -> None:
    image = np.random.default_rng(0).uniform(0, 900, (6, 7, 8))
    found = scan(image, np.zeros(image.shape), np.random.default_rng(1), PERFECT)
    np.testing.assert_allclose(found, image, rtol=1e-12)


def test_noise_is_rician() -> None:
    """Far above the noise, mean square = m² + 2 sigma²; without signal the mean is sigma sqrt(pi / 2)."""
    sigma, scanner = 0.05 * 100.0, replace(PERFECT, noise=0.05)
    image = np.full((60, 60, 60), 100.0)
    image[:30] = 1e-9
    found = scan(image, np.zeros(image.shape), np.random.default_rng(2), scanner)
    assert np.square(found[30:]).mean() == pytest.approx(100.0**2 + 2 * sigma**2, rel=1e-3)
    assert found[:30].mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=5e-3)


def test_the_contrast_curve_keeps_the_scale() -> None:
    image = np.linspace(1.0, 100.0, 8 * 9 * 10).reshape(8, 9, 10)
    scale = np.percentile(image, 99)
    found = scan(image, np.zeros(image.shape), np.random.default_rng(0), replace(PERFECT, gamma=0.5))
    np.testing.assert_allclose(found, np.sqrt(image * scale))


def test_slices_of_one_and_a_half_voxels_by_hand() -> None:
    """Six voxels along Y become four slices, whose centres are at 0.25, 1.75, 3.25 and 4.75."""
    ramp = np.broadcast_to(np.arange(1.0, 13.0)[None, :, None], (3, 12, 2))
    scanner = replace(PERFECT, slices=1.5, across=1)
    found = scan(np.array(ramp), np.zeros((3, 8, 2)), np.random.default_rng(0), scanner)
    assert found.shape == (3, 8, 2)
    np.testing.assert_allclose(found[0, 2:-2, 0], [4.25, 5.75, 7.25, 8.75])  # blurring keeps a ramp, but at its ends


def test_the_bias_field_is_smooth_and_as_strong_as_it_is_said() -> None:
    scanner = replace(PERFECT, bias=0.2, coil=tuple(np.linspace(-1, 1, 9)))
    field = bias_field(np.random.default_rng(0), (20, 24, 16), scanner)
    assert field.mean() == pytest.approx(0, abs=1e-12)
    assert field.std() == pytest.approx(0.2)
    for axis in range(3):  # a polynomial of order 2 has no third difference
        np.testing.assert_allclose(np.diff(field, 3, axis), 0, atol=1e-12)


def test_what_was_stripped_stays_zero(scenario: WriteScenario) -> None:
    for site in scenario("scanners")[:-1]:
        for case in find_cases(site):
            zeros = np.mean(array(case.images[0]) == 0)
            assert 0.05 < zeros < 0.2  # two of seventeen rows


# --- Label habits ----------------------------------------------------------------------------------------------------


def test_one_voxel_wider_by_hand(tiny_task: Task) -> None:
    label = np.zeros((5, 5, 1), np.uint8)
    label[1, 1], label[3, 3], label[1, 3] = 1, 2, 2
    expected = [[0, 1, 0, 2, 0], [1, 1, 1, 2, 2], [0, 1, 0, 2, 0], [0, 0, 2, 2, 2], [0, 0, 0, 2, 0]]
    assert widen(label, tiny_task)[..., 0].tolist() == expected


def test_the_first_site_outlines_wider_and_the_second_merges_and_says_so(
    scenario: WriteScenario, source: Path, tiny_task: Task
) -> None:
    first, second, *others = scenario("labels")
    for case in find_cases(first):
        own, original = array(case.label), array(source / "labelsTr" / case.label.name)
        np.testing.assert_array_equal(own > 0, ndimage.binary_dilation(original > 0))
        np.testing.assert_array_equal(own[original > 0], original[original > 0])
    for case in find_cases(second):
        np.testing.assert_array_equal(array(case.label), array(source / "labelsTr" / case.label.name) > 0)
        assert case.lacks == Lacks(merged=(("first", "second"),))
    assert all(case.lacks == Lacks() for site in (first, *others) for case in find_cases(site))
    assert all(case.label.is_symlink() for site in others for case in find_cases(site))


def test_values_of_other_structures_are_not_merged(tiny_task: Task) -> None:
    three = (Structure("a", (2,)), Structure("b", (1, 4)), Structure("c", (3,)))
    task = replace(
        tiny_task,
        structures=three,
        label_values=(0, 1, 2, 3, 4),
        prior=(),
        model=replace(tiny_task.model, num_classes=4),
    )
    assert merge(np.array([0, 1, 2, 3, 4], np.int16), task).tolist() == [0, 2, 2, 3, 2]


def copied(federation: FederationFolders, folder: Path) -> FederationFolders:
    for place in (*federation.sites, federation.held_out):
        shutil.copytree(place, folder / place.name)
    return FederationFolders(tuple(folder / site.name for site in federation.sites), folder / federation.held_out.name)


def test_regions_are_outlined_wider_and_what_is_in_them_not_told(tmp_path: Path, phantoms: FederationFolders) -> None:
    """Oracle: the dilation of each region of the labels as they were; the whole tumour, and the task's own rules."""
    plain, habits = phantoms, copied(phantoms, tmp_path / "habits")
    get_scenario("labels").check(PHANTOM)
    get_scenario("labels").change(habits.sites, 0, PHANTOM)
    for site, whole in zip(habits.sites[:2], plain.sites[:2], strict=True):
        (case,), (before,) = find_cases(site), find_cases(whole)
        label, original = array(case.label), array(before.label)
        if site.name == "site-1":
            assert case.lacks == Lacks()
            for region in PHANTOM.structures:
                grown = ndimage.binary_dilation(np.isin(original, region.labels))
                np.testing.assert_array_equal(np.isin(label, region.labels), grown, region.name)
        else:
            np.testing.assert_array_equal(label, np.where(original > 0, 2, 0))  # 2 is of the whole tumour alone
            assert case.lacks == Lacks(unlabelled=("tumour core", "enhancing tumour"))
            assert not prepare(site, PHANTOM, tmp_path / "cache").set_aside
    assert digests(habits.sites[2]) == digests(plain.sites[2])


def test_synthetic_hospitals_can_be_of_unequal_size() -> None:
    for settings, expected in (
        (SimulationSettings(scenario="unequal"), quantity_sizes(4 * PHANTOMS_PER_SITE, 4)),
        (SimulationSettings(partition="quantity", sites=8), quantity_sizes(8 * PHANTOMS_PER_SITE, 8)),
        (SimulationSettings(scenario="intensity", sites=2), [PHANTOMS_PER_SITE] * 2),
    ):
        assert list(phantoms_of(settings)) == expected
    assert max(phantoms_of(SimulationSettings(scenario="unequal"))) > PHANTOMS_PER_SITE


# --- Hostile labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hostile-labels", "hostile-scaled"])
def test_labels_are_reversed_at_the_last_site(scenario: WriteScenario, source: Path, name: str) -> None:
    *sites, last, _ = scenario(name)
    for case in find_cases(last):
        np.testing.assert_array_equal(array(case.label), 2 - array(source / "labelsTr" / case.label.name))
    assert all(case.label.is_symlink() for site in sites for case in find_cases(site))
    assert reverse(np.array([0, 1, 2, 4, 9]), (0, 1, 2, 4)).tolist() == [4, 2, 1, 0, 9]


# --- Missing contrasts -----------------------------------------------------------------------------------------------


def test_two_of_the_phantoms_sites_lack_a_contrast_and_say_so(tmp_path: Path, phantoms: FederationFolders) -> None:
    full, less = phantoms, copied(phantoms, tmp_path / "less")
    get_scenario("missing-contrasts").change(less.sites, 0, PHANTOM)
    for name, left, site, whole in (
        ("t1ce", [0, 1, 3], less.sites[0], full.sites[0]),
        ("flair", [1, 2, 3], less.sites[1], full.sites[1]),
    ):
        data = prepare(site, PHANTOM, tmp_path / "cache")
        complete = prepare(whole, PHANTOM, tmp_path / "cache")
        assert not data.set_aside
        (channel,) = set(range(4)) - set(left)
        assert data.train
        for own, other in zip(data.train, complete.train, strict=True):
            assert own.lacks.absent == (name,)
            assert not own.image()[channel].any()
            np.testing.assert_array_equal(own.image()[left], other.image()[left])
        described = json.loads((site / "dataset.json").read_text())
        assert list(described["modality"].values()) == [PHANTOM.modalities[index] for index in left]
    assert digests(less.sites[2]) == digests(full.sites[2])
    assert digests(less.held_out) == digests(full.held_out)


@pytest.mark.parametrize("layout", ["brats", "lists"])
def test_a_contrast_in_a_file_of_its_own_is_taken_away(tmp_path: Path, layout: str) -> None:
    generator, names = np.random.default_rng(0), ("flair", "t1", "t1ce", "t2")
    label = np.zeros((20, 20, 20), np.uint8)
    label[5:9, 5:9, 5:9] = 3
    task = replace(PHANTOM, name="brats2021", label_values=(0, 1, 2, 3, 4)) if layout == "brats" else PHANTOM
    sites = [tmp_path / "site-1", tmp_path / "site-2"]
    for number, site in enumerate(sites):
        case = site / f"BraTS2021_{number:05d}"
        case.mkdir(parents=True)
        for name in (*names, "seg"):
            values = label if name == "seg" else generator.uniform(1, 9, label.shape).astype(np.float32)
            nib.save(nib.Nifti1Image(values, np.eye(4)), case / f"{case.name}_{name}.nii.gz")
        if layout == "lists":
            files = [f"./{case.name}/{case.name}_{name}.nii.gz" for name in names]
            entry = {"image": files, "label": f"./{case.name}/{case.name}_seg.nii.gz"}
            told = {"name": "x", "modality": dict(enumerate(names)), "training": [entry]}
            (site / "dataset.json").write_text(json.dumps(told))
    whole = [prepare(site, task, tmp_path / "cache").train[0].image().copy() for site in sites]
    get_scenario("missing-contrasts").change(sites, 0, task)
    for site, image, channel in zip(sites, whole, (2, 0), strict=True):
        (case,) = prepare(site, task, tmp_path / "cache").train
        assert not case.image()[channel].any()
        left = [number for number in range(4) if number != channel]
        np.testing.assert_array_equal(case.image()[left], image[left])


# --- Asking for one --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"scenario": "chaos"}, "there is no scenario 'chaos'; known are iid, unequal, intensity, scanners, labels"),
        (
            {"scenario": "iid", "partition": "quantity"},
            "--scenario iid says how cases are dealt; leave --partition out",
        ),
        ({"scenario": "labels", "sites": 1}, "--scenario labels needs --sites 2 or more, got 1"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        SimulationSettings(**settings)  # type: ignore[arg-type]


def test_a_scenario_says_how_cases_are_dealt(tmp_path: Path) -> None:
    settings = SimulationSettings(data=tmp_path, scenario="unequal")
    assert settings.dealt == "quantity"
    assert SimulationSettings.from_json(settings.to_json()) == settings
    assert SimulationSettings(partition="intensity").dealt == "intensity"


@pytest.mark.parametrize(("name", "task"), [("scanners", "synapse"), ("missing-contrasts", "hippocampus")])
def test_a_task_that_cannot_have_it_is_refused(name: str, task: str) -> None:
    with pytest.raises(ConfigurationError, match=f"scenario {name} .*{task}"):
        get_scenario(name).check(get_task(task))


def test_every_scenario_is_of_a_known_partition() -> None:
    for name, scenario in SCENARIOS.items():
        scenario.check(PHANTOM if name == "missing-contrasts" else get_task("hippocampus"))
        assert SimulationSettings(data=Path("x"), scenario=name).dealt == scenario.partition


def test_label_habits_need_two_structures_that_exclude_each_other_or_lie_in_one_another(tiny_task: Task) -> None:
    overlapping = (Structure("a", (1, 2)), Structure("b", (2, 3)))
    side_by_side = replace(
        PHANTOM, structures=overlapping, prior=(0.1, 0.1), model=replace(PHANTOM.model, num_classes=2)
    )
    one = tiny_task.structures[:1], replace(tiny_task.model, num_classes=2)
    alone = replace(tiny_task, structures=one[0], label_values=(0, 1), prior=(0.1,), model=one[1])
    for task in (side_by_side, alone):
        with pytest.raises(ConfigurationError, match=f"scenario labels .*{task.name}"):
            get_scenario("labels").check(task)
