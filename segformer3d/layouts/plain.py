"""The plain layout: `images/` with `labels/` beside it.

A case's files are `NAME.nii.gz`, or `NAME_0000.nii.gz`, `NAME_0001...` for several contrasts. An image without a label
and a label without an image are cases too: with a file missing.
"""

from pathlib import Path

from segformer3d.layouts.files import CaseFiles, Found, Layout, case_name, grouped_channels, nifti_files


def find(folder: Path) -> Found:
    """The cases of both folders together."""
    if not (folder / "images").is_dir():
        return Found(missing="labels/ is there, images/ is not") if (folder / "labels").is_dir() else Found()
    labels = {case_name(path): path for path in nifti_files(folder / "labels")}
    images = grouped_channels(nifti_files(folder / "images"), frozenset(labels))
    cases = tuple(
        CaseFiles(
            name,
            images.get(name, (folder / "images" / f"{name}.nii.gz",)),
            labels.get(name, folder / "labels" / f"{name}.nii.gz"),
        )
        for name in images | labels
    )
    return Found(cases, "" if cases else "images/ and labels/ hold no .nii.gz and no .nii file")


LAYOUT = Layout("plain", "images/ and labels/", find)
