"""Which series make up a case: each for itself, or the contrasts of one study as the user describes them."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from segformer3d.dicom.checks import Scan, check_series
from segformer3d.dicom.instances import Instance
from segformer3d.dicom.pseudonyms import Pseudonyms
from segformer3d.dicom.series import Found, Series
from segformer3d.errors import CaseError, ConfigurationError
from segformer3d.tasks import Task


@dataclass(frozen=True)
class Wish:
    """A name of ours, and a pattern (`*FLAIR*`) for what it is called in DICOM; capitals do not matter."""

    name: str
    pattern: str

    def fits(self, texts: Collection[str]) -> bool:
        """Whether one of the texts is of the pattern."""
        return any(fnmatchcase(text.casefold(), self.pattern.casefold()) for text in texts)


@dataclass(frozen=True)
class Case:
    """What becomes one image.

    Attributes:
        name: made of pseudonyms.
        patient: the patient's pseudonym, or None where the files name no patient.
        scans: one for each contrast, all on one grid.
        labels: the segmentations and structure sets that are about one of the scans.
    """

    name: str
    patient: str | None
    scans: tuple[Scan, ...]
    labels: tuple[Instance, ...]


@dataclass(frozen=True)
class Refused:
    """A series, a study or a case that is not used, by its pseudonym, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Selected:
    """The cases of what was found, what was refused, and how much was not asked for.

    Attributes:
        cases: by name.
        refused: in the order in which they were found.
        not_asked: series that no wish fits.
        stray_labels: label objects that are about no scan here.
    """

    cases: tuple[Case, ...]
    refused: tuple[Refused, ...]
    not_asked: int
    stray_labels: int


def read_wishes(option: str, texts: Sequence[str], names: Sequence[str] | None) -> tuple[Wish, ...]:
    """Wishes from the command line, `NAME=PATTERN` each.

    Args:
        option: what they were given with, for messages.
        texts: as they were given.
        names: the names that there are, in the order in which wishes are returned; None takes any, in their order.

    Raises:
        ConfigurationError: one is no such text, has an unknown name, or a name that another one has, too.
    """
    wishes = [_read_wish(option, text, names) for text in texts]
    given = [wish.name for wish in wishes]
    if len(set(given)) < len(given):
        raise ConfigurationError(f"{option} names {max(given, key=given.count)} twice; give each name one pattern")
    return tuple(wishes if names is None else sorted(wishes, key=lambda wish: names.index(wish.name)))


def contrast_wishes(texts: Sequence[str], task: Task | None) -> tuple[Wish, ...]:
    """What `--contrast` asks for: every contrast of the task, in its order; nothing asks for every series.

    Raises:
        ConfigurationError: see `read_wishes`; or the task has contrasts that are not asked for.
    """
    wishes = read_wishes("--contrast", texts, None if task is None else task.modalities)
    missing = set(task.modalities) - {wish.name for wish in wishes} if task else set()
    if task is not None and missing and (wishes or len(task.modalities) > 1):
        example = " ".join(f'--contrast "{name}=*{name}*"' for name in task.modalities)
        raise ConfigurationError(
            f"task {task.name} takes {len(task.modalities)} contrasts; say how the series of each is described, "
            f"for example {example}"
        )
    return wishes


def modality_of(contrast: str) -> str:
    """The DICOM modality that a task's contrast is taken with: CT, PT, or MR for all others."""
    words = set(re.split(r"[^a-z]+", contrast.casefold()))
    return "CT" if "ct" in words else "PT" if words & {"pt", "pet"} else "MR"


