"""Reading NIfTI: one orientation whatever the file's, geometry in mm, and one clear line for each kind of damage."""

import contextlib
import gzip
import itertools
import os
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segformer3d.cases import CaseFiles
from segformer3d.errors import CaseError
from segformer3d.files import StorageError, write_atomic
from segformer3d.intensity import scale_intensity
from segformer3d.tasks import Task
from segformer3d.volumes import (
    Volume,
    model_size,
    read_case,
    resample_image,
    resample_label,
    write_label,
)
from tests.conftest import WriteNifti
from tests.examples import examples

Array = NDArray[Any]

SHAPE = (5, 6, 7)
AFFINE = np.array([[1.5, 0, 0, -20], [0, 2.0, 0, 30], [0, 0, 3.0, 7], [0, 0, 0, 1]])


def ramp_image(shape: tuple[int, ...] = SHAPE) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def some_label(shape: tuple[int, ...] = SHAPE) -> Array:
    return np.random.default_rng(0).integers(0, 3, shape).astype(np.int16)


@pytest.fixture
def case(tmp_path: Path, write_nifti: WriteNifti) -> CaseFiles:
    """A sound case."""
    image = write_nifti(tmp_path / "image.nii.gz", ramp_image(), AFFINE)
    return CaseFiles("case", (image,), write_nifti(tmp_path / "label.nii.gz", some_label(), AFFINE))


# --- Orientation -----------------------------------------------------------------------------------------------------

CODES = ["".join(codes) for axes in itertools.permutations(["RL", "AP", "SI"]) for codes in itertools.product(*axes)]


def stored_as(array: Array, affine: Array, codes: str) -> nib.Nifti1Image:
    """The same volume with its axes in another order and direction."""
    image = nib.Nifti1Image(array, affine)
    orientations = nib.orientations
    wanted = orientations.axcodes2ornt(codes)
    return image.as_reoriented(orientations.ornt_transform(orientations.io_orientation(affine), wanted))


@pytest.mark.parametrize("codes", CODES)
def test_the_same_volume_reads_the_same_however_it_is_stored(tmp_path: Path, tiny_task: Task, codes: str) -> None:
    image, label = stored_as(ramp_image(), AFFINE, codes), stored_as(some_label(), AFFINE, codes)
    assert "".join(nib.aff2axcodes(image.affine)) == codes
    nib.save(image, tmp_path / "image.nii.gz")
    nib.save(label, tmp_path / "label.nii.gz")
    volume = read_case(CaseFiles("case", (tmp_path / "image.nii.gz",), tmp_path / "label.nii.gz"), tiny_task)
    np.testing.assert_array_equal(volume.image[0], ramp_image())
    np.testing.assert_array_equal(volume.label, some_label())
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.spacing == pytest.approx((1.5, 2.0, 3.0))
    assert volume.image.dtype == np.float32
    assert volume.label is not None
    assert volume.label.dtype == np.int16

    write_label(tmp_path / "back.nii.gz", volume.label, volume)
    back = nib.load(tmp_path / "back.nii.gz")
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(label.dataobj))
    np.testing.assert_allclose(back.affine, label.affine)
    assert back.get_data_dtype() == np.int16
    assert back.header.get_zooms() == pytest.approx(image.header.get_zooms())


def test_image_and_label_may_be_stored_differently(tmp_path: Path, tiny_task: Task) -> None:
    nib.save(stored_as(ramp_image(), AFFINE, "LPS"), tmp_path / "image.nii.gz")
    nib.save(stored_as(some_label(), AFFINE, "ASR"), tmp_path / "label.nii.gz")
    volume = read_case(CaseFiles("case", (tmp_path / "image.nii.gz",), tmp_path / "label.nii.gz"), tiny_task)
    np.testing.assert_array_equal(volume.image[0], ramp_image())
    np.testing.assert_array_equal(volume.label, some_label())


