"""`segfed server export`: what came out of a run, in a folder that can be handed on.

The models, one table with a line for each site and round, the run's settings, and a README that says what is what. Of
the sites it tells what they told the coordinator: names, numbers of cases and measurements, nothing of a patient.
"""

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segformer3d.checkpoint import save_weights
from segformer3d.errors import ConfigurationError
from segformer3d.files import storage_errors, write_text
from segformer3d.model_description import read_notes
from segformer3d.norms import MEAN
from segformer3d.terminal import make_console
from server.aggregation import final_weights
from server.coordinator import open_coordinator
from server.federation import FederationSettings, model_notes
from server.rounds import BEST_FILE, LAST_FILE, aggregation_of
from server.run_folder import SETTINGS_FILE, newest_state, read_outcome, read_settings
from server.state import ServerState, read_state

_COLUMNS = (
    "site",
    "cases",
    "steps",
    "loss",
    "share",
    "update_norm",
    "validation_cases",
    "training_seconds",
    "seconds",
    "epsilon",
)


def export_and_print(folder: str, run: str, out: str) -> None:
    """Export a run, complete or not.

    Raises:
        ConfigurationError: there is no such run, or the place to write to is no empty folder.
        StorageError: it cannot be written.
    """
    source, target = open_coordinator(Path(folder)).run_folder(run), Path(out)
    settings, newest = read_settings(source), newest_state(source)
    if newest is None:
        raise ConfigurationError(f"{source} holds no state of a run")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"{target} is no empty folder; choose another, or a new one")
    state = read_state(newest)
    notes = {"run": state.run, "round": state.round, "validation_dice": None, **model_notes(settings)}
    last = final_weights(aggregation_of(state, settings))
    save_weights(target / LAST_FILE, last, settings.task.model, settings.task, notes)
    for name in (BEST_FILE, SETTINGS_FILE):
        if (source / name).exists():
            with storage_errors(target / name):
                shutil.copyfile(source / name, target / name)
    write_text(target / "rounds.csv", rounds_table(state.history, [s.name for s in settings.task.structures]))
    best = read_notes(target / BEST_FILE) if (target / BEST_FILE).exists() else None
    write_text(target / "README.md", _describe(state, settings, read_outcome(source), best))
    model = target / (BEST_FILE if best else LAST_FILE)
    console = make_console()
    console.print(f"run {run}, {state.round} of {settings.rounds} rounds, is in {target}", soft_wrap=True)
    norms = f" --norms {MEAN}" if settings.strategy.rule.local_norms else ""
    console.print(f"Measure it with: segfed evaluate --model {model}{norms} --data DIR --out DIR", soft_wrap=True)


def rounds_table(history: Sequence[Mapping[str, Any]], structures: Sequence[str]) -> str:
    """One line for each site and round, as CSV. A site's Dice are those of the model that it was sent."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["round", *_COLUMNS, *(f"dice {name}" for name in structures)])
    for record in history:
        for site in record["sites"]:
            table.writerow([record["round"], *(site.get(name) for name in _COLUMNS), *site["dice"]])
    return text.getvalue()


def _privacy(state: ServerState) -> str:
    """What a private run has cost so far."""
    spent = [site["epsilon"] for record in state.history for site in record["sites"]]
    return f"A private run: no patient of any site has spent more than epsilon {max(spent, default=0.0):.3f} in it."


_OWN_NORMS = (
    "A site gives them its own with `--norms RUN/memory-NNNN.safetensors` of its work folder, who has none takes "
    f"`--norms {MEAN}`."
)


def _measured(notes: Mapping[str, Any]) -> str:
    return f"after round {notes['round']}, validation Dice {notes['validation_dice']:.4f}"


def _describe(
    state: ServerState,
    settings: FederationSettings,
    outcome: tuple[bool, str | None],
    best: Mapping[str, Any] | None,
) -> str:
    """The README; `best` is what the notes of the best model say."""
    over, reason = outcome
    how = (f"stopped: {reason}" if reason else "complete") if over else "going on"
    sites = sorted({site["site"] for record in state.history for site in record["sites"]})
    norms = model_notes(settings).get("norms")
    lines = [
        f"# {state.run}",
        "",
        f"Task {settings.task.name}, {state.round} of {settings.rounds} rounds ({how}), sites: {', '.join(sites)}.",
        "",
        *([_privacy(state), ""] if settings.privacy else []),
        *([f"The models' norms are {norms}. {_OWN_NORMS}\n"] if norms else []),
        *([f"- `{BEST_FILE}`: {_measured(best)}"] if best else []),
        f"- `{LAST_FILE}`: after round {state.round}",
        "- `rounds.csv`: what each site reported in each round",
        f"- `{SETTINGS_FILE}`: the settings of the run",
        "",
        f"Settings: {json.dumps(settings.training.to_json())}",
        "",
    ]
    return "\n".join(lines)
