"""What the records of a run say of the model that came out of it: sites, cases, settings, privacy.

Read are the run folder of `segfed simulate` (`run.json`), a coordinator's (`federation.json`), and what `segfed server
export` makes of the latter (`rounds.csv` instead of `rounds.jsonl`). Of the sites they hold what the sites told: names
and numbers of cases, never a case. What a file does not say stays None.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer3d.errors import DataError
from segformer3d.export.privacy_facts import NONE_CLAIMED, PrivacyFacts, asked_for, promised

SIMULATED, FEDERATED = "run.json", "federation.json"
# A simulation's settings that say how a model was made; the others are about the machine, or are paths.
_OF_A_SIMULATION = ("sites", "rounds", "local_epochs", "partition", "held_out", "seed")
_OF_A_FEDERATION = ("rounds", "local_epochs", "seed")
# Its local work is counted in steps, and these two are part of what privacy costs.
_NOT_OF_PRIVATE_RUNS = ("local_epochs", "learning_rate", "augment")


@dataclass(frozen=True)
class SiteFacts:
    """A site that took part.

    Attributes:
        site: its name.
        cases: that it trained on; in a private run the public number of patients, which is all that it told.
        validation_cases: that it measured on; None in a private run.
        epsilon: what the run had cost each of its patients; None in a run without privacy.
    """

    site: str
    cases: int
    validation_cases: int | None
    epsilon: float | None


@dataclass(frozen=True)
class RunFacts:
    """A run, as far as it made one model.

    Attributes:
        run: its name; None where the folder does not say.
        simulated: whether the sites were simulated on one machine.
        made_up: whether their patients were made up as well.
        begun_from: "random weights" or "another model"; None where the folder does not say.
        settings: how training was asked to be, as plain values by name.
        privacy: what was promised to the patients.
        sites: those whose updates are in the model, by name.
        weights_sha256: of the last model, which `evaluation/` is about; None where the folder does not say.
    """

    run: str | None
    simulated: bool
    made_up: bool
    begun_from: str | None
    settings: Mapping[str, Any]
    privacy: PrivacyFacts
    sites: tuple[SiteFacts, ...]
    weights_sha256: str | None


def is_run_folder(folder: Path) -> bool:
    """Whether a folder holds the records of a run."""
    return any((folder / name).is_file() for name in (SIMULATED, FEDERATED))


def read_run(folder: Path, last: int | None) -> RunFacts:
    """Read a run folder.

    Args:
        folder: of the run.
        last: the round that the model came out of; None for the last one.

    Raises:
        DataError: it is no run folder, or one of its files is damaged.
    """
    if not is_run_folder(folder):
        raise DataError(
            f"{folder} is no run folder: it has neither {SIMULATED} (segfed simulate) nor {FEDERATED} (segfed server)"
        )
    try:
        return _simulated(folder, last) if (folder / SIMULATED).is_file() else _federated(folder, last)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder} holds records that are damaged or of another version ({type(error).__name__}: {error}); "
            "copy them again, or leave --run out"
        ) from error


def _simulated(folder: Path, last: int | None) -> RunFacts:
    described, summary = _json(folder / SIMULATED), _json_or_nothing(folder / "summary.json")
    asked = described["settings"]
    private = None if asked["epsilon"] is None else {**asked["privacy"], **_pick(asked, ("epsilon", "delta"))}
    sites = _sites(folder, last, private is not None)
    return RunFacts(
        described["run"],
        simulated=True,
        made_up=asked["data"] is None,
        begun_from="random weights" if asked["start"] is None else "another model",
        settings=_settings(_pick(asked, _OF_A_SIMULATION), asked["training"], private),
        privacy=promised(summary["privacy"]) if summary.get("privacy") else _privacy(private, sites),
        sites=sites,
        weights_sha256=summary.get("weights_sha256"),
    )


def _federated(folder: Path, last: int | None) -> RunFacts:
    asked = _json(folder / FEDERATED)
    private = asked["privacy"]
    sites = _sites(folder, last, private is not None)
    return RunFacts(
        _json_or_nothing(folder / "result.json").get("run"),
        simulated=False,
        made_up=False,
        begun_from=None,
        settings=_settings(_pick(asked, _OF_A_FEDERATION), asked["training"], private),
        privacy=_privacy(private, sites),
        sites=sites,
        weights_sha256=None,
    )


def _pick(asked: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: asked[name] for name in names}


def _settings(run: Mapping[str, Any], training: Mapping[str, Any], private: Mapping[str, Any] | None) -> dict[str, Any]:
    """All settings by name, without those that a private run has others for (`client.privacy.settings`)."""
    if private is None:
        return {**run, **training}
    kept = {name: value for name, value in {**run, **training}.items() if name not in _NOT_OF_PRIVATE_RUNS}
    return {**kept, **private}


def _privacy(private: Mapping[str, Any] | None, sites: Sequence[SiteFacts]) -> PrivacyFacts:
    if private is None:
        return NONE_CLAIMED
    return asked_for(private, [site.epsilon for site in sites if site.epsilon is not None])


def _sites(folder: Path, last: int | None, private: bool) -> tuple[SiteFacts, ...]:
    """Every site in the last of its rounds that the model has seen."""
    found: dict[str, SiteFacts] = {}
    for number, record in _replies(folder):
        if last is None or number <= last:
            validation, epsilon = record["validation_cases"], record["epsilon"]
            found[record["site"]] = SiteFacts(
                str(record["site"]),
                int(record["cases"]),
                None if private else int(validation),
                float(epsilon) if private else None,
            )
    return tuple(found[name] for name in sorted(found))


def _replies(folder: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """What each site told in each round, in order."""
    lines, table = folder / "rounds.jsonl", folder / "rounds.csv"
    if lines.is_file():
        rounds = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
        return [(record["round"], site) for record in rounds for site in record["sites"]]
    if table.is_file():
        return [(int(row["round"]), row) for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())]
    return []


def _json_or_nothing(path: Path) -> dict[str, Any]:
    return _json(path) if path.is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    read = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(read, dict):
        raise TypeError(f"{path.name} holds no JSON object")
    return read
