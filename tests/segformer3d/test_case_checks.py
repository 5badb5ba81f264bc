"""A case that is sound in itself and wrong for the task: which contrast, which labels, CT or MRI, in one line each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segformer3d.cases import CaseFiles, find_cases
from segformer3d.contrasts import contrast
from segformer3d.dataset import prepare
from segformer3d.errors import CaseError, DataError
from segformer3d.tasks import TASKS, Task, get_task
from segformer3d.volumes import Volume, read_case
from tests.conftest import MakeDataset, WriteNifti

SHAPE = (8, 9, 10)
OLD = ("flair", "t1", "t1ce", "t2")


def scan(low: float = 0, high: float = 900) -> NDArray[np.float32]:
    """Values that rise evenly from one to the other."""
    return np.linspace(low, high, int(np.prod(SHAPE)), dtype=np.float32).reshape(SHAPE)


def label_of(*values: int) -> NDArray[np.int16]:
    label = np.zeros(SHAPE, np.int16)
    for number, value in enumerate(values):
        label[number] = value
    return label


@pytest.fixture
def write_brats(write_nifti: WriteNifti) -> Callable[..., CaseFiles]:
    """`write_brats(folder, labels, contrasts=..., sign="_")` writes one case and finds it."""

    def write(folder: Path, labels: tuple[int, ...], contrasts: tuple[str, ...] = OLD, sign: str = "_") -> CaseFiles:
        for number, name in enumerate(contrasts):
            write_nifti(folder / "case" / f"case{sign}{name}.nii.gz", scan(number, 100 + number))
        write_nifti(folder / "case" / f"case{sign}seg.nii.gz", label_of(*labels))
        (case,) = find_cases(folder)
        return case

    return write


def refusal(files: CaseFiles, task: Task) -> str:
    with pytest.raises(CaseError) as refused:
        read_case(files, task)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# --- Labels ----------------------------------------------------------------------------------------------------------


def single(folder: Path, write_nifti: WriteNifti, image: NDArray[Any], label: NDArray[Any] | None = None) -> CaseFiles:
    paths = write_nifti(folder / "i.nii.gz", image), None if label is None else write_nifti(folder / "l.nii.gz", label)
    return CaseFiles("case", (paths[0],), paths[1])


def four(folder: Path, write_nifti: WriteNifti, *labels: int) -> CaseFiles:
    """Four contrasts in one file, as the Decathlon has them: nothing in its name tells which challenge it is."""
    return single(folder, write_nifti, np.stack([scan(c, 99 + c) for c in range(4)], -1), label_of(*labels))


@pytest.mark.parametrize(
    ("task", "labels", "text"),
    [
        ("brats2017", (1, 2, 4), r"holds the value 4; task brats2017 knows 0, 1, 2, 3; .*those of task brats2021"),
        ("brats2023", (4,), r"holds the value 4; task brats2023 knows 0, 1, 2, 3; .*those of task brats2021"),
        ("brats2021", (1, 3), r"holds the value 3; task brats2021 knows 0, 1, 2, 4; .*task brats2017 or brats2023"),
        ("brats2023", (3, 4), r"holds the value 4; task brats2023 knows 0, 1, 2, 3$"),
        ("brats2021", (9,), r"holds the value 9; task brats2021 knows 0, 1, 2, 4$"),
    ],
)
def test_a_label_of_another_challenge_is_told(
    tmp_path: Path, write_nifti: WriteNifti, task: str, labels: tuple[int, ...], text: str
) -> None:
    with pytest.raises(CaseError, match=text):
        read_case(four(tmp_path, write_nifti, *labels), get_task(task))


def test_labels_that_no_voxel_tells_apart_are_told_by_the_files_names(
    tmp_path: Path, write_brats: Callable[..., CaseFiles]
) -> None:
    """Without an enhancing part, 1 and 2 stand in every challenge's labels, and mean the opposite in the Decathlon."""
    files = write_brats(tmp_path, (1, 2))
    assert "named as those of task brats2021" in refusal(files, get_task("brats2017"))
    assert "choose --task brats2021" in refusal(files, get_task("brats2023"))
    assert read_case(files, get_task("brats2021")).label is not None
    unlabelled = replace(files, label=None)
    assert read_case(unlabelled, get_task("brats2017")).image.shape == (4, *SHAPE), "images are alike in all of them"


