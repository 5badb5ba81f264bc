"""What a site remembers from round to round: the model that it holds, and what its last update lost on the way.

Both lie in the run's folder at the site. `held.safetensors` is the model of the last request: the next one may be its
change. `residual-0007.safetensors` is e after round 7, what was lost of u + e when it was coded. An update starts from
the e of the last one that counted, also when the site has missed rounds meanwhile. The residuals of three rounds are
kept, so that a site that is asked again for a round sends the same bytes. One is dropped where its update did not
count, and one of the round before where that was trained from another model than the one that this round's model says
it came after: then it belongs to a past that was redone. One that is damaged is dropped, too: it costs what one message
lost.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord
from safetensors import SafetensorError, safe_open

from client.exchange.coding import flat, shaped
from client.exchange.parcel import MissingBaseError, changed, digest_of_weights, is_packed, pack_update, read_parcel
from client.exchange.quantisation import Floats
from client.exchange.settings import Exchange
from client.limits import check_task
from client.round_files import RoundFiles
from client.site import SiteSettings
from client.weights import Weights, decode_weights, is_buffer, layout_of
from segformer3d.config import ModelConfig
from segformer3d.errors import ReplyError
from segformer3d.model import skeleton
from segformer3d.tasks import Task
from segformer3d.tensor_file import write_tensors
from segformer3d.training import Part

HELD, RESIDUAL = "held.safetensors", "residual"
_DIGEST, _BASE, _MODEL = "digest", "base", "model"


@dataclass(frozen=True)
class Held:
    """The model that a site holds: its digest, and that of the model before it."""

    digest: str = ""
    base: str = ""


def held_at(folder: Path) -> Held:
    """Which model the folder of a run holds; nothing is said where there is none that can be read."""
    try:
        with safe_open(folder / HELD, "np") as stored:
            notes = stored.metadata() or {}
    except (SafetensorError, OSError):
        return Held()
    return Held(notes.get(_DIGEST, ""), notes.get(_BASE, ""))


def receive_model(site: SiteSettings, run: str, task: Task, record: ArrayRecord) -> Weights:
    """The model in a request. One that came packed is held from now on.

    Raises:
        MissingBaseError: it is the change of a model that the site does not hold.
        ReplyError: it is not what it must be.
        RefusalError: the site's limits forbid the task.
        StorageError: it cannot be kept.
    """
    if not is_packed(record):
        return decode_weights(record)
    parcel, folder = read_parcel(record), site.work / run
    if not parcel.header.model:
        raise ReplyError("the model came without its digest")
    check_task(site.limits, task)  # before anything of the model's size is made
    layout, held = _layout(task.model), held_at(folder)
    if held.digest == parcel.header.model:
        weights = _read_held(folder)
        if weights is not None and digest_of_weights(weights) == held.digest:
            return weights
    weights = parcel.values(layout)
    if not parcel.whole:
        base = _read_held(folder) if held.digest == parcel.header.base else None
        if base is None or not _fits(base, layout):
            raise MissingBaseError("the change of a model came that this site does not hold")
        weights = changed(base, weights)
    if digest_of_weights(weights) != parcel.header.model:
        if parcel.whole:
            raise ReplyError("the model is not the one that its digest says")
        raise MissingBaseError("the model that this site holds is damaged")
    notes = {_DIGEST: parcel.header.model, _BASE: parcel.header.base}
    path = folder / HELD
    write_tensors(path, weights, notes, path if path.exists() else None)
    return weights


def send_update(
    folder: Path, part: Part, exchange: Exchange, received: Weights, update: Weights, counted: int
) -> tuple[Weights, bytes | None]:
    """An update as the server will see it, and its payload; what it lost is kept for the next one.

    In a plain exchange that is the update itself, and no payload.

    Args:
        folder: of the run at the site.
        part: which round of which site; random rounding derives from it.
        exchange: how it shall travel.
        received: the model that was trained.
        update: what training made of it.
        counted: the last round before this one whose update of this site went into the model, 0 for none.

    Raises:
        ReplyError: the update is not finite.
        StorageError: it cannot be kept.
    """
    if exchange.up is None:
        return update, None
    digest, number = digest_of_weights(received), part.index + 1
    wanted = flat(update)
    residual = _residual_of(folder, counted, wanted.size, held_at(folder).base if counted == number - 1 else None)
    if residual is not None:
        wanted = wanted + residual
    buffers = {name: value for name, value in update.items() if is_buffer(name)}
    key = Part(part.index, part.parts, part.epochs, part.seed, f"{part.stream}/exchange").random_key()
    sent, payload = pack_update({**shaped(wanted, update), **buffers}, digest, exchange.up, key)
    lost = {RESIDUAL: wanted - flat(sent)}
    kept = RoundFiles(folder, RESIDUAL)
    write_tensors(kept.after(number), lost, {_MODEL: digest}, kept.superseded())
    kept.forget_old()
    return sent, payload


def _residual_of(folder: Path, counted: int, size: int, base: str | None) -> Floats | None:
    """What the update of this round lost; None where that is not known, or is of another model than this base."""
    kept = RoundFiles(folder, RESIDUAL)
    path = kept.before(counted + 1)
    if path is None or path != kept.after(counted):
        return None
    try:
        with safe_open(path, "np") as stored:
            model = (stored.metadata() or {}).get(_MODEL)
            residual: Floats = stored.get_tensor(RESIDUAL)
    except (SafetensorError, OSError):
        return None
    if base not in (None, model) or residual.shape != (size,):
        return None
    return residual if np.isfinite(residual).all() else None


def _read_held(folder: Path) -> Weights | None:
    try:
        with safe_open(folder / HELD, "np") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError):
        return None


def _fits(weights: Weights, layout: Weights) -> bool:
    return set(weights) == set(layout) and all(weights[n].shape == v.shape for n, v in layout.items())


@lru_cache(maxsize=4)
def _layout(config: ModelConfig) -> Weights:
    return layout_of(skeleton(config))