def select(found: Found, pseudonyms: Pseudonyms, wishes: Sequence[Wish], task: Task | None) -> Selected:
    """The cases among the series that were found.

    Args:
        found: see `find_series`.
        pseudonyms: names of the output folder.
        wishes: the contrasts of a case; none makes every series a case.
        task: decides which modality a series must have; None takes any.
    """
    scans: list[tuple[Scan, str]] = []
    refused: list[Refused] = []
    asked = [(series, contrasts) for series in found.series if (contrasts := _contrasts(series, wishes))]
    for series, contrasts in asked:
        try:
            scans.append(_scan(series, contrasts, task))
        except CaseError as error:
            refused.append(Refused(pseudonyms.series(series.uid), str(error)))
    if wishes:
        cases, incomplete = _studies(scans, pseudonyms, wishes, found.labels)
        refused += incomplete
    else:
        cases = [_case((scan,), pseudonyms.series(scan.series.uid), pseudonyms, found.labels) for scan, _ in scans]
    known = {series.uid for series in found.series}
    return Selected(
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        refused=tuple(refused),
        not_asked=len(found.series) - len(asked),
        stray_labels=sum(1 for label in found.labels if not known & set(label.references)),
    )


def notes_of(case: Case) -> list[str]:
    """What should be known of a case's scans."""
    return [note for scan in case.scans for note in scan.notes]


def _read_wish(option: str, text: str, names: Sequence[str] | None) -> Wish:
    name, equals, pattern = (part.strip() for part in text.partition("="))
    if not (name and equals and pattern):
        raise ConfigurationError(f'{option} takes NAME=PATTERN, for example "flair=*FLAIR*", got {text!r}')
    known = {known.casefold(): known for known in names or (name,)}
    if name.casefold() not in known:
        raise ConfigurationError(f"{option} knows {', '.join(known.values())}, got {name!r}")
    return Wish(known[name.casefold()], pattern)


def _contrasts(series: Series, wishes: Sequence[Wish]) -> list[str]:
    texts = {text for instance in series.instances for text in instance.texts if text}
    return [wish.name for wish in wishes if wish.fits(texts)] if wishes else [""]


def _scan(series: Series, contrasts: Sequence[str], task: Task | None) -> tuple[Scan, str]:
    if len(contrasts) > 1:
        raise CaseError(f"its description fits {' and '.join(contrasts)}; make the patterns of --contrast narrower")
    modality = modality_of(contrasts[0] or task.modalities[0]) if task else None
    return check_series(series, modality), contrasts[0]


def _studies(
    scans: Sequence[tuple[Scan, str]], pseudonyms: Pseudonyms, wishes: Sequence[Wish], labels: Sequence[Instance]
) -> tuple[list[Case], list[Refused]]:
    studies: defaultdict[str, defaultdict[str, list[Scan]]] = defaultdict(lambda: defaultdict(list))
    for scan, contrast in scans:
        studies[scan.first.study][contrast].append(scan)
    cases, refused = [], []
    for study, contrasts in studies.items():
        try:
            cases.append(_case(_one_of_each(contrasts, wishes), pseudonyms.study(study), pseudonyms, labels))
        except CaseError as error:
            refused.append(Refused(pseudonyms.study(study), str(error)))
    return cases, refused


def _one_of_each(contrasts: Mapping[str, Sequence[Scan]], wishes: Sequence[Wish]) -> tuple[Scan, ...]:
    for wish in wishes:
        if not contrasts.get(wish.name):
            raise CaseError(f"the study has no usable series for contrast {wish.name}; every case needs all contrasts")
        if len(contrasts[wish.name]) > 1:
            raise CaseError(
                f"the study has {len(contrasts[wish.name])} series for contrast {wish.name}; make its pattern "
                "narrower, or leave one out"
            )
    scans = tuple(contrasts[wish.name][0] for wish in wishes)
    if len({scan.first.patient for scan in scans}) > 1:
        raise CaseError("the study holds series of several patients; correct the patient ids at the source")
    for wish, scan in zip(wishes[1:], scans[1:], strict=True):
        if not scans[0].grid.same(scan.grid):
            raise CaseError(
                f"{wishes[0].name} and {wish.name} lie on different grids; register and resample them to one grid, "
                "and bring them as NIfTI"
            )
    return scans


def _case(scans: tuple[Scan, ...], name: str, pseudonyms: Pseudonyms, labels: Sequence[Instance]) -> Case:
    patient = pseudonyms.patient(scans[0].first.patient) if scans[0].first.patient else None
    uids = {scan.series.uid for scan in scans}
    about = tuple(label for label in labels if uids & set(label.references))
    return Case(f"{patient}_{name}" if patient else name, patient, scans, about)