def test_ones_own_task_may_take_the_files_of_a_challenge(
    tmp_path: Path, write_brats: Callable[..., CaseFiles], tiny_task: Task
) -> None:
    model = replace(tiny_task.model, in_channels=2)
    task = replace(tiny_task, modalities=("T1c", "FLAIR"), model=model)
    volume = read_case(write_brats(tmp_path, (1, 2)), task)
    np.testing.assert_array_equal(volume.image, np.stack([scan(2, 102), scan(0, 100)]), "two of four, in this order")


# --- Contrasts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", OLD)
def test_the_contrast_that_is_missing_is_named(
    tmp_path: Path, write_brats: Callable[..., CaseFiles], missing: str
) -> None:
    there = tuple(name for name in OLD if name != missing)
    text = refusal(write_brats(tmp_path, (1,), there), get_task("brats2021"))
    assert f"the contrast {missing} is missing, the case has {', '.join(there)}" in text


def test_a_contrast_that_vanishes_or_is_damaged_is_named(tmp_path: Path, write_brats: Callable[..., CaseFiles]) -> None:
    files = write_brats(tmp_path, (1,))
    files.images[2].write_bytes(files.images[2].read_bytes()[:99])
    assert "the t1ce image file is truncated or damaged" in refusal(files, get_task("brats2021"))
    files.images[2].unlink()
    assert "the t1ce image file is missing" in refusal(files, get_task("brats2021"))


@pytest.mark.parametrize("contrasts", [("T2w", "T1w", "T1ce", "FLAIR"), ("t1n", "t1c", "t2f", "t2w"), OLD[::-1]])
def test_contrasts_are_found_by_name_whatever_their_order(
    tmp_path: Path, write_nifti: WriteNifti, contrasts: tuple[str, ...]
) -> None:
    images = tuple(write_nifti(tmp_path / f"{n}.nii.gz", scan(number)) for number, n in enumerate(contrasts))
    volume = read_case(CaseFiles("case", images, None, contrasts=contrasts), get_task("brats2017"))
    kinds = [contrast(name) for name in contrasts]
    expected = [kinds.index(kind) for kind in ("flair", "t1", "t1ce", "t2")]
    assert [int(channel.min()) for channel in volume.image] == expected


def test_a_contrast_that_is_there_twice_is_refused(tmp_path: Path, write_nifti: WriteNifti, tiny_task: Task) -> None:
    images = tuple(write_nifti(tmp_path / f"{n}.nii.gz", scan()) for n in range(2))
    text = refusal(CaseFiles("case", images, None, contrasts=("T1w", "t1")), replace(tiny_task, modalities=("T1w",)))
    assert "the case has 2 images of contrast T1w; keep the one that its label was drawn on" in text


def test_names_in_another_vocabulary_are_taken_in_order(
    tmp_path: Path, write_nifti: WriteNifti, tiny_task: Task
) -> None:
    image = write_nifti(tmp_path / "i.nii.gz", scan())
    files = CaseFiles("case", (image,), None, contrasts=("T1w",))
    assert read_case(files, tiny_task).image.shape == (1, *SHAPE), "the task says MRI"
    with pytest.raises(CaseError, match="the contrast MRI is missing, the case has T1w, FLAIR"):
        read_case(replace(files, images=(image, image), contrasts=("T1w", "FLAIR")), tiny_task)


def test_other_contrasts_are_other_entries_of_the_cache(
    tmp_path: Path, write_nifti: WriteNifti, make_dataset: MakeDataset, tiny_task: Task
) -> None:
    """The same bytes under other names: what was prepared before must not be taken for it."""
    task = replace(tiny_task, modalities=("T1", "FLAIR"), model=replace(tiny_task.model, in_channels=2))

    def first_channel(order: str) -> NDArray[np.float32]:
        for number in range(2):
            write_nifti(tmp_path / "d" / "imagesTr" / f"a_000{number}.nii.gz", scan(0, 9) ** (number + 1))
        write_nifti(tmp_path / "d" / "labelsTr" / "a.nii.gz", label_of(1, 2))
        (tmp_path / "d" / "dataset.json").write_text(f'{{"channel_names": {order}}}')
        return np.array(prepare(tmp_path / "d", task, tmp_path / "cache").train[0].image()[0])

    straight, crossed = first_channel('{"0": "T1", "1": "FLAIR"}'), first_channel('{"0": "FLAIR", "1": "T1"}')
    assert not np.array_equal(straight, crossed)


# --- CT and MRI ------------------------------------------------------------------------------------------------------


def with_air(image: NDArray[np.float32], value: float, share: float = 0.3) -> NDArray[np.float32]:
    """Air around a patient: so much of the image has this value."""
    image = image.copy()
    image.reshape(-1)[: int(share * image.size)] = value
    return image


