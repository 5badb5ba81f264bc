"""The codes by which DICOM knows the structures of tasks (SNOMED CT, DICOM PS3.16 CID 7150 and 7151)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.sr.coding import Code

# Structures by name, with the keyword of their code in pydicom's dictionary of SNOMED CT.
_ANATOMY = {
    "anterior": "Hippocampus",
    "posterior": "Hippocampus",
    "aorta": "Aorta",
    "gallbladder": "Gallbladder",
    "spleen": "Spleen",
    "left kidney": "Kidney",
    "right kidney": "Kidney",
    "liver": "Liver",
    "stomach": "Stomach",
    "pancreas": "Pancreas",
    "esophagus": "Esophagus",
    "inferior vena cava": "InferiorVenaCava",
    "portal vein": "PortalVein",
    "adrenal gland": "AdrenalGland",
    "left ventricle": "LeftVentricle",
    "right ventricle": "RightVentricle",
    "myocardium": "LeftVentricleMyocardium",
}
_LESIONS = {
    "whole tumour": "Neoplasm",
    "tumour core": "Neoplasm",
    "enhancing tumour": "Neoplasm",
    "edema": "Edema",
    "necrosis": "Necrosis",
}
# What has no code here gets one of ours: scheme designators that begin with 99 are anybody's (PS3.16 8.2).
OWN_SCHEME = "99SEGFED"


def codes_of(structure: str) -> "tuple[Code, Code]":
    """Category and type of a structure. The segment's label tells those apart that share a code."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    name = structure.casefold()
    if name in _LESIONS:
        return codes.SCT.MorphologicallyAbnormalStructure, getattr(codes.SCT, _LESIONS[name])
    if name in _ANATOMY:
        return codes.SCT.AnatomicalStructure, getattr(codes.SCT, _ANATOMY[name])
    return codes.SCT.Tissue, Code("-".join(name.split()), OWN_SCHEME, structure[:64])
