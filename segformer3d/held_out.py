"""The held-out cases of the published protocols: what a model is compared on, and must never be trained on.

The lists (`held_out_splits.json`) are those of the SegFormer3D paper: the validation cases of its BraTS 2017
experiment, and the test patients of ACDC and test scans of Synapse that nnFormer fixed before it. Cases are known by
their name, in capitals or not, whatever stands before it, and whatever channel, frame or contrast comes after it.

A case is looked for in the list of the benchmark that the task is of, and in that of the benchmark whose files are
named like its own, whatever the task is called: one's own task on ACDC's files would train on ACDC's test patients.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from segformer3d.errors import ConfigurationError, DataError
from segformer3d.layouts.files import CaseFiles

# img0001 of BTCV is also known by its label's name, and as ABD_001 where nnU-Net converted it: word and digits.
_OTHER_SPELLINGS = {"img": (("label", 4), ("abd", 3))}
_CASES_OF_EACH = {"acdc": 2}  # both frames of a patient
# Names that tell their benchmark in a folder of any layout. patient002 or img0001 alone may be a hospital's own.
_TELLING = {
    "brats2017": re.compile(r"(?<![a-z0-9])brats[_-]?\d{3}(?!\d)"),
    "acdc": re.compile(r"(?<![a-z0-9])patient\d{3}_frame\d{2}"),
}

Cases = tuple[CaseFiles, ...]


class HeldOutError(DataError):
    """What the published protocol of a task holds out is to be trained on, or is not complete."""


@dataclass(frozen=True)
class HeldOut:
    """The held-out cases of one task.

    Attributes:
        task: its name.
        names: the cases, or the patients where each has several.
    """

    task: str
    names: tuple[str, ...]

    def name_of(self, case: CaseFiles) -> str | None:
        """Which of the held-out names a case has; None if it is free."""
        known = _spellings(self)
        for text in (case.name, case.patient or ""):
            # A name is its word and its digits, not inside another word and not the start of a longer number.
            for word in re.finditer(r"(?<![a-z0-9])([a-z]+)[_-]?(\d+)", text.lower()):
                if word.groups() in known:
                    return known[word.groups()]
        return None

    def missing(self, cases: Iterable[CaseFiles]) -> list[str]:
        """The held-out names that these cases do not complete."""
        found = [self.name_of(case) for case in cases]
        return [name for name in self.names if found.count(name) < _CASES_OF_EACH.get(self.task, 1)]

    def count(self, cases: Iterable[CaseFiles]) -> str:
        """How many of the names these cases have, in words."""
        what = "patients" if self.task in _CASES_OF_EACH else "cases"
        found = len({self.name_of(case) for case in cases} - {None})
        return f"{found} of the {len(self.names)} held-out {what} of the published {self.task} protocol"


def held_out_of(task: str) -> HeldOut | None:
    """What is held out of a task's benchmark; None for a task that has no published protocol."""
    names = _lists().get(task)
    return None if names is None else HeldOut(task, names)


def split_off(cases: Sequence[CaseFiles], task: str) -> tuple[Cases, Cases]:
    """Cases that a model of the task may be trained on, and those that a published protocol holds out."""
    taken = [_holder(case, task) is not None for case in cases]
    free, out = ([case for case, t in zip(cases, taken, strict=True) if t is wanted] for wanted in (False, True))
    return tuple(free), tuple(out)


def taken_by_protocol(cases: Iterable[CaseFiles], task: str) -> Mapping[HeldOut, Cases]:
    """The cases that published protocols hold out, by the list that they are on."""
    taken: dict[HeldOut, Cases] = {}
    for case in cases:
        published = _holder(case, task)
        if published is not None:
            taken[published] = (*taken.get(published, ()), case)
    return taken


def training_cases(folder: Path, cases: Sequence[CaseFiles], task: str, *, leave_out: bool) -> Cases:
    """The cases of a folder that a model of the task may be trained on.

    Raises:
        HeldOutError: some are held out, and `leave_out` does not ask for the others.
    """
    for published, taken in ({} if leave_out else taken_by_protocol(cases, task)).items():
        then = (
            "and measure on them with segfed evaluate --cases published"
            if published.task == task
            else "or give cases that only share these names others"
        )
        raise HeldOutError(
            f"{folder} contains {published.count(taken)} (the first: {taken[0].name}), and no model may train on what "
            "it is compared on; leave them out (--leave-out-published, or leave_out_published = true in site.toml) "
            f"{then}"
        )
    return split_off(cases, task)[0]


def published_cases(folder: Path, cases: Sequence[CaseFiles], task: str) -> Cases:
    """Exactly the held-out cases of the task's published protocol.

    Raises:
        ConfigurationError: the task has no published protocol.
        HeldOutError: some of its cases are not there.
    """
    published = held_out_of(task)
    if published is None:
        raise ConfigurationError(f"task {task} has no published protocol; there is one for {', '.join(_lists())}")
    return _complete(folder, published, taken_by_protocol(cases, task).get(published, ()))


def whole_lists(folder: Path, cases: Sequence[CaseFiles], task: str) -> Cases:
    """All cases that published protocols hold out, of whichever benchmark; none where none is there.

    Raises:
        HeldOutError: some of a protocol's cases are there, and not all.
    """
    taken = taken_by_protocol(cases, task).items()
    return tuple(case for published, some in taken for case in _complete(folder, published, some))


def _complete(folder: Path, published: HeldOut, taken: Cases) -> Cases:
    missing = published.missing(taken)
    if missing:
        raise HeldOutError(
            f"{folder} contains {published.count(taken)}, {len(missing)} are missing or incomplete (the first: "
            f"{missing[0]}), and the published numbers are of all of them; complete them, or leave them out of a "
            "federation with --leave-out-published"
        )
    return taken


def _holder(case: CaseFiles, task: str) -> HeldOut | None:
    """The list that a case is on, the task's own first; None if it is free."""
    named = (benchmark for benchmark, telling in _TELLING.items() if telling.search(case.name.lower()))
    for benchmark in dict.fromkeys((task, *filter(None, (case.benchmark,)), *named)):
        published = held_out_of(benchmark)
        if published is not None and published.name_of(case) is not None:
            return published
    return None


@cache
def _lists() -> Mapping[str, tuple[str, ...]]:
    text = files("segformer3d").joinpath("held_out_splits.json").read_text(encoding="utf-8")
    return {task: tuple(told["held_out"]) for task, told in json.loads(text).items()}


@cache
def _spellings(published: HeldOut) -> Mapping[tuple[str | None, ...], str]:
    """Word and digits of every name, in every spelling."""
    spellings: dict[tuple[str | None, ...], str] = {}
    for name in published.names:
        word, digits = re.findall(r"[a-z]+|\d+", name.lower())
        spellings[word, digits] = name
        spellings |= {(other, digits[-width:]): name for other, width in _OTHER_SPELLINGS.get(word, ())}
    return spellings
