"""`segfed data import`, with what it prints.

What is printed is often kept in logs, so it holds neither paths below the given folders nor anything of the headers
but numbers: series and patients have their pseudonyms, and the private folder says what those stand for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from segformer3d.dicom.importing import Imported, Order, import_series
from segformer3d.dicom.pseudonyms import PRIVATE
from segformer3d.dicom.selection import Refused, contrast_wishes, read_wishes
from segformer3d.errors import ConfigurationError
from segformer3d.tasks import named_task
from segformer3d.terminal import make_console


def import_and_print(
    source: Sequence[str], out: str, task: str | None, contrast: Sequence[str], structure: Sequence[str]
) -> None:
    """Import DICOM series into a dataset folder.

    Raises:
        SegfedError: an option, the data or the disk is not as it must be.
    """
    console = make_console()
    order = _order(source, out, task, contrast, structure)
    with console.status("reading headers") as status:
        imported = import_series(
            order,
            on_file=lambda files: status.update(f"reading headers: {files} files"),
            on_case=lambda result: console.print(_line(result), soft_wrap=True, markup=False),
        )
    _print_summary(console, imported, order)


def _order(
    source: Sequence[str], out: str, task: str | None, contrast: Sequence[str], structure: Sequence[str]
) -> Order:
    chosen = named_task(task) if task is not None else None
    if structure and chosen is None:
        raise ConfigurationError("--structure needs --task, which says what the structures' label values are")
    names = [named.name for named in chosen.structures] if chosen else None
    structures = read_wishes("--structure", structure, names)
    return Order(tuple(map(Path, source)), Path(out), chosen, contrast_wishes(contrast, chosen), structures)


def _line(result: Mapping[str, Any] | Refused) -> str:
    if isinstance(result, Refused):
        return f"refused {result.name}: {result.reason}"
    first = result["images"][0]
    columns, rows, slices = first["shape"]
    spacing = " x ".join(f"{mm:.4g}" for mm in first["spacing_mm"])
    parts = [f"{slices} slices of {columns} x {rows}", f"{spacing} mm", first["modality"]]
    parts += [f"{len(result['images'])} contrasts"] if len(result["images"]) > 1 else []
    parts += ["labelled"] if result["label"] else []
    return f"{result['case']}: {', '.join(parts)}" + "".join(f"; note: {note}" for note in result["notes"])


def _print_summary(console: Console, imported: Imported, order: Order) -> None:
    found, selected = imported.found, imported.selected
    patients = {case["patient"] for case in imported.cases}
    labelled = sum(1 for case in imported.cases if case["label"])
    lines = [
        f"files: {found.files}; series: {len(found.series)}, label objects: {len(found.labels)}, {_others(imported)}",
        f"imported: {len(imported.cases)} (patients {len(patients)}, labelled {labelled}); "
        f"refused: {len(imported.refused)}; not asked for: {selected.not_asked}",
    ]
    if found.labels and order.task is None:
        lines.append("labels were left out: say --task, which says what their label values are")
    if selected.stray_labels:
        lines.append(f"label objects about series that are not here, left out: {selected.stray_labels}")
    lines += [
        f"The dataset is in {order.out} (images/, labels/, dataset.json, manifest.json). {order.out / PRIVATE} holds "
        "the key of the names and what they stand for: keep it at the hospital, and leave it out of any copy",
        "Faces are not removed, and this is no certificate of de-identification (docs/dicom.md)",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def _others(imported: Imported) -> str:
    found = imported.found
    numbers = {"no DICOM": found.not_dicom, "damaged": found.damaged, "copies": found.copies, **found.others}
    return ", ".join(f"{kind}: {number}" for kind, number in numbers.items() if number) or "nothing else"
