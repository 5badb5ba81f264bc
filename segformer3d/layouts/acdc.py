"""The layout of ACDC: `patient001/patient001_frame01.nii.gz` with `patient001_frame01_gt.nii.gz`, and `Info.cfg`.

A patient has two labelled frames, end of diastole (ED) and end of systole (ES), which are two cases of one patient.
`Info.cfg` says which is which, and the patient's group (NOR, MINF, DCM, HCM, RV). Bernard et al., "Deep Learning
Techniques for Automatic MRI Cardiac Multi-Structures Segmentation and Diagnosis", IEEE TMI 2018.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from segformer3d.layouts.files import CaseFiles, Found, Layout, case_name, existing, folders_in, nifti_files

_PATIENT = re.compile(r"patient\d{3}")
_FRAME = re.compile(r"(?P<patient>patient\d{3})_frame(?P<frame>\d+)")
_INFO = "Info.cfg"


def find(folder: Path) -> Found:
    """The labelled frames of every patient's folder; the film of the whole cycle (`_4d`) is no case."""
    patients = [place for place in folders_in(folder) if _PATIENT.fullmatch(place.name)]
    cases = tuple(case for place in patients for case in _frames(place))
    near = "patient folders are there, patient001_frame01.nii.gz or its like is in none of them" if patients else ""
    return Found(cases, "" if cases else near)


def _frames(folder: Path) -> list[CaseFiles]:
    files = {case_name(path): path for path in nifti_files(folder)}
    info, cases = _read_info(folder / _INFO), []
    for name, path in files.items():
        match = _FRAME.fullmatch(name)
        if match and match["patient"] == folder.name:
            cases.append(
                CaseFiles(
                    name,
                    (path,),
                    files.get(f"{name}_gt"),
                    folder.name,
                    ("MRI",),
                    _facts(info, int(match["frame"])),
                    existing(folder / _INFO),
                    "acdc",
                )
            )
    return cases


def patient_of_name(name: str) -> str | None:
    """The patient in the name of a frame."""
    match = _FRAME.fullmatch(name)
    return match["patient"] if match else None


def _read_info(path: Path) -> Mapping[str, str]:
    """Lines of `Name: value`; a file that is not there or not text tells nothing."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _facts(info: Mapping[str, str], frame: int) -> tuple[tuple[str, str], ...]:
    phase = next((name for name in ("ED", "ES") if info.get(name) == str(frame)), None)
    told = {"frame": phase, "group": info.get("Group")}
    return tuple((name, value) for name, value in told.items() if value)


LAYOUT = Layout("ACDC", "patient001/patient001_frame01.nii.gz with patient001_frame01_gt.nii.gz", find)
