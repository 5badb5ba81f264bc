"""What `segfed privacy verify` reads, does and prints."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from client.privacy.mechanism import GRID
from client.privacy.noise import rounding_cost
from client.privacy.probes import mechanism_findings
from client.privacy.promise import fewest_patients, make_promise, read_promises
from client.privacy.settings import PrivacySettings
from client.privacy.verifier import Finding, Pipeline, Verdict, model_findings, verify
from segformer3d.checkpoint import load
from segformer3d.errors import CheckpointError, ConfigurationError, SegfedError
from segformer3d.fit import initial_model
from segformer3d.model import SegFormer3D
from segformer3d.tasks import Task, adjust, named_task, task_from_json
from segformer3d.terminal import make_console
from segformer3d.toml_file import read_toml

DEFAULT_ROUNDS = 20
_NO_LIMIT = float("inf")
_EXPECTED = "name a federation file, a run folder, or a TOML file with a [pipeline]"


class UnprovenError(SegfedError):
    """A claim that was to be verified cannot be proved."""


@dataclass(frozen=True)
class Configuration:
    """A private run, as far as its claim hangs on it. `pipeline` is what it says of itself where it is not segfed's."""

    task: Task
    rounds: int
    privacy: PrivacySettings
    pipeline: Pipeline


def verify_and_print(file: str, model: str | None) -> None:
    """Verify a federation file, a run folder, or the description of another training, with a model.

    Raises:
        ConfigurationError: the file is none of these, or a value breaks its rule.
        CheckpointError: the model cannot be read, or the run folder is damaged.
        UnprovenError: no claim can be proved.
    """
    asked = read_configuration(Path(file))
    verdict = verify_configuration(asked, load(model) if model else None)
    table = Table("check", "", "seen", title="what the claim hangs on", title_justify="left")
    for finding in verdict.findings:
        mark = Text("holds", "green") if finding.holds else Text("BROKEN", "bold red")
        table.add_row(finding.check, mark, Text(finding.seen))
    console = make_console()
    console.print(table)
    if verdict.claim is None:
        broken = [finding.check for finding in verdict.findings if not finding.holds]
        raise UnprovenError(f"nothing can be claimed: it is not so that {'; nor that '.join(broken)}")
    console.print(f"The claim: {verdict.claim}", soft_wrap=True, highlight=False)


def verify_configuration(asked: Configuration, model: SegFormer3D | None = None) -> Verdict:
    """Verify a configuration with this network, or with a fresh one of its task."""
    network = model or initial_model(asked.task, 0)
    channels = len(asked.task.modalities)
    findings = model_findings(network, asked.task.patch, channels)
    tried = (*mechanism_findings(network, asked.task, asked.privacy), _precision(asked, network))
    return verify(asked.pipeline, (*findings, *tried), claim_of(asked))


def _precision(asked: Configuration, network: SegFormer3D) -> Finding:
    """What numbers of a computer, which are not real ones, may add to the claim."""
    promise = make_promise(asked.privacy, asked.rounds, asked.privacy.patients, _NO_LIMIT, 1.0)
    size = sum(p.numel() for name, p in network.named_parameters() if asked.privacy.trains(name))
    more, _ = rounding_cost(size, promise.steps, promise.noise_multiplier * GRID, promise.noise_multiplier)
    told = f"{size} numbers a step add at most {more:.1e} to epsilon"
    return Finding("finite precision adds next to nothing", more <= _PRECISE * promise.epsilon, told)


_PRECISE = 1e-3


def claim_of(asked: Configuration) -> str:
    """What may be said of a run if all checks hold."""
    promise = make_promise(asked.privacy, asked.rounds, asked.privacy.patients, _NO_LIMIT, 1.0)
    return (
        f"a site's {asked.rounds} rounds of {asked.privacy.local_steps} steps are differentially private with epsilon "
        f"{promise.epsilon:.3f} and delta {promise.delta:g} for adding or removing one patient with all of his or her "
        f"scans, whoever sees everything that the site sends (noise multiplier {promise.noise_multiplier:g}, sampling "
        f"rate {promise.sampling_rate:g}, sums divided by {promise.patients}); that the site takes part, and how long "
        "it computes, is not covered"
    )


def read_configuration(path: Path) -> Configuration:
    """A federation file or the TOML file of a simulation, a run folder, or a file with a [pipeline].

    Raises:
        ConfigurationError: it is none of these, or a value breaks its rule.
        CheckpointError: the run folder is damaged.
    """
    values, patients = _run_settings(path) if path.is_dir() else (read_toml(path, _EXPECTED), None)
    settings = PrivacySettings.of_run(values, patients)
    if settings is None:
        raise ConfigurationError(f"{path} asks for no privacy: it needs a table [privacy] with an epsilon")
    pipeline = values.get("pipeline")
    own = Pipeline(noise=settings.noise) if pipeline is None else Pipeline.from_json(pipeline)
    return Configuration(_task(values, path.parent), int(values.get("rounds", DEFAULT_ROUNDS)), settings, own)


def _task(values: Mapping[str, Any], folder: Path) -> Task:
    task = values.get("task")
    if isinstance(task, Mapping):
        return task_from_json(task)
    if not isinstance(task, str):
        raise ConfigurationError('the file needs a task, for example task = "hippocampus"')
    return adjust(named_task(task, folder), {"norm": "group", **values.get("model", {})}, values.get("grid", {}))


def _run_settings(folder: Path) -> tuple[dict[str, Any], int | None]:
    """What a coordinator's run (`federation.json`) or a simulation (`run.json`) was asked to do.

    With it the patients of the smallest site of a simulation: they are known once they have been dealt out.
    """
    coordinated, simulated, summary = (folder / name for name in ("federation.json", "run.json", "summary.json"))
    if not (coordinated.is_file() or simulated.is_file()):
        raise ConfigurationError(f"{folder} is no run folder: it has neither federation.json nor run.json")
    try:
        if coordinated.is_file():
            return {**_json(coordinated)}, None
        run = _json(simulated)
        patients = fewest_patients(read_promises(_json(summary))) if summary.is_file() else None
        return {**run["settings"], "task": run["task"]}, patients
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} is damaged, or was made by another version ({error}); verify it with the version that made it"
        ) from error


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
