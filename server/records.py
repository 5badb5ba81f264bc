"""What a run leaves for people to read: a line of JSON a round in `rounds.jsonl`, and the events behind a progress bar.

Records are plain values; a Dice that no case defines is null. Lines are synced to disk one by one.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.proto.recorddict_pb2 import Array as ProtoArray

from client.contract import PrepareReply
from segformer3d.files import storage_errors, write_text
from segformer3d.training_reports import ValidationReport
from server.replies import SetAside
from server.state import Best

ROUNDS_FILE = "rounds.jsonl"


@dataclass(frozen=True)
class Score:
    """A global model measured on the validation cases of several sites.

    Attributes:
        round: the rounds of training behind the model; 0 is the initial model.
        dice: per structure, the mean over sites weighted by their validation cases; NaN where no site has one.
        mean_dice: mean of `dice` over the structures that have one.
        loss: weighted likewise.
        cases: validation cases behind it.
    """

    round: int
    dice: tuple[float, ...]
    mean_dice: float
    loss: float
    cases: int


@dataclass(frozen=True)
class SiteRecord:
    """One site's part of a round.

    Attributes:
        site: its name.
        cases, samples, steps: training cases, patches and optimizer steps.
        loss: mean training loss.
        share: weight of its update in the average, in (0, 1].
        update_norm: length of its update.
        validation_cases, dice, validation_loss: of the global model as the site received it.
        training_seconds, validation_seconds: as the site measured them.
        seconds: from sending the request to holding the reply.
        bytes_down, bytes_up: size of the serialised request and reply.
        epsilon: what the run has cost each of its patients so far; None in a run without privacy. In a run with it,
            losses, Dice and seconds are NaN, and `cases` is the public number of patients.
    """

    site: str
    cases: int
    samples: int
    steps: int
    loss: float
    share: float
    update_norm: float
    validation_cases: int
    dice: tuple[float, ...]
    validation_loss: float
    training_seconds: float
    validation_seconds: float
    seconds: float
    bytes_down: int
    bytes_up: int
    epsilon: float | None = None


@dataclass(frozen=True)
class RoundRecord:
    """A finished round.

    Attributes:
        round: from 1.
        seconds: all of it; `aggregation_seconds` is the part spent on averaging.
        step_norm, agreement: see `server.aggregation.Diagnostics`.
        measured: the model that the round started from, which is the one its validation figures belong to.
        sites: whose updates were averaged, by name.
        set_aside: whose were not, and sites that could not prepare their data since the last round.
        bytes_down, bytes_up: of all messages that were sent and fetched since the last round, those of no use and the
            preparations included.
    """

    round: int
    seconds: float
    aggregation_seconds: float
    step_norm: float
    agreement: float
    measured: Score
    sites: tuple[SiteRecord, ...]
    set_aside: tuple[SetAside, ...]
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class RunRecord:
    """A finished run: the final model's score, which round's model was best, and what each site measured.

    `bytes_down` and `bytes_up` are of all messages since the last round.
    """

    run: str
    rounds: int
    final: Score
    best: Best | None
    sites: Mapping[str, ValidationReport]
    set_aside: tuple[SetAside, ...]
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class SitesReady:
    """The sites that a run begins with, by name, with what they said about their data."""

    sites: tuple[PrepareReply, ...]


@dataclass(frozen=True)
class RoundStarted:
    """The round's request is on its way to these sites."""

    round: int
    rounds: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class SiteReplied:
    """A good reply came in; `phase` is "train" or "evaluate"."""

    phase: str
    round: int
    site: str
    seconds: float


@dataclass(frozen=True)
class SiteSetAside:
    """A site or its reply was set aside."""

    round: int
    what: SetAside


@dataclass(frozen=True)
class SiteAskedAgain:
    """A site has failed, and the round goes on: it will be asked again."""

    round: int
    what: SetAside


@dataclass(frozen=True)
class RoundFinished:
    """The round is averaged, and its state is on disk."""

    record: RoundRecord


@dataclass(frozen=True)
class RunFinished:
    """The final model is measured and saved."""

    record: RunRecord


Event = SitesReady | RoundStarted | SiteReplied | SiteSetAside | SiteAskedAgain | RoundFinished | RunFinished
OnEvent = Callable[[Event], None]


def score(round_number: int, reports: Mapping[str, ValidationReport], structures: int) -> Score:
    """Sites' measurements of one model, put together. `fsum` is exact, so the order of the sites does not matter."""
    counted = [report for report in reports.values() if report.cases]
    dice = tuple(_weighted([(r.dice[s], r.cases) for r in counted]) for s in range(structures))
    mean = mean_dice(dice)
    loss = _weighted([(report.loss, report.cases) for report in counted])
    return Score(round_number, dice, mean, loss, sum(report.cases for report in counted))


def mean_dice(dice: Sequence[float | None]) -> float:
    """The mean over the structures that have a Dice (not NaN, not null); NaN where none has."""
    present = [value for value in dice if value is not None and not math.isnan(value)]
    return math.fsum(present) / len(present) if present else math.nan


def plain(record: RoundRecord | RunRecord | Score) -> dict[str, Any]:
    """A record as JSON values, with null for NaN."""
    values: dict[str, Any] = _without_nan(asdict(record))
    return values


def message_bytes(records: RecordDict) -> int:
    """Bytes of a message's content as Flower serialises it (protobuf), but for a few bytes an array.

    The arrays' own bytes are counted where they lie: serialising 18 MB to learn its length would cost a round more than
    averaging does.
    """
    light = RecordDict({name: ArrayRecord() if isinstance(r, ArrayRecord) else r for name, r in records.items()})
    arrays = [(name, array) for record in records.array_records.values() for name, array in record.items()]
    return int(recorddict_to_proto(light).ByteSize()) + sum(_array_bytes(*item) for item in arrays)


def _array_bytes(name: str, array: Array) -> int:
    header = ProtoArray(dtype=array.dtype, shape=array.shape, stype=array.stype)
    return len(name.encode()) + int(header.ByteSize()) + len(array.data)


def begin_rounds(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `rounds.jsonl` anew, with exactly the rounds that the state knows of.

    Raises:
        StorageError: it cannot be written.
    """
    write_text(folder / ROUNDS_FILE, "".join(_line(record) for record in history))


def last_counted(history: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The last round whose reply of a site went into the model, by the site's name; what Krum left out did not."""
    return {site["site"]: record["round"] for record in history for site in record["sites"] if site["share"]}


def append_round(folder: Path, record: Mapping[str, Any]) -> None:
    """Append a round, synced to disk.

    Raises:
        StorageError: it cannot be written.
    """
    path = folder / ROUNDS_FILE
    with storage_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(_line(record))
        file.flush()
        os.fsync(file.fileno())


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _weighted(pairs: Sequence[tuple[float, int]]) -> float:
    present = [(value, cases) for value, cases in pairs if not math.isnan(value)]
    total = sum(cases for _, cases in present)
    return math.fsum(value * cases for value, cases in present) / total if total else math.nan


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
