"""The rules of the data gate, all on one page: how grave it is to break one, and what to do about it.

An error means that the case cannot be used, or must not: it goes on the quarantine list. A warning asks somebody to
look; most of them are about cases that differ from the others, and such a case may be perfectly right. A note says what
is good to know.
"""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How grave a finding is, gravest first."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Rule:
    """One thing that is looked at. `remedy` is what to do where it is broken."""

    name: str
    severity: Severity
    remedy: str


@dataclass(frozen=True)
class Finding:
    """A rule that is broken. `case` is None where it is the dataset that breaks it; `found` is one line."""

    rule: Rule
    case: str | None
    found: str


_ERROR, _WARNING, _NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

UNREADABLE = Rule("unreadable", _ERROR, "do what the line says, or leave the case out")
NO_LABEL = Rule("no-label", _ERROR, "draw one, or leave the case out")
FLAT = Rule("single-slice", _ERROR, "export the whole series: one slice is no volume")
SAME_CONTRAST = Rule("same-contrast", _ERROR, "export the case again, each contrast from its own series")
DUPLICATE = Rule("duplicate", _ERROR, "keep one of them, with the right label")
HELD_OUT = Rule("held-out", _ERROR, "leave the case out: a model must not train on what it is measured with")

CLIPPED = Rule("clipped", _WARNING, "export again without a window and without a limit to the values")
FEW_LEVELS = Rule("few-levels", _WARNING, "see whether a label map or a screenshot stands in for the image")
MOSTLY_EMPTY = Rule("mostly-empty", _WARNING, "see whether the brain or body was lost when the background was removed")
SPACING = Rule("spacing", _WARNING, "compare the header with the scanner's protocol; correct it or leave the case out")
FIELD = Rule("field-of-view", _WARNING, "see whether the scan was cropped or padded, or its spacing is wrong")
TILTED = Rule("tilted", _WARNING, "see whether the affine is right; if so, resample the case to the patient's axes")
SHEARED = Rule("sheared", _WARNING, "correct the gantry tilt: resample the case to a grid of right angles")
INTENSITY = Rule("intensity", _WARNING, "see whether the rescale slope and intercept were lost")
HISTOGRAM = Rule("unlike-histogram", _WARNING, "look at the picture: another contrast, an artefact, a wrong export?")
BRIGHTNESS = Rule("brightness", _WARNING, "see whether image and label belong together, and the contrast is right")
ANOTHER_CONTRAST = Rule("another-contrast", _WARNING, "look at the picture; if so, export the right series")
SWAPPED = Rule("swapped-contrasts", _WARNING, "look at the picture; if so, put the contrasts in the task's order")
EMPTY_LABEL = Rule("empty-label", _WARNING, "see whether the label was saved empty; if the case is healthy, keep it")
MISSING = Rule("missing-structure", _WARNING, "see whether the structure was forgotten, or has another label value")
VOLUME = Rule("volume", _WARNING, "look at the label: wrong spacing, a stray click, or an unusual patient?")
PIECES = Rule("pieces", _WARNING, "look at the label for stray voxels")
AT_EDGE = Rule("at-the-edge", _WARNING, "see whether the scan was cropped too tightly")
OUTSIDE = Rule("label-outside", _WARNING, "see whether the label belongs to this image")
ALIKE = Rule("alike", _WARNING, "see whether the two are one scan, or one patient; name the patient if so")
BOTH_SIDES = Rule(
    "patient-on-both-sides", _WARNING, 'name the "patient" in dataset.json, or set patient_pattern in site.toml'
)

MIXED_SPACING = Rule("mixed-spacing", _NOTE, "set a spacing for the task if results differ between the groups")
MIXED_AXES = Rule("mixed-orientation", _NOTE, "nothing: every case is brought to the same axes")
MIXED_SCALES = Rule("mixed-scales", _NOTE, "nothing: every case is scaled by itself")
OFTEN = Rule("often", _NOTE, "nothing, if this is how the structure or the scans are")
NOT_JUDGED = Rule("not-judged", _NOTE, "nothing; more cases would tell")
QUARANTINED = Rule("quarantined", _NOTE, "nothing: the list keeps them from use")
PUBLISHED = Rule("published-held-out", _NOTE, "nothing: training refuses them, or leaves them out where asked to")
OTHER_UNREADABLE = Rule("held-out-unreadable", _NOTE, "check that folder by itself")

RULES = (
    UNREADABLE,
    NO_LABEL,
    FLAT,
    SAME_CONTRAST,
    DUPLICATE,
    HELD_OUT,
    CLIPPED,
    FEW_LEVELS,
    MOSTLY_EMPTY,
    SPACING,
    FIELD,
    TILTED,
    SHEARED,
    INTENSITY,
    HISTOGRAM,
    BRIGHTNESS,
    ANOTHER_CONTRAST,
    SWAPPED,
    EMPTY_LABEL,
    MISSING,
    VOLUME,
    PIECES,
    AT_EDGE,
    OUTSIDE,
    ALIKE,
    BOTH_SIDES,
    MIXED_SPACING,
    MIXED_AXES,
    MIXED_SCALES,
    OFTEN,
    NOT_JUDGED,
    QUARANTINED,
    PUBLISHED,
    OTHER_UNREADABLE,
)
