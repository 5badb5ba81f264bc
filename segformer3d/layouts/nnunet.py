"""The raw layout of nnU-Net: `imagesTr/NAME_0000.nii.gz`, `labelsTr/NAME.nii.gz` and `dataset.json`.

Of `dataset.json`, `channel_names` name the contrasts, `file_ending` how files end, `numTraining` how many cases there
must be, and `dataset`, if it is there, the files of each case. The first version's spelling (`modality`, files listed
without their channel number) is understood as well. Isensee et al., "nnU-Net", Nature Methods 2021.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segformer3d.errors import DataError
from segformer3d.layouts.description import DESCRIPTION, channel_names, read_description
from segformer3d.layouts.files import ENDINGS, CaseFiles, Found, Layout, case_name, nifti_files

_CHANNEL_FILE = re.compile(r"(?P<name>.+)_(?P<channel>\d{4})")


def find(folder: Path) -> Found:
    """The cases that have an image or a label."""
    if not (folder / DESCRIPTION).is_file():
        return Found(missing=f"imagesTr/ is there, {DESCRIPTION} is not") if (folder / "imagesTr").is_dir() else Found()
    described = read_description(folder / DESCRIPTION)
    _check_ending(described, folder)
    listed = described.get("dataset")
    cases = _listed(folder, listed, described) if isinstance(listed, Mapping) else _stored(folder, described)
    if not cases:
        return Found(missing="imagesTr/ holds no NAME_0000.nii.gz")
    _check_count(len(cases), described, folder)
    return Found(tuple(cases))


def _stored(folder: Path, described: Mapping[str, Any]) -> list[CaseFiles]:
    images: dict[str, dict[int, Path]] = {}
    for path in nifti_files(folder / "imagesTr"):
        match = _CHANNEL_FILE.fullmatch(case_name(path))
        if match:
            images.setdefault(match["name"], {})[int(match["channel"])] = path
    labels = {case_name(path): path for path in nifti_files(folder / "labelsTr")} if images else {}
    return [_case(folder, name, images.get(name, {}), labels.get(name), described) for name in images | labels]


def _case(
    folder: Path, name: str, channels: Mapping[int, Path], label: Path | None, described: Mapping[str, Any]
) -> CaseFiles:
    """A case by its channel numbers; a file that must be there and is not is found when the case is read."""
    images = dict(channels) or {0: folder / "imagesTr" / f"{name}_0000.nii.gz"}
    names = _names(described)
    contrasts = tuple(names[number] if number < len(names) else f"channel {number}" for number in sorted(images))
    label = label or folder / "labelsTr" / f"{name}.nii.gz"
    return CaseFiles(name, tuple(images[n] for n in sorted(images)), label, contrasts=contrasts if names else ())


def _listed(folder: Path, listed: Mapping[str, Any], described: Mapping[str, Any]) -> list[CaseFiles]:
    names, cases = _names(described), []
    for name, files in listed.items():
        images, label = (files.get("images"), files.get("label")) if isinstance(files, Mapping) else (None, None)
        if not isinstance(images, list) or not all(isinstance(i, str) for i in images) or not isinstance(label, str):
            raise DataError(f"case {name!r} of 'dataset' in {folder / DESCRIPTION} needs 'images' and a 'label'")
        contrasts = names if len(names) == len(images) else ()
        cases.append(CaseFiles(name, tuple(folder / i for i in images), folder / label, contrasts=contrasts))
    return cases


def _names(described: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        return channel_names(described)
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()  # then the channels are taken in their order


def _check_ending(described: Mapping[str, Any], folder: Path) -> None:
    ending = described.get("file_ending", ENDINGS[0])
    if ending not in ENDINGS:
        raise DataError(
            f"{folder / DESCRIPTION} says file_ending {ending!r}, and segfed reads {' and '.join(ENDINGS)}; "
            "convert the files"
        )


def _check_count(found: int, described: Mapping[str, Any], folder: Path) -> None:
    """A dataset that was copied in part says so nowhere else."""
    announced = described.get("numTraining", found)
    if announced != found:
        raise DataError(
            f"{folder / DESCRIPTION} announces {announced} cases (numTraining), and there are {found}; restore the "
            "missing files, or correct the number"
        )


LAYOUT = Layout("nnU-Net", "imagesTr/NAME_0000.nii.gz, labelsTr/ and dataset.json", find)
