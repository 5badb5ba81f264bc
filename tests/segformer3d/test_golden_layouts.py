"""Golden cases: tiny folders in the official naming of every layout, read and scored against values worked by hand.

The truth of every case is a block of 8 x 6 voxels in y and z, cut along x into slices of 4 voxels, one for each label.
The prediction is the truth moved by 2 voxels along x. A structure that is n voxels thick along x then keeps n - 2 of
them: Dice (n - 2) / n. Its leading face, more than 5 % of the surface, is 2 voxels away from the truth and nothing is
further: HD95 is 2 voxels in mm.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from segformer3d.cases import CaseFiles, find_cases
from segformer3d.evaluation import evaluate_predictor
from segformer3d.measuring import Contest, Predict, masks_of, measure_cases
from segformer3d.metrics import score_case
from segformer3d.protocols import choose_protocol
from segformer3d.results import CaseResult
from segformer3d.tasks import Task, choose_task, named_task
from segformer3d.volumes import Volume, read_case

SHAPE, SHIFT, THICK = (40, 18, 12), 2, 4
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Golden:
    """What is written, and what must come out.

    Attributes:
        write: writes the dataset into a folder.
        task: the name to choose, or None where the folder tells.
        labels: the label values of the truth, from low x to high x.
        contrasts: the task's contrasts in its order, as `signature` numbers them.
        spacing_x: voxel size along x in mm.
        dice: of each structure, by hand.
    """

    write: Callable[[Path], None]
    task: str | None
    labels: tuple[int, ...]
    spacing_x: float
    dice: tuple[float, ...]
    contrasts: tuple[int, ...] = (0,)


def signature(contrast: int) -> NDArray[np.int16]:
    """A contrast that can be told by its values, and whose voxels rise along x, y and z (in RAS)."""
    x, y, z = np.indices(SHAPE)
    return (1000 * contrast + 10 * x + 3 * y + z + 1).astype(np.int16)


def truth(labels: tuple[int, ...]) -> NDArray[np.uint8]:
    label = np.zeros(SHAPE, np.uint8)
    for number, value in enumerate(labels):
        low = 2 + THICK * number
        label[low : low + THICK, 5:13, 3:9] = value
    return label


def save(path: Path, array_RAS: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    """Store an array of RAS axes along the axes of the affine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flips = tuple(axis for axis in range(3) if affine[axis, axis] < 0)
    nib.save(nib.Nifti1Image(np.flip(array_RAS, flips), affine), path)


def spaced(x: float, y: float, z: float, directions: NDArray[np.float64] = LPS) -> NDArray[np.float64]:
    return directions @ np.diag([x, y, z, 1.0])


# --- Writers, in the official naming ---------------------------------------------------------------------------------

TUMOUR_2017, TUMOUR_2021, TUMOUR_2023 = (1, 2, 3), (2, 1, 4), (2, 1, 3)  # edema, core, enhancing
CONTRASTS = {"flair": 0, "t1": 1, "t1ce": 2, "t2": 3}
ORGANS = (8, 4, 3, 2, 6, 11, 1, 7, 5)  # the eight in the order of the task, and the oesophagus, which is background


def decathlon(folder: Path) -> None:
    """Task01_BrainTumour: one 4D file, and the description as it is distributed."""
    image = np.stack([signature(contrast) for contrast in range(4)], axis=-1)
    save(folder / "imagesTr" / "BRATS_001.nii.gz", image, spaced(1, 1, 1))
    save(folder / "labelsTr" / "BRATS_001.nii.gz", truth(TUMOUR_2017), spaced(1, 1, 1))
    described = {
        "name": "BRATS",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "numTraining": 1,
        "training": [{"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}],
    }
    (folder / "dataset.json").write_text(json.dumps(described))


def brats_2021(folder: Path) -> None:
    place = folder / "BraTS2021_00000"
    for name, number in CONTRASTS.items():
        save(place / f"BraTS2021_00000_{name}.nii.gz", signature(number), spaced(1, 1, 1))
    save(place / "BraTS2021_00000_seg.nii.gz", truth(TUMOUR_2021), spaced(1, 1, 1))


def brats_2023(folder: Path, case: str = "BraTS-GLI-00000-000", label: NDArray[np.uint8] | None = None) -> None:
    for name, number in {"t2f": 0, "t1n": 1, "t1c": 2, "t2w": 3}.items():
        save(folder / case / f"{case}-{name}.nii.gz", signature(number), spaced(1, 1, 1))
    save(folder / case / f"{case}-seg.nii.gz", truth(TUMOUR_2023) if label is None else label, spaced(1, 1, 1))


def nnunet(folder: Path) -> None:
    """BraTS 2023 as nnU-Net stores it, its channels in another order than the task's."""
    order = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    for channel, name in order.items():
        path = folder / "imagesTr" / f"BraTS-GLI-00001-000_000{channel}.nii.gz"
        save(path, signature(CONTRASTS[name.lower()]), spaced(1, 1, 1))
    save(folder / "labelsTr" / "BraTS-GLI-00001-000.nii.gz", truth(TUMOUR_2023), spaced(1, 1, 1))
    labels = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [1, 3], "enhancing tumor": [3]}
    described = {"channel_names": order, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**described, "regions_class_order": [2, 1, 3]}))