def test_an_oblique_scan_keeps_its_place(tmp_path: Path, tiny_task: Task) -> None:
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = AFFINE.copy()
    affine[:3, :3] = turn @ np.diag([-1.5, 2.0, 3.0])
    nib.save(nib.Nifti1Image(ramp_image(), affine), tmp_path / "image.nii.gz")
    volume = read_case(CaseFiles("case", (tmp_path / "image.nii.gz",), None), tiny_task)
    assert volume.spacing == pytest.approx((1.5, 2.0, 3.0), rel=1e-5)
    np.testing.assert_array_equal(volume.image[0], ramp_image()[::-1])
    write_label(tmp_path / "back.nii.gz", some_label()[::-1], volume)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "back.nii.gz").dataobj), some_label())
    np.testing.assert_allclose(nib.load(tmp_path / "back.nii.gz").affine, affine, atol=1e-5)


def test_a_full_disk_leaves_no_label(tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]) -> None:
    label = np.random.default_rng(0).integers(0, 3, (20, 20, 20)).astype(np.int16)
    volume, path = a_volume(label.shape, (1.0, 1.0, 1.0)), tmp_path / "label.nii.gz"
    with full_disk(1500), pytest.raises(StorageError, match="cannot write"):
        write_atomic(path, lambda temporary: write_label(temporary, label, volume))
    assert not list(tmp_path.iterdir())
    write_atomic(path, lambda temporary: write_label(temporary, label, volume))
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), label)


# --- Layouts of the contrasts ----------------------------------------------------------------------------------------


def test_one_4d_file_and_several_3d_files_are_the_same(
    tmp_path: Path, two_contrasts: Task, write_nifti: WriteNifti
) -> None:
    channels = [ramp_image(), ramp_image()[::-1].copy()]
    whole = write_nifti(tmp_path / "both.nii.gz", np.stack(channels, axis=-1))
    parts = tuple(write_nifti(tmp_path / f"{i}.nii.gz", channel) for i, channel in enumerate(channels))
    together = read_case(CaseFiles("case", (whole,), None), two_contrasts)
    apart = read_case(CaseFiles("case", parts, None), two_contrasts)
    assert together.image.shape == (2, *SHAPE)
    np.testing.assert_array_equal(together.image, apart.image)
    assert together.label is None


def test_a_label_may_have_a_fourth_axis_of_one_and_any_number_type(tmp_path: Path, tiny_task: Task) -> None:
    nib.save(nib.Nifti1Image(ramp_image().astype(np.uint8), AFFINE), tmp_path / "image.nii")
    nib.save(nib.Nifti1Image(some_label()[..., None].astype(np.float64), AFFINE), tmp_path / "label.nii")
    volume = read_case(CaseFiles("case", (tmp_path / "image.nii",), tmp_path / "label.nii"), tiny_task)
    np.testing.assert_array_equal(volume.label, some_label())


def test_the_scale_of_the_header_is_applied(tmp_path: Path, tiny_task: Task) -> None:
    image = nib.Nifti1Image(ramp_image().astype(np.int16), AFFINE)
    image.header.set_slope_inter(0.5, -100)
    nib.save(image, tmp_path / "image.nii.gz")
    raw = bytearray(gzip.decompress((tmp_path / "image.nii.gz").read_bytes()))
    struct.pack_into("<ff", raw, 112, 2.0, -7.0)  # scl_slope and scl_inter
    (tmp_path / "image.nii").write_bytes(raw)
    stored = np.asarray(nib.load(tmp_path / "image.nii").dataobj.get_unscaled(), np.float32)
    volume = read_case(CaseFiles("case", (tmp_path / "image.nii",), None), tiny_task)
    np.testing.assert_allclose(volume.image[0], stored * 2 - 7)


# --- Damage ----------------------------------------------------------------------------------------------------------


