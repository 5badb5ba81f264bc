"""The commands of one place, with what they print: `segfed train`, `segfed predict`, `segfed evaluate`."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from segformer3d.allocator import keep_freed_memory
from segformer3d.cases import CaseFiles, find_cases, find_images
from segformer3d.dataset import SetAside, SiteData, prepare
from segformer3d.dicom.library import files_below, is_dicom
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.evaluation import Rival, evaluate
from segformer3d.fit import Fitted, Plan, fit
from segformer3d.held_out import published_cases
from segformer3d.inference import choose_device
from segformer3d.loading import Loaded, load_model, load_rival
from segformer3d.prediction import NIFTI, Prediction, Way, predict_cases
from segformer3d.protocols import choose_protocol
from segformer3d.report.evaluation_report import Circumstances, write_evaluation_report
from segformer3d.score_tables import print_groups, print_table
from segformer3d.settings import TrainingSettings
from segformer3d.strata import with_facts
from segformer3d.tasks import Task, adjust, choose_task
from segformer3d.terminal import make_console, plain_duration, progress_bar
from segformer3d.training import Step

CASES = ("all", "published")
LABEL_FORMATS = ("nifti", "dicom-seg")


def train_and_print(
    data: str,
    task: str | None,
    epochs: int,
    seed: int,
    validation_share: float,
    workers: int,
    leave_out_published: bool,
    quarantine: str | None,
    cache: str | None,
    device: str,
    config: Mapping[str, Any],
    out: str,
) -> None:
    """Train on one folder and leave `model.safetensors` in `out`.

    Raises:
        SegfedError: an option, the data or the disk is not as it must be.
    """
    unknown = sorted(set(config) - {"training", "model", "grid"})
    if unknown:
        raise ConfigurationError(f"unknown setting {unknown[0]!r}; train knows the tables training, model and grid")
    for name in config:
        if not isinstance(config[name], Mapping):
            raise ConfigurationError(f"{name} must be a table of settings, got {config[name]!r}")
    if epochs < 1 or seed < 0 or workers < 0 or not 0 <= validation_share < 1:
        raise ConfigurationError("--epochs takes 1 or more, --seed and --workers 0 or more, --validation-share [0, 1)")
    keep_freed_memory()
    console, folder = make_console(), Path(out)
    settings = TrainingSettings.from_json(config.get("training", {}))
    chosen = adjust(choose_task(task, Path(data)), config.get("model", {}), config.get("grid", {}))
    where = choose_device(device)
    with console.status("reading and checking the cases"):
        cases = prepare(
            Path(data),
            chosen,
            folder / "cache" if cache is None else Path(cache),
            validation_share=validation_share,
            workers=max(1, workers),
            leave_out_published=leave_out_published,
            quarantine=None if quarantine is None else Path(quarantine),
        )
    print_cases(console, cases)
    with progress_bar(console, "training") as bar:

        def on_step(step: Step) -> None:
            bar.show(step.number, step.steps, f"loss {step.loss:.3f}")

        fit(
            cases,
            chosen,
            settings,
            Plan(epochs, seed=seed),
            folder,
            device=where,
            workers=workers,
            on_part=lambda fitted: console.print(_epoch_line(fitted, epochs, chosen)),
            on_step=on_step,
        )
    console.print(f"The model is in {folder / 'model.safetensors'}", soft_wrap=True)


def predict_and_print(
    model: str,
    image: str,
    task: str | None,
    norms: str | None,
    contrast: Sequence[str],
    label_format: str,
    mirror: bool | None,
    device: str,
    out: str,
) -> None:
    """Write a label for each image at a path: NIfTI, or DICOM series.

    Raises:
        SegfedError: the model, the images or the disk are not as they must be.
    """
    keep_freed_memory()
    console, where = make_console(), choose_device(device)
    loaded = load_model(Path(model), task, norms)
    _say_whose_norms(console, model, loaded)
    network, chosen = loaded.network, loaded.task
    cases, refused, way = _find_sources(Path(image), chosen, contrast, label_format, Path(out), console)
    with progress_bar(console, "predicting") as bar:
        count = itertools.count(1)

        def on_case(result: Prediction | SetAside) -> None:
            bar.show(next(count), len(cases), "predicting")
            console.print(_prediction_line(result), soft_wrap=True)

        done, aside = predict_cases(network, chosen, cases, Path(out), where, on_case, way=way, mirror=mirror)
    count_aside = len(refused) + len(aside)
    console.print(f"{len(done)} predicted, {count_aside} set aside; labels are in {out}", soft_wrap=True)


def _find_sources(
    path: Path, task: Task, contrast: Sequence[str], label_format: str, out: Path, console: Console
) -> tuple[Sequence[Any], list[SetAside], Way[Any]]:
    """The cases at a path, what cannot be one, and how they are read and labels written; says what is to be known."""
    if label_format not in LABEL_FORMATS:
        raise ConfigurationError(f"--format must be {' or '.join(LABEL_FORMATS)}, got {label_format!r}")
    nifti = _find_nifti(path)
    if nifti and (contrast or label_format != "nifti"):
        raise ConfigurationError(f"--contrast and --format dicom-seg need DICOM series; {path} is none")
    if nifti:
        return nifti, [], NIFTI
    from segformer3d.dicom.predicting import WAYS, find_sources

    sources = find_sources(path, task, contrast, out)
    refused = [SetAside(item.name, item.reason) for item in sources.refused]
    lines = [
        *map(_prediction_line, refused),
        *sources.notes,
        f"{out / 'private'} says which series each name stands for",
    ]
    if label_format == "dicom-seg":
        lines.append("DICOM segmentations carry name and id of the patient, as their series do")
    for line in lines:
        console.print(line, soft_wrap=True)
    return sources.cases, refused, WAYS[label_format]


def _find_nifti(path: Path) -> Sequence[CaseFiles]:
    """NIfTI images, which go before DICOM; none where there are DICOM series instead."""
    if is_dicom(path):
        return ()
    try:
        return find_images(path)
    except DataError:
        if not any(map(is_dicom, files_below(path))):
            raise
        return ()


def evaluate_and_print(
    model: str,
    data: str,
    task: str | None,
    norms: str | None,
    cases: str,
    protocol: str | None,
    against: str | None,
    strata: str | None,
    mirror: bool | None,
    seed: int,
    device: str,
    out: str,
) -> None:
    """Measure a model on labelled cases, beside a second one if there is one, and leave tables and figures in `out`.

    `cases` is "all", or "published" for the held-out ones of the task's published protocol.

    Raises:
        SegfedError: the model, the data or the disk are not as they must be.
    """
    if seed < 0 or cases not in CASES:
        raise ConfigurationError(f"--seed takes 0 or more, --cases one of {', '.join(CASES)}; got {seed} and {cases!r}")
    keep_freed_memory()
    console, where = make_console(), choose_device(device)
    loaded = load_model(Path(model), task, norms)
    network, chosen = loaded.network, loaded.task
    measure = choose_protocol(chosen.name, protocol)
    _say_whose_norms(console, model, loaded)
    other = None if against is None else load_rival(Path(against), task)
    rival = None if other is None else Rival(str(against), other.network, other.task)
    if other is not None:
        _say_whose_norms(console, str(against), other)
    measured = find_cases(Path(data))
    if cases == "published":
        measured = published_cases(Path(data), measured, chosen.name)
    if strata is not None:
        measured = with_facts(measured, Path(strata))
    with progress_bar(console, "measuring") as bar:
        result = evaluate(
            network,
            chosen,
            measured,
            Path(out),
            device=where,
            seed=seed,
            mirror=mirror,
            protocol=measure,
            against=rival,
            on_case=lambda done, total: bar.show(done, total, "measuring"),
        )
    print_groups(result.strata, console)
    for fact in result.ungrouped:
        console.print(f"no groups: {fact}", soft_wrap=True)
    print_table(result, console)
    mirrored = chosen.mirror if mirror is None else mirror
    about = Circumstances.now(
        Path(model),
        Path(data),
        str(where),
        mirrored=mirrored,
        seed=seed,
        cases=cases,
        strata=strata,
        norms=loaded.norms,
        against_norms=None if other is None else other.norms,
    )
    page = write_evaluation_report(result, chosen, about, Path(out))
    console.print(f"Tables and figures are in {out}; the report is {page}", soft_wrap=True)


def _say_whose_norms(console: Console, path: str, loaded: Loaded) -> None:
    """A model of FedBN may do worse at a site whose norms it does not have."""
    if loaded.norms is not None:
        console.print(f"{path}: its norms are {loaded.norms}", soft_wrap=True, markup=False)


def print_cases(console: Console, data: SiteData, site: str = "") -> None:
    """Say how many cases are used, and which were set aside and why. For the screen of the place itself."""
    console.print(f"{site or 'cases'}: {data.describe()} ({len(data.train)} train, {len(data.validation)} validate)")
    for item in data.set_aside:
        console.print(f"  set aside {item.case}: {item.reason}", style="yellow", soft_wrap=True)


def dice_text(dice: Sequence[float], task: Task) -> str:
    """Dice per structure for people; "-" where no case tells it."""
    told = ("-" if math.isnan(value) else f"{value:.3f}" for value in dice)
    return ", ".join(f"{structure.name} {value}" for structure, value in zip(task.structures, told, strict=True))


def _epoch_line(fitted: Fitted, epochs: int, task: Task) -> str:
    training, validation = fitted.training, fitted.validation
    rate, waiting = training.samples / training.seconds, training.waited / training.seconds
    return (
        f"epoch {fitted.part}/{epochs}: loss {training.loss:.4f}, validation Dice {dice_text(validation.dice, task)}, "
        f"{plain_duration(training.seconds)} ({rate:.1f} samples/s, {waiting:.0%} waiting for data)"
    )


def _prediction_line(result: Prediction | SetAside) -> str:
    return f"{result.case}: {result.path if isinstance(result, Prediction) else 'set aside, ' + result.reason}"