@pytest.mark.parametrize("air", [-1000, -1024, -2048, -3024])
def test_a_ct_given_to_an_mri_task_is_refused(
    tmp_path: Path, write_nifti: WriteNifti, tiny_task: Task, air: float
) -> None:
    text = refusal(single(tmp_path, write_nifti, with_air(scan(-150, 300), air)), tiny_task)
    assert "the image is a CT by its values (air at -1000 Hounsfield units), and task tiny takes MRI" in text


def test_a_ct_with_noise_in_its_air_is_found(tmp_path: Path, write_nifti: WriteNifti, tiny_task: Task) -> None:
    noise = np.random.default_rng(1).normal(0, 25, SHAPE).astype(np.float32)  # resampled: no whole numbers
    image = with_air(scan(-150, 300), -1000) + noise
    assert "is a CT by its values" in refusal(single(tmp_path, write_nifti, image), tiny_task)


@pytest.mark.parametrize("spread", [350, 450, 600, 800])
def test_an_mri_without_its_mean_is_no_ct(
    tmp_path: Path, write_nifti: WriteNifti, tiny_task: Task, spread: float
) -> None:
    slope = np.random.default_rng(2).normal(0, spread, (20, 20, 20)).astype(np.float32).clip(-3000)
    read_case(single(tmp_path / "slope", write_nifti, slope), tiny_task)
    background = with_air(scan(0, 3000), 0) - np.float32(1003.4)
    read_case(single(tmp_path / "background", write_nifti, background), tiny_task)


def test_mri_with_some_negative_voxels_is_no_ct(tmp_path: Path, write_nifti: WriteNifti, tiny_task: Task) -> None:
    ringing = with_air(scan(0, 30_000), -1500, share=0.005)
    assert read_case(single(tmp_path, write_nifti, ringing), tiny_task).image.min() == -1500
    phase = single(tmp_path, write_nifti, scan(-4096, 4095))
    assert read_case(phase, tiny_task).image.min() == -4096


def test_a_dataset_that_says_ct_is_refused_by_an_mri_task(
    tmp_path: Path, write_nifti: WriteNifti, tiny_task: Task
) -> None:
    files = replace(single(tmp_path, write_nifti, scan(40, 200)), contrasts=("CT",))
    assert "says that its images are CT, and task tiny takes MRI" in refusal(files, tiny_task)
    assert "takes CT" in refusal(replace(files, contrasts=("T1w",)), get_task("synapse"))


def test_a_ct_without_hounsfield_units_is_refused(tmp_path: Path, write_nifti: WriteNifti) -> None:
    task = get_task("synapse")
    text = refusal(single(tmp_path, write_nifti, scan(0, 2000)), task)
    assert "holds no negative value, so it is no CT in Hounsfield units as task synapse takes it" in text
    assert isinstance(read_case(single(tmp_path, write_nifti, scan(-1024, 2000)), task), Volume)


# --- Not a volume ----------------------------------------------------------------------------------------------------


def test_a_2d_image_and_colours_are_refused(tmp_path: Path, write_nifti: WriteNifti, tiny_task: Task) -> None:
    flat = single(tmp_path, write_nifti, np.eye(9, dtype=np.float32))
    assert "the image has the shape (9, 9); it must be 3D" in refusal(flat, tiny_task)
    colours = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    text = refusal(single(tmp_path, write_nifti, colours), tiny_task)
    assert "the image file holds colours (RGB); it must hold real numbers, one a voxel" in text
    planes = single(tmp_path, write_nifti, np.stack([scan()] * 3, -1))
    assert "the image has 3 contrasts; task tiny takes 1 (MRI)" in refusal(planes, tiny_task)


def test_a_folder_of_such_cases_ends_in_one_line(tmp_path: Path, make_dataset: MakeDataset, tiny_task: Task) -> None:
    cases = {name: (with_air(scan(-150, 300), -1024), label_of(1, 2)) for name in "ab"}
    with pytest.raises(
        DataError, match=r"has no usable case: all 2 were set aside, the first because the image is a CT"
    ):
        prepare(make_dataset(tmp_path / "data", cases), tiny_task, tmp_path / "cache")


def test_every_contrast_of_the_built_in_tasks_is_known() -> None:
    kinds = {name: [contrast(modality) for modality in task.modalities] for name, task in TASKS.items()}
    for name in ("phantom", "brats2017", "brats2021", "brats2023"):
        assert kinds[name] == ["flair", "t1", "t1ce", "t2"], name
    assert (kinds["synapse"], kinds["acdc"]) == (["ct"], ["mri"])
