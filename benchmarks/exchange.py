"""Section: what travels in a round, how small it is and how long coding and decoding it takes, on one thread.

The update is a real one: of the second of two passes over real cases. The change of a model is taken to be this same
update: the mean of several sites' updates is shorter, which changes nothing about the size of what is coded in steps.
Messages are what `server.records.message_bytes` counts of weights; reading and writing disks is left out.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord

from benchmarks.measure import Series, interleaved, table
from benchmarks.settings import Settings
from benchmarks.worker import Deeds, Worker
from client.exchange.coding import flat
from client.exchange.parcel import (
    changed,
    digest_of_weights,
    open_update,
    pack_change,
    pack_update,
    pack_whole,
    read_parcel,
    record_of_payload,
)
from client.exchange.settings import EXCHANGES, Exchange
from client.weights import WEIGHTS, Weights, decode_weights, encode_weights, update_of, weights_of
from segformer3d.dataset import prepare
from segformer3d.fit import initial_model
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import task_of_folder
from segformer3d.training import Part, train_part

CASES = 24
WAYS = ("code up", "decode up", "code down", "decode down")
KEY = (0, 1)


def measure_exchange(settings: Settings) -> dict[str, Any] | None:
    """Bytes and seconds of each exchange; None without cases."""
    if settings.scans is None:
        return None
    with Worker(partial(exchange_deeds, settings.scans, settings.device), product=True, threads=1) as worker:
        sizes = {name: worker.ask("sizes", name) for name in EXCHANGES}
        runs = {f"{name} {way}": partial(worker.ask, way, name) for name in EXCHANGES for way in WAYS}
        seconds = interleaved(runs, settings.repeats)
        whole = worker.ask("whole")
    return {"sizes": sizes, "seconds": {name: series.seconds for name, series in seconds.items()}, "whole": whole}


def describe_exchange(found: Mapping[str, Any] | None) -> str:
    """The section in Markdown."""
    if found is None:
        return "Not measured: no folder of cases was given."
    rows = [
        (
            name,
            *(f"{sizes[kind] / 1e6:.2f} MB" for kind in ("up", "first", "down")),
            f"{sizes['lost']:.1%}",
            *(f"{Series(found['seconds'][f'{name} {way}']).median:.3f} s" for way in WAYS),
        )
        for name, sizes in found["sizes"].items()
    ]
    head = f"A whole model for a site that holds none takes {found['whole'] / 1e6:.1f} MB in all but fp32. "
    head += "What is lost of an update (the share of its square) is added to the next one.\n\n"
    return head + table(("exchange", "up", "first down", "down", "lost up", *WAYS), rows)


def exchange_deeds(scans: Path, device: str) -> Deeds:
    """Sizes of an exchange's messages, and the seconds of each way."""
    before, update = _trained(scans, device)
    after = changed(before, update)
    digest = digest_of_weights(before)
    return {
        "sizes": lambda name: _sizes(EXCHANGES[name], before, after, update),
        "whole": lambda _: len(pack_whole(before, digest, digest)),
        **{way: partial(_seconds, way, before, after, update, digest) for way in WAYS},
    }


def _trained(scans: Path, device: str) -> tuple[Weights, Weights]:
    """The model after one pass over the first cases, and the update of a second pass."""
    task = task_of_folder(scans)
    model = initial_model(task, 0)
    with tempfile.TemporaryDirectory() as name:
        cases = prepare(scans, task, Path(name), validation_share=0).train[:CASES]
        state = Path(name) / "optimizer.safetensors"
        for index in range(2):
            before = weights_of(model)
            part = Part(index, 30, 1, 0, "benchmark")
            train_part(
                model,
                cases,
                task,
                TrainingSettings(),
                part,
                device=torch.device(device),
                optimizer_from=state if index else None,
                optimizer_to=state,
            )
    return before, update_of(model, before)


def _sizes(exchange: Exchange, before: Weights, after: Weights, update: Weights) -> dict[str, float]:
    if exchange.up is None:
        size = _bytes(encode_weights(after))
        return {"up": size, "first": size, "down": size, "lost": 0.0}
    sent, payload = pack_update(update, "", exchange.up, KEY)
    lost = np.square(flat(update) - flat(sent)).sum() / np.square(flat(update)).sum()
    first, down = (pack_change(after, held, exchange).payload for held in (None, before))
    return {"up": len(payload), "first": len(first), "down": len(down), "lost": float(lost)}


def _seconds(way: str, before: Weights, after: Weights, update: Weights, digest: str, name: str) -> float:
    ready, deed = _deed(way, EXCHANGES[name], before, after, update, digest)
    given = ready()
    began = time.perf_counter()
    deed(given)
    return time.perf_counter() - began


def _deed(
    way: str, exchange: Exchange, before: Weights, after: Weights, update: Weights, digest: str
) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """What is made ready, and what is measured."""
    up = exchange.up
    if up is None:
        packed = partial(encode_weights, after)
        return (packed, decode_weights) if way.startswith("decode") else (lambda: None, lambda _: packed())
    code_up = partial(pack_update, update, digest, up, KEY)
    code_down = partial(pack_change, after, before, exchange)
    if way.startswith("code"):
        return lambda: None, lambda _: (code_up if way.endswith("up") else code_down)()
    if way == "decode up":
        return lambda: record_of_payload(code_up()[1]), lambda record: open_update(record, up, digest, update)
    return lambda: record_of_payload(code_down().payload), partial(_receive, before)


def _receive(before: Weights, record: ArrayRecord) -> str:
    """As a site does: the change, put to what it holds, and the check of what came out."""
    return digest_of_weights(changed(before, read_parcel(record).values(before)))


def _bytes(record: ArrayRecord) -> int:
    return len(record[WEIGHTS].data)
