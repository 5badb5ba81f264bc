"""The data gate as a whole: measure every case of a folder, once, and hold the rules against what was found."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from segformer3d.case_checks import for_task
from segformer3d.cases import find_cases
from segformer3d.data_check.case_rules import check_case
from segformer3d.data_check.cohort_rules import check_cohort
from segformer3d.data_check.contrasts import check_contrasts
from segformer3d.data_check.duplicates import check_twins, find_twins
from segformer3d.data_check.facts import CaseFacts, Refused
from segformer3d.data_check.measure import measure_case
from segformer3d.data_check.rules import (
    NO_LABEL,
    OTHER_UNREADABLE,
    PUBLISHED,
    QUARANTINED,
    RULES,
    UNREADABLE,
    Finding,
    Severity,
)
from segformer3d.data_check.sides import check_patients, check_sides, validation_names
from segformer3d.data_check.twins import Twins
from segformer3d.held_out import taken_by_protocol
from segformer3d.lacks import check_lacks, present_task
from segformer3d.layouts.files import CaseFiles
from segformer3d.patients import with_patients
from segformer3d.processes import choose_processes, map_cases
from segformer3d.quarantine import with_quarantine
from segformer3d.task import Task

OnCase = Callable[[int, int], None]


@dataclass(frozen=True)
class Checked:
    """What the gate found.

    Attributes:
        folder: the dataset.
        task: what it is for.
        cases: the facts of those that can be read, by name.
        findings: gravest first, then by rule and by name.
        twins: cases that are one scan or look like it; indices of `cases`, those beyond are of the other folder.
        listed: why cases are on the quarantine list already; they were not looked at.
    """

    folder: Path
    task: Task
    cases: tuple[CaseFacts, ...]
    findings: tuple[Finding, ...]
    twins: tuple[Twins, ...]
    listed: Mapping[str, str]

    @property
    def usable(self) -> list[CaseFacts]:
        """Those that may be used."""
        unusable = self.quarantine()
        return [case for case in self.cases if case.name not in unusable]

    @property
    def looked_at(self) -> int:
        """How many cases were read, or tried."""
        return len(self.cases) + sum(finding.rule is UNREADABLE for finding in self.findings)

    def having(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.rule.severity is severity]

    def quarantine(self) -> dict[str, str]:
        """Reasons by case: those that are listed, and those that must not be used, with the gravest reason."""
        reasons = dict(self.listed)
        for finding in self.having(Severity.ERROR):
            if finding.case is not None:
                reasons.setdefault(finding.case, f"{finding.rule.name}: {finding.found}")
        return reasons


def check_folder(
    folder: Path,
    task: Task,
    *,
    against: Path | None = None,
    quarantine: Path | None = None,
    patient_pattern: str | None = None,
    workers: int | None = None,
    on_case: OnCase | None = None,
) -> Checked:
    """Check a dataset folder.

    Args:
        folder: a dataset in a layout that `find_cases` knows.
        task: what is segmented in what.
        against: a folder with cases that must not be in it: what a model is measured with.
        quarantine: a list of cases that are not looked at, beside the one in the folder.
        patient_pattern: what of a case's name is the patient, see `segformer3d.patients`.
        workers: processes that read cases at the same time; None chooses.
        on_case: told how many cases of how many are measured.

    Raises:
        DataError: a folder is no dataset, a list cannot be read, a case's name does not match the pattern, or what a
            dataset says that it lacks is not of the task.
    """
    found = with_quarantine(find_cases(folder), quarantine)
    check_lacks(found[0].lacks, task)
    found, task = _as_complete(found), present_task(task, found[0].lacks)
    plain = [case for case in found if case.quarantined is None]
    files = with_patients(plain, patient_pattern)
    others = () if against is None else with_patients(_as_complete(find_cases(against)), patient_pattern)
    measured = _measure([*files, *others], task, workers, on_case)
    ours, theirs = _readable(files, measured, task), _readable(others, measured[len(files) :], task)
    cases = [facts for facts, _ in ours]
    twins = find_twins([*ours, *theirs], len(ours))
    copies = {pair.other for pair in twins if pair.same}
    once = [case for index, case in enumerate(cases) if index not in copies]  # copies would say what is usual
    validation = validation_names([case for case in plain if case.name in {facts.name for facts in cases}])
    findings = [
        *_check_files(found, files, measured, task),
        *(finding for facts in cases for finding in check_case(facts, task)),
        *check_cohort(once, task),
        *check_contrasts(once, task),
        *check_twins([facts for facts, _ in (*ours, *theirs)], twins, len(ours), validation),
        *check_sides(cases, validation),
        *check_patients(ours, [facts for facts, _ in theirs]),
        *_check_others(len(others), len(theirs)),
    ]
    listed = {case.name: case.quarantined for case in found if case.quarantined is not None}
    return Checked(folder, task, tuple(cases), tuple(sorted(set(findings), key=_gravity)), tuple(twins), listed)


def _as_complete(found: Sequence[CaseFiles]) -> tuple[CaseFiles, ...]:
    """The cases as those of a task without the contrasts that they lack: of these nothing can be wrong."""
    return tuple(replace(case, lacks=replace(case.lacks, absent=())) for case in found)


def _measure(
    files: Sequence[CaseFiles], task: Task, workers: int | None, on_case: OnCase | None
) -> list[CaseFacts | Refused]:
    done = iter(range(1, len(files) + 1))

    def tell(_: object) -> None:
        if on_case is not None:
            on_case(next(done), len(files))

    processes = choose_processes(path for case in files for path in case.paths) if workers is None else workers
    return map_cases(partial(measure_case, task=task), files, processes, tell)


def _readable(
    files: Sequence[CaseFiles], measured: Sequence[CaseFacts | Refused], task: Task
) -> list[tuple[CaseFacts, CaseFiles]]:
    """The cases that can be read, with their files in the order of the task's contrasts."""
    both = zip(files, measured, strict=False)
    return [(facts, for_task(case, task)) for case, facts in both if isinstance(facts, CaseFacts)]


def _check_files(
    found: Sequence[CaseFiles], files: Sequence[CaseFiles], measured: Sequence[CaseFacts | Refused], task: Task
) -> Iterator[Finding]:
    for case, facts in zip(files, measured, strict=False):
        if isinstance(facts, Refused):
            yield Finding(UNREADABLE, case.name, facts.reason)
        elif facts.structures is None:
            yield Finding(NO_LABEL, case.name, "it has no label, so nothing can be learnt from it")
    if len(files) < len(found):
        yield Finding(
            QUARANTINED, None, f"{len(found) - len(files)} cases are on the quarantine list, and not looked at"
        )
    for published, taken in taken_by_protocol(files, task.name).items():
        held_out = f"{len(taken)} cases are held out by the published protocol of task {published.task}"
        yield Finding(PUBLISHED, None, held_out)


def _check_others(count: int, readable: int) -> Iterator[Finding]:
    if readable < count:
        found = f"{count - readable} of {count} cases of the other folder cannot be read, and are not compared with"
        yield Finding(OTHER_UNREADABLE, None, found)


def _gravity(finding: Finding) -> tuple[int, int, str, str]:
    severities = tuple(Severity)
    return severities.index(finding.rule.severity), RULES.index(finding.rule), finding.case or "", finding.found