def patched(path: Path, offset: int, form: str, *values: float) -> None:
    """Change a few bytes of the header of a .nii.gz."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(form, raw, offset, *values)
    path.write_bytes(gzip.compress(raw))


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def overwrite(path: Path, array: Array, affine: Array = AFFINE) -> None:
    nib.save(nib.Nifti1Image(array, affine), path)


def with_value(array: Array, value: float, dtype: type) -> Array:
    changed = array.astype(dtype)
    changed[1, 2, 3] = value
    return changed


def flip_a_bit(path: Path) -> None:
    """In a stored, not compressed, block: only the checksum can tell."""
    raw = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def directory_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


SHIFTED = AFFINE + np.array([[0, 0, 0, 5]] + [[0] * 4] * 3)
RGB = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))

DAMAGES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "truncated image": (lambda i, _: cut(i, 0.7), "the image file is truncated or damaged; export it again"),
    "truncated label": (lambda _, j: cut(j, 0.7), "the label file is truncated or damaged; export it again"),
    "header only": (lambda i, _: cut(i, 0.1), "the image file is (truncated or damaged|not a readable NIfTI file)"),
    "no bytes": (lambda i, _: i.write_bytes(b""), "the image file is (truncated or damaged|not a readable NIfTI file)"),
    "not gzip": (lambda i, _: i.write_bytes(b"<html>404</html>" * 99), "the image file is .*; export it again"),
    "gzip of noise": (lambda i, _: i.write_bytes(gzip.compress(os.urandom(2000))), "not a readable NIfTI file"),
    "gzip that lies": (
        lambda i, _: i.write_bytes(i.read_bytes()[:200] + bytes(50) + i.read_bytes()[250:]),
        "the image file is truncated or damaged",
    ),
    "checksum cut off": (lambda _, j: j.write_bytes(j.read_bytes()[:-6]), "the label file is truncated or damaged"),
    "a bit flipped": (lambda i, _: flip_a_bit(i), "the image file is truncated or damaged"),
    "NaN": (lambda i, _: overwrite(i, with_value(ramp_image(), np.nan, np.float32)), "holds 1 voxels that are NaN or"),
    "infinite": (
        lambda i, _: overwrite(i, with_value(ramp_image(), -np.inf, np.float32)),
        "holds 1 voxels that are NaN",
    ),
    "too large": (
        lambda i, _: overwrite(i, with_value(ramp_image(), 1e300, np.float64)),
        "holds 1 voxels that are NaN",
    ),
    "wrong label": (
        lambda _, j: overwrite(j, with_value(some_label(), 7, np.int16)),
        "the label holds the value 7; task tiny knows 0, 1, 2",
    ),
    "negative label": (
        lambda _, j: overwrite(j, with_value(some_label(), -1, np.int16)),
        "holds the value -1; task tiny",
    ),
    "wrapping label": (lambda _, j: overwrite(j, with_value(some_label(), 65537, np.int32)), "holds the value 65537;"),
    "fractional label": (lambda _, j: overwrite(j, with_value(some_label(), 0.5, np.float32)), "holds the value 0.5;"),
    "NaN label": (lambda _, j: overwrite(j, with_value(some_label(), np.nan, np.float32)), "holds the value nan;"),
    "4D label": (lambda _, j: overwrite(j, np.stack([some_label()] * 2, -1)), "the label must be one 3D volume"),
    "other shape": (
        lambda _, j: overwrite(j, some_label((5, 6, 8))),
        r"image and label differ in shape: \(5, 6, 7\) and \(5, 6, 8\) voxels",
    ),
    "other place": (
        lambda _, j: overwrite(j, some_label(), SHIFTED),
        "image and label differ in position, orientation",
    ),
    "other direction": (
        lambda _, j: overwrite(j, some_label(), np.diag([-1.5, 2, 3, 1])),
        "image and label differ in position, orientation",
    ),
    "too many contrasts": (
        lambda i, _: overwrite(i, np.stack([ramp_image()] * 3, -1)),
        r"the image has 3 contrasts; task tiny takes 1 \(MRI\)",
    ),
    "missing image": (lambda i, _: i.unlink(), "the image file is missing; restore it"),
    "missing label": (lambda _, j: j.unlink(), "the label file is missing; restore it"),
    "folder": (lambda i, _: directory_instead(i), "the image file is missing; restore it"),
    "constant image": (
        lambda i, _: overwrite(i, np.full(SHAPE, 3, np.int16)),
        "the image is empty: every voxel of contrast MRI has the same value",
    ),
    "2D": (lambda i, _: overwrite(i, np.eye(5, dtype=np.float32)), r"the image has the shape \(5, 5\); it must be 3D"),
    "2D, stored LPS": (
        lambda i, _: overwrite(i, np.eye(5, dtype=np.float32), np.diag([-1.0, -1, 1, 1])),
        r"the image has the shape \(5, 5\); it must be 3D",
    ),
    "5D": (lambda i, _: overwrite(i, ramp_image((*SHAPE, 1, 2))), r"the image has the shape \(5, 6, 7, 1, 2\)"),
    "no voxels": (lambda i, _: patched(i, 40, "<8h", 3, 5, 0, 7, 1, 1, 1, 1), r"the image has the shape \(5, 0, 7\)"),
    "header of a giant": (
        lambda i, _: patched(i, 40, "<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1),
        "the image file is (truncated or damaged|not a readable NIfTI file)",
    ),
    "unknown number type": (lambda i, _: patched(i, 70, "<h", 999), "not a readable NIfTI file"),
    "flat affine": (
        lambda i, _: patched(i, 280, "<4f", 0, 0, 0, 0),
        "affine is not invertible, so its voxels have no size",
    ),
    "flat label affine": (lambda _, j: patched(j, 280, "<4f", 0, 0, 0, 0), "the label file's affine is not invertible"),
    "two axes along one": (lambda i, _: patched(i, 296, "<f", 1e30), "the image file's affine is not invertible"),
    "NaN affine": (lambda i, _: patched(i, 280, "<f", np.nan), "affine is not invertible"),
    "complex": (lambda i, _: overwrite(i, ramp_image().astype(np.complex64)), "must hold real numbers"),
    "RGB": (lambda i, _: overwrite(i, RGB), "must hold real numbers"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(case: CaseFiles, tiny_task: Task, name: str) -> None:
    assert case.label is not None
    damage, reason = DAMAGES[name]
    read_case(case, tiny_task)
    damage(case.images[0], case.label)
    with pytest.raises(CaseError, match=reason) as refused:
        read_case(case, tiny_task)
    assert "\n" not in str(refused.value)
    assert str(case.images[0].parent) not in str(refused.value), "a path is the site's own business"


@pytest.fixture(scope="session")
def raw_files(tmp_path_factory: pytest.TempPathFactory, write_nifti: WriteNifti) -> tuple[Path, bytes, bytes]:
    """A folder, and the bytes of a sound image and its label, not compressed."""
    folder = tmp_path_factory.mktemp("raw")
    image = write_nifti(folder / "image.nii", ramp_image(), AFFINE)
    return folder, image.read_bytes(), write_nifti(folder / "label.nii", some_label(), AFFINE).read_bytes()


@settings(max_examples=examples(200))
@given(
    changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=3),
    both=st.booleans(),
    kind=st.sampled_from(["image", "label"]),
)
@pytest.mark.filterwarnings("ignore:Extension size is not a multiple:UserWarning")
def test_a_damaged_header_is_read_or_refused_but_never_a_crash(
    raw_files: tuple[Path, bytes, bytes], tiny_task: Task, changes: list[tuple[int, int]], both: bool, kind: str
) -> None:
    folder, image, label = raw_files
    for name, content in (("image", image), ("label", label)):
        damaged = bytearray(content)
        for place, value in changes if both or name == kind else ():
            damaged[place] = value
        (folder / f"{name}.nii").write_bytes(damaged)
    task = replace(tiny_task, spacing=(1.0, 1.0, 1.0))
    with contextlib.suppress(CaseError):
        volume = read_case(CaseFiles("case", (folder / "image.nii",), folder / "label.nii"), task)
        assert np.isfinite(scale_intensity(volume.image, task)).all()


def test_a_missing_contrast_is_named(case: CaseFiles, two_contrasts: Task) -> None:
    with pytest.raises(CaseError, match=r"the image has 1 contrasts; task tiny takes 2 \(t1, t2\)"):
        read_case(case, two_contrasts)


def test_contrasts_on_different_grids_are_refused(tmp_path: Path, two_contrasts: Task, write_nifti: WriteNifti) -> None:
    first = write_nifti(tmp_path / "1.nii.gz", ramp_image(), AFFINE)
    for number, (shape, affine, text) in enumerate(
        [
            ((5, 6, 8), AFFINE, "the images of its contrasts differ in shape"),
            (SHAPE, SHIFTED, "contrasts differ in position"),
        ]
    ):
        second = write_nifti(tmp_path / f"other{number}.nii.gz", ramp_image(shape), affine)
        with pytest.raises(CaseError, match=text):
            read_case(CaseFiles("case", (first, second), None), two_contrasts)


def test_one_empty_contrast_of_several_is_named(tmp_path: Path, two_contrasts: Task, write_nifti: WriteNifti) -> None:
    channels = np.stack([ramp_image(), np.zeros(SHAPE, np.float32)], -1)
    with pytest.raises(CaseError, match="every voxel of contrast t2 has the same value"):
        read_case(CaseFiles("case", (write_nifti(tmp_path / "i.nii.gz", channels),), None), two_contrasts)


def test_a_spacing_in_the_wrong_unit_does_not_ask_for_all_the_memory(
    tmp_path: Path, tiny_task: Task, write_nifti: WriteNifti
) -> None:
    path = write_nifti(tmp_path / "i.nii.gz", ramp_image(), np.diag([1000.0, 1000, 1000, 1]))
    task = replace(tiny_task, spacing=(1.0, 1.0, 1.0))
    with pytest.raises(CaseError, match=r"1000 x 1000 x 1000 mm .* 5000 x 6000 x 7000 voxels .* correct the spacing"):
        read_case(CaseFiles("case", (path,), None), task)


def test_affines_that_agree_to_a_hundredth_of_a_millimetre_agree(case: CaseFiles, tiny_task: Task) -> None:
    assert case.label is not None
    overwrite(case.label, some_label(), AFFINE + 0.005 * (AFFINE != 0) * np.array([1, 1, 1, 0])[:, None])
    assert read_case(case, tiny_task).label is not None


# --- Grid ------------------------------------------------------------------------------------------------------------


def a_volume(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> Volume:
    affine = np.diag([*spacing, 1.0])
    return Volume(np.zeros((1, *shape), np.float32), None, affine, affine)


@pytest.mark.parametrize(
    ("shape", "spacing", "wanted", "expected"),
    [
        ((10, 20, 30), (1.0, 2.0, 0.5), None, (10, 20, 30)),
        ((10, 20, 30), (1.0, 2.0, 0.5), (1.0, 1.0, 1.0), (10, 40, 15)),
        ((10, 20, 30), (1.0, 1.0, 5.0), (1.005, 0.995, 5.0), (10, 20, 30)),
        ((200, 20, 30), (1.0, 1.0, 5.0), (1.02, 1.0, 5.0), (196, 20, 30)),
        ((3, 3, 1), (1.0, 1.0, 0.1), (9.0, 1.0, 1.0), (1, 3, 1)),
    ],
)
def test_model_size(tiny_task: Task, shape: Any, spacing: Any, wanted: Any, expected: Any) -> None:
    assert model_size(a_volume(shape, spacing), replace(tiny_task, spacing=wanted)) == expected


@given(
    size=st.tuples(*[st.integers(4, 12)] * 3),
    target=st.tuples(*[st.integers(4, 24)] * 3),
    slope=st.tuples(*[st.floats(-3, 3)] * 3),
)
def test_a_linear_ramp_in_mm_stays_one(size: Any, target: Any, slope: Any) -> None:
    """Closed form: voxel i of n lies at ((i + 1/2) / n) of the field of view, before and after."""

    def place(axis: int, n: int) -> Array:
        return (np.arange(n) + 0.5) / n * size[axis]

    def ramp(shape: tuple[int, ...]) -> Array:
        return sum(
            np.expand_dims(slope[axis] * place(axis, n), [other for other in range(3) if other != axis])
            for axis, n in enumerate(shape)
        )

    resampled = resample_image((ramp(size) + np.zeros(size)).astype(np.float32)[None], target)[0]
    assert resampled.shape == target
    # Beyond the outermost voxel centres there is nothing to interpolate; the last value is held there.
    inner = np.ix_(*[(place(a, n) >= 0.5) & (place(a, n) <= size[a] - 0.5) for a, n in enumerate(target)])
    np.testing.assert_allclose(resampled[inner], (ramp(target) + np.zeros(target))[inner], atol=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("factor", [2, 3])
def test_image_and_label_keep_the_same_field_of_view(axis: int, factor: int) -> None:
    label = np.zeros((6, 7, 8), np.int16)
    label[tuple(slice(2, 5) if a == axis else slice(None) for a in range(3))] = 1
    size = tuple(n * factor if a == axis else n for a, n in enumerate(label.shape))
    resampled = resample_label(label, size)  # type: ignore[arg-type]
    image = resample_image(label[None].astype(np.float32), size)[0]  # type: ignore[arg-type]
    np.testing.assert_array_equal(resampled, image > 0.5)
    assert resampled.sum() == label.sum() * factor
    assert resampled.dtype == np.int16


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("size", "nearest"), [(3, [1, 4, 7]), (6, [0, 2, 3, 5, 6, 8])])
def test_a_label_that_is_made_coarser_stays_where_its_image_is(axis: int, size: int, nearest: list[int]) -> None:
    """By hand: voxel i of n is centred on voxel 9 (i + 1/2) / n - 1/2 of nine; for six, that is 0.25, 1.75, 3.25, ...

    And by interpolation: an image of these numbers is, rounded, the label.
    """
    numbers = np.moveaxis(np.broadcast_to(np.arange(9, dtype=np.int16), (2, 3, 9)), 2, axis)
    wanted = tuple(size if a == axis else n for a, n in enumerate(numbers.shape))
    coarser = resample_label(numbers, wanted)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.moveaxis(coarser, axis, 2), np.broadcast_to(nearest, (2, 3, size)))
    image = resample_image(numbers[None].astype(np.float32), wanted)[0]  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.rint(image), coarser)


def test_a_volume_that_is_on_the_grid_is_not_touched() -> None:
    image, label = ramp_image()[None], some_label()
    assert resample_image(image, SHAPE) is image
    assert resample_label(label, SHAPE) is label


# --- Real scans ------------------------------------------------------------------------------------------------------


def test_a_real_glioma_patient_stored_lps(tmp_path: Path, shared: Path, tiny_task: Task) -> None:
    folder = shared / "data" / "glioma" / "TCGA-DU-7294"
    (image,), (seg,) = (sorted(folder.glob(f"*{kind}.nii.gz")) for kind in ("t1ce", "seg"))
    volume = read_case(CaseFiles("case", (image,), seg), tiny_task)
    assert volume.image.shape == (1, 240, 240, 155)
    assert volume.spacing == pytest.approx((1, 1, 1))
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert nib.aff2axcodes(volume.source_affine) == ("L", "P", "S")
    assert volume.label is not None
    write_label(tmp_path / "back.nii.gz", volume.label, volume)
    stored = np.asarray(nib.load(seg).dataobj)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "back.nii.gz").dataobj), stored)
