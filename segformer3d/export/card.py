"""The model card: what a model is, what it was made from, how good it is, and what it must not be used for.

After Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019). Every fact comes from the model's file, the
records of its run, or an evaluation; what none of them says is None, which the text calls "not stated". A card names no
patient and no case.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segformer3d.checkpoint import weights_sha256
from segformer3d.errors import ConfigurationError
from segformer3d.export.evaluation_facts import METRICS_FILE, EvaluationFacts, read_evaluation
from segformer3d.export.graph import Agreement
from segformer3d.export.run_facts import RunFacts, is_run_folder, read_run
from segformer3d.loading import Loaded
from segformer3d.model_description import read_notes
from segformer3d.tasks import Task

FORMAT = "segfed-model-card-1"


@dataclass(frozen=True)
class ExportedFile:
    """A file that the card comes with.

    Attributes:
        name: in the folder.
        bytes, sha256: its size and hash.
        check: how near its logits are to the model's; None where it holds the weights themselves.
    """

    name: str
    bytes: int
    sha256: str
    check: Agreement | None = None


@dataclass(frozen=True)
class Card:
    """All that is known of a model.

    Attributes:
        segfed: the version that wrote the card.
        task: what is segmented in what.
        norm: "batch" or "group".
        norms: whose norms these are, where sites have kept their own (FedBN).
        parameters: how many.
        weights_sha256: of names, shapes and values, see `segformer3d.checkpoint.weights_sha256`.
        round: of its run that the model came out of.
        run: where it came from.
        evaluation: how good it is.
        licence: of the weights.
        files: that were exported.
    """

    segfed: str
    task: Task
    norm: str
    parameters: int
    weights_sha256: str
    round: int | None = None
    run: RunFacts | None = None
    norms: str | None = None
    evaluation: EvaluationFacts | None = None
    licence: str | None = None
    files: tuple[ExportedFile, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of `model_card.json`: plain JSON values, null for what is not stated."""
        plain = {"format": FORMAT, **asdict(self), "task": self.task.to_json()}
        return json.loads(json.dumps(plain, allow_nan=False))  # type: ignore[no-any-return]


def make_card(path: Path, loaded: Loaded, run: Path | None, evaluation: Path | None, licence: str | None) -> Card:
    """Gather what is known of a model.

    Args:
        path: the model's file.
        loaded: what it holds, with the norms that were chosen.
        run: the folder of its run; None looks beside the model.
        evaluation: a folder of `segfed evaluate`; None takes that of the run where it measured these very weights.
        licence: of the weights.

    Raises:
        ConfigurationError: run or evaluation are another model's.
        DataError: one of them cannot be read.
    """
    notes, model, task = read_notes(path), loaded.network, loaded.task
    sha256 = weights_sha256(model.state_dict())
    folder = run or path.parent
    facts = _run_of(notes, folder, asked=run is not None)
    if evaluation is None:
        measured = _evaluation(facts, sha256, folder, task)
    else:
        measured = read_evaluation(evaluation, task, sha256, held_out=False)
    return Card(
        segfed=version("segfed"),
        task=task,
        norm=model.config.norm,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weights_sha256=sha256,
        round=notes.get("round"),
        run=facts,
        norms=loaded.norms,
        evaluation=measured,
        licence=licence,
    )


def _run_of(notes: Mapping[str, Any], folder: Path, *, asked: bool) -> RunFacts | None:
    """The run in a folder, if it is the one that the model's notes name. One that merely lies beside it need not be."""
    if not asked and not is_run_folder(folder):
        return None
    facts = read_run(folder, notes.get("round"))
    if "run" in notes and facts.run in (None, notes["run"]):
        return facts
    if asked:
        own = f"is of run {notes['run']}" if "run" in notes else "does not say what run it is of"
        raise ConfigurationError(
            f"{folder} holds run {facts.run or 'without a name'}, and the model {own}; leave --run out"
        )
    return None


def _evaluation(run: RunFacts | None, sha256: str, folder: Path, task: Task) -> EvaluationFacts | None:
    """What a simulation found on its held-out cases, if it measured this model and not another one of the run."""
    measured = folder / "evaluation"
    if run is None or run.weights_sha256 != sha256 or not (measured / METRICS_FILE).is_file():
        return None
    return read_evaluation(measured, task, sha256, held_out=True)