def btcv(images: str, labels: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        affine = spaced(0.75, 0.75, 3)
        save(folder / images / "img0005.nii.gz", signature(0) - 1000, affine)  # HU
        save(folder / labels / "label0005.nii.gz", truth(ORGANS), affine)

    return write


def acdc(folder: Path) -> None:
    affine = spaced(1.5, 1.5, 10)
    for frame in ("frame01", "frame12"):
        save(folder / "patient001" / f"patient001_{frame}.nii.gz", signature(0), affine)
        save(folder / "patient001" / f"patient001_{frame}_gt.nii.gz", truth((1, 2, 3)), affine)
    (folder / "patient001" / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\n")


def bids(folder: Path) -> None:
    affine = spaced(0.5, 1, 1)
    save(folder / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz", signature(0), affine)
    place = folder / "derivatives" / "manual" / "sub-01" / "ses-1" / "anat"
    save(place / "sub-01_ses-1_desc-hippocampus_dseg.nii.gz", truth((1, 2)), affine)


def plain(folder: Path) -> None:
    for name, array in (("images", signature(0)), ("labels", truth((1, 2)))):
        save(folder / name / "a.nii.gz", array, spaced(2, 1, 1))


TUMOUR_DICE = (10 / 12, 6 / 8, 2 / 4)  # the whole is 12 voxels thick, the core 8, the enhancing part 4
ORGAN_DICE = (2 / 4,) * 8
BTCV = {name: btcv(*name) for name in (("img", "label"), ("imagesTr", "labelsTr"), (".", "."))}

GOLDEN: dict[str, Golden] = {
    "Decathlon": Golden(decathlon, None, TUMOUR_2017, 1.0, TUMOUR_DICE, (0, 1, 2, 3)),
    "BraTS 2021": Golden(brats_2021, None, TUMOUR_2021, 1.0, TUMOUR_DICE, (0, 1, 2, 3)),
    "BraTS 2023": Golden(brats_2023, None, TUMOUR_2023, 1.0, TUMOUR_DICE, (0, 1, 2, 3)),
    "nnU-Net": Golden(nnunet, "brats2023", TUMOUR_2023, 1.0, TUMOUR_DICE, (0, 1, 2, 3)),
    "nnU-Net, its own regions": Golden(nnunet, None, TUMOUR_2023, 1.0, TUMOUR_DICE, (1, 2, 3, 0)),
    **{f"BTCV in {'/'.join(p)}": Golden(write, None, ORGANS, 0.75, ORGAN_DICE) for p, write in BTCV.items()},
    "ACDC": Golden(acdc, None, (1, 2, 3), 1.5, (2 / 4,) * 3),
    "BIDS": Golden(bids, "hippocampus", (1, 2), 0.5, (2 / 4,) * 2),
    "plain": Golden(plain, "hippocampus", (1, 2), 2.0, (2 / 4,) * 2),
}


def moved(task: Task) -> Predict:
    """A predictor that moves the truth along x."""

    def predict(volume: Volume) -> NDArray[np.bool_]:
        assert volume.label is not None
        return np.roll(task.structure_masks(volume.label), SHIFT, axis=1)

    return predict


@pytest.fixture(params=GOLDEN)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Golden, Path]:
    """A golden case, and the folder that it was written to."""
    case = GOLDEN[request.param]
    (tmp_path / "data").mkdir()
    case.write(tmp_path / "data")
    return case, tmp_path / "data"


def test_a_case_is_read_in_ras_with_the_contrasts_in_the_order_of_the_task(golden: tuple[Golden, Path]) -> None:
    case, folder = golden
    task = choose_task(case.task, folder)
    for files in find_cases(folder):
        volume = read_case(files, task)
        offset = -1000 if task.name == "synapse" else 0
        expected = np.stack([signature(contrast) + offset for contrast in case.contrasts])
        np.testing.assert_array_equal(volume.image, expected)
        np.testing.assert_array_equal(volume.label, truth(case.labels))
        assert volume.spacing[0] == pytest.approx(case.spacing_x)


def test_its_scores_are_those_worked_by_hand(golden: tuple[Golden, Path]) -> None:
    case, folder = golden
    task = choose_task(case.task, folder)
    for files in find_cases(folder):
        volume = read_case(files, task)
        assert volume.label is not None
        scores = score_case(moved(task)(volume), task.structure_masks(volume.label), volume.spacing)
        assert [score.dice for score in scores] == pytest.approx(case.dice)
        assert [score.hd95_mm for score in scores] == pytest.approx([SHIFT * case.spacing_x] * len(scores))


def measured(predict: Predict, task: Task, files: CaseFiles) -> CaseResult:
    """A case as an evaluation measures it, without pictures."""
    ((only,), _) = measure_cases(
        Contest(task, choose_protocol(task.name), partial(masks_of, predict), None), [files], None
    )
    return only.result


@pytest.mark.parametrize("name", ["BraTS 2021", "BTCV in img/label"])
def test_an_evaluation_says_the_same(tmp_path: Path, name: str) -> None:
    case, folder = GOLDEN[name], tmp_path / "data"
    case.write(folder)
    task = choose_task(None, folder)
    evaluation = evaluate_predictor(moved(task), task, find_cases(folder), tmp_path / "out", seed=0)
    assert not evaluation.set_aside
    assert [structure.dice.mean for structure in evaluation.structures] == pytest.approx(case.dice)
    distances = [structure.hd95_mm.mean for structure in evaluation.structures]
    assert distances == pytest.approx([SHIFT * case.spacing_x] * len(distances))


def test_the_slices_of_the_heart_are_ten_millimetres_apart(tmp_path: Path) -> None:
    """Moved by one slice of six: Dice 5/6 and 10 mm; the thin axis is the one that counts."""
    acdc(tmp_path)
    task = named_task("acdc")

    def predict(volume: Volume) -> NDArray[np.bool_]:
        assert volume.label is not None
        return np.roll(task.structure_masks(volume.label), 1, axis=3)

    scores = measured(predict, task, find_cases(tmp_path)[0]).scores
    assert [score.dice for score in scores] == pytest.approx([5 / 6] * 3)
    assert [score.hd95_mm for score in scores] == pytest.approx([10.0] * 3)


@pytest.mark.parametrize(
    ("case", "missed"),
    [
        ("BraTS-GLI-00000-000", 0),  # up to 50 mm³ is left out
        ("BraTS-MEN-00000-000", 0),  # the same
        ("BraTS-MET-00000-000", 2),  # 3 mm³ counts, 2 mm³ does not
    ],
)
def test_small_lesions_count_where_the_challenge_of_the_case_counts_them(
    tmp_path: Path, case: str, missed: int
) -> None:
    """Three lesions, of 3, 3 and 2 mm³, none of which is found: those that count are missed."""
    label = np.zeros(truth(TUMOUR_2023).shape, np.uint8)
    label[1, 1, 0:3] = label[1, 5, 0:3] = label[6, 1, 0:2] = 3
    brats_2023(tmp_path, case, label)
    task = named_task("brats2023")

    def nothing(volume: Volume) -> NDArray[np.bool_]:
        assert volume.label is not None
        return np.zeros_like(task.structure_masks(volume.label))

    (files,) = find_cases(tmp_path)
    for score in measured(nothing, task, files).scores:
        assert score.lesions is not None
        assert score.lesions.missed == missed
        assert score.lesion_dice == (0 if missed else 1)
