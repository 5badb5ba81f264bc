"""The layout of BTCV, which the literature calls Synapse: `img0001.nii.gz` with `label0001.nii.gz`.

They lie in `img/` and `label/`, in `imagesTr/` and `labelsTr/`, in `averaged-training-images/` and
`averaged-training-labels/`, or all in one folder. Landman et al., "Multi-Atlas Labeling Beyond the Cranial Vault",
MICCAI 2015.
"""

import re
from pathlib import Path

from segformer3d.layouts.files import CaseFiles, Found, Layout, case_name, nifti_files

_PLACES = (
    ("img", "label"),
    ("imagesTr", "labelsTr"),
    ("averaged-training-images", "averaged-training-labels"),
    (".", "."),
)
_IMAGE = re.compile(r"img(\d{4})")
_LABEL = re.compile(r"label(\d{4})")


def find(folder: Path) -> Found:
    """The cases of the first pair of folders that holds `img0001` or its like."""
    near = ""
    for images, labels in _PLACES:
        found = _find(folder / images, folder / labels)
        if found.cases:
            return found
        near = near or found.missing
    return Found(missing=near)


def _find(image_folder: Path, label_folder: Path) -> Found:
    images = _numbered(image_folder, _IMAGE)
    labels = _numbered(label_folder, _LABEL)
    if image_folder != label_folder:  # nnFormer's copy calls both img0001
        labels = {**_numbered(label_folder, _IMAGE), **labels}
    if not images:
        return Found(missing="label0001 or its like is there, img0001 is not" if labels else "")
    return Found(tuple(_case(image_folder, label_folder, number, images, labels) for number in images | labels))


def _case(
    image_folder: Path, label_folder: Path, number: str, images: dict[str, Path], labels: dict[str, Path]
) -> CaseFiles:
    name = f"img{number}"
    image = images.get(number, image_folder / f"{name}.nii.gz")
    label = labels.get(number, label_folder / f"label{number}.nii.gz")
    return CaseFiles(name, (image,), label, name, ("CT",), benchmark="synapse")


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    matches = ((pattern.fullmatch(case_name(path)), path) for path in nifti_files(folder))
    return {match[1]: path for match, path in matches if match}


LAYOUT = Layout("BTCV", "img0001.nii.gz with label0001.nii.gz", find)
