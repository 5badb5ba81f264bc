"""`segfed data check`: the data gate, with what it prints."""

import shlex
from pathlib import Path

from segformer3d.allocator import keep_freed_memory
from segformer3d.data_check.check import Checked, check_folder
from segformer3d.data_check.report import print_report, write_report
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.quarantine import QUARANTINE_FILE
from segformer3d.tasks import choose_task
from segformer3d.terminal import make_console, progress_bar

CHECKS = "data-check"  # where checks are kept without --out


class UnusableCasesError(DataError):
    """Some cases of a folder must not be used."""


def check_and_print(
    folder: str,
    task: str | None,
    against: str | None,
    quarantine: str | None,
    patient_pattern: str | None,
    workers: int | None,
    out: str | None,
) -> None:
    """Check a dataset folder, print what was found, and leave tables and pictures in `out`.

    Raises:
        UnusableCasesError: cases were found that must not be used, and are on no quarantine list yet.
        SegfedError: an option, the data or the disk is not as it must be.
    """
    if workers is not None and workers < 1:
        raise ConfigurationError(f"--workers must be 1 or more, got {workers}")
    keep_freed_memory()
    console = make_console()
    place = Path(CHECKS) / Path(folder).resolve().name if out is None else Path(out)
    with progress_bar(console, "checking the cases") as bar:
        checked = check_folder(
            Path(folder),
            choose_task(task, Path(folder)),
            against=None if against is None else Path(against),
            quarantine=None if quarantine is None else Path(quarantine),
            patient_pattern=patient_pattern,
            workers=workers,
            on_case=lambda done, total: bar.show(done, total, "checking the cases"),
        )
    print_report(checked, console)
    write_report(checked, place)
    with console.status("drawing"):
        from segformer3d.data_check.pictures import draw  # matplotlib takes a second to load

        draw(checked, place)
    console.print(
        f"Tables and pictures are in {place}. They name cases and show images: keep them here.", soft_wrap=True
    )
    _end(checked, place)


def _end(checked: Checked, place: Path) -> None:
    wrong = len(checked.quarantine()) - len(checked.listed)
    if wrong:
        copy = shlex.join(["cp", str(place / QUARANTINE_FILE), str(checked.folder)])
        raise UnusableCasesError(
            f"{wrong} of {checked.looked_at} cases must not be used; mend them, or leave them out: {copy} (where the "
            f'folder cannot be written to: quarantine = "{place.resolve() / QUARANTINE_FILE}" in site.toml)'
        )
