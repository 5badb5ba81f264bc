"""Everything that a broken or hostile site may put into a reply, as changes of a good one."""

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors.numpy import save

from client.weights import SAFETENSORS, WEIGHTS, decode_weights

Change = Callable[[RecordDict], RecordDict]
WEIGHT = "decoder.fuse.weight"
MEAN = "decoder.fuse_norm.running_mean"
VARIANCE = "decoder.fuse_norm.running_var"
COUNTER = "decoder.fuse_norm.num_batches_tracked"


def weights(change: Callable[[dict[str, np.ndarray]], None]) -> Change:
    """Change what is among the weights."""

    def apply(records: RecordDict) -> RecordDict:
        arrays = records["arrays"]
        assert isinstance(arrays, ArrayRecord)
        changed = {name: value.copy() for name, value in decode_weights(arrays).items()}
        change(changed)
        data = save(changed)
        arrays[WEIGHTS] = Array("uint8", (len(data),), SAFETENSORS, data)
        return records

    return apply


def array(name: str, change: Callable[[np.ndarray], Any]) -> Change:
    """Replace an array by what `change` makes of it."""

    def apply(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = np.asarray(change(arrays[name]))

    return weights(apply)


def renamed(arrays: dict[str, np.ndarray]) -> None:
    """A wrong key in place of a right one."""
    arrays["decoder.fuse.wait"] = arrays.pop(WEIGHT)


def one_value(name: str, value: float) -> Change:
    """Replace one number in an array."""

    def change(values: np.ndarray) -> np.ndarray:
        values.flat[-1] = value
        return values

    return array(name, change)


def value(record: str, name: str, new: Any) -> Change:
    """Replace a number or a text."""

    def apply(records: RecordDict) -> RecordDict:
        part = records[record]
        assert isinstance(part, ConfigRecord | MetricRecord)
        part[name] = new
        return records

    return apply


def without(record: str, name: str) -> Change:
    """Take a name away."""

    def apply(records: RecordDict) -> RecordDict:
        del records[record][name]
        return records

    return apply


def emptied(records: RecordDict) -> RecordDict:
    """Nothing at all."""
    return RecordDict()


def raw(data: bytes, dtype: str = "uint8", stype: str = SAFETENSORS) -> Change:
    """Bytes in place of the weights."""

    def apply(records: RecordDict) -> RecordDict:
        arrays = records["arrays"]
        assert isinstance(arrays, ArrayRecord)
        arrays[WEIGHTS] = Array(dtype, (len(data),), stype, data)
        return records

    return apply


def objects() -> bytes:
    """What `np.save` writes for objects: a pickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"x": 1}, print], dtype=object), allow_pickle=True)
    return buffer.getvalue()


HOSTILE: Mapping[str, tuple[Change, str]] = {
    "wrong key": (weights(renamed), "the array decoder.fuse.wait is not one of the model"),
    "missing key": (weights(lambda arrays: arrays.pop(WEIGHT)), f"the array {WEIGHT} is missing"),
    "extra key": (
        weights(lambda arrays: arrays.update(trojan=np.zeros(3, np.float32))),
        "the array trojan is not one of the model",
    ),
    "shape": (array(WEIGHT, lambda v: v.reshape(-1)), "has shape"),
    "broadcastable shape": (array(WEIGHT, lambda v: v[:1]), "has shape"),
    "dtype": (array(WEIGHT, lambda v: v.astype(np.float64)), "is neither float32 nor int64"),
    "half precision": (array(WEIGHT, lambda v: v.astype(np.float16)), "is neither float32 nor int64"),
    "integers for floats": (array(WEIGHT, lambda v: v.astype(np.int64)), "holds int64 where the model holds float32"),
    "floats for counters": (
        array(COUNTER, lambda v: v.astype(np.float32)),
        "holds float32 where the model holds int64",
    ),
    "NaN": (one_value(WEIGHT, np.nan), "not finite"),
    "infinity": (one_value(WEIGHT, -np.inf), "not finite"),
    "NaN in a buffer": (one_value(MEAN, np.nan), "not finite"),
    "negative variance": (one_value(VARIANCE, -1e-3), "must be in [0, 1e+12]"),
    "absurd mean": (one_value(MEAN, 1e30), "must be in [-1e+06, 1e+06]"),
    "negative counter": (one_value(COUNTER, -1), "must be in [0, 1e+12]"),
    "absurd norm": (array(WEIGHT, lambda v: v + 1e6), "its update has norm"),
    "overflowing norm": (array(WEIGHT, lambda v: np.full_like(v, 3e38)), "its update has norm"),
    "objects": (raw(objects(), "object", "numpy.ndarray"), "never unpickled"),
    "objects called safetensors": (raw(objects()), "cut off, or no weights at all"),
    "a pickle": (raw(pickle.dumps([1]), stype="pickle"), "never unpickled"),
    "garbage": (raw(b"\xff" * 500), "cut off, or no weights at all"),
    "no bytes": (raw(b""), "cut off, or no weights at all"),
    "negative cases": (value("metrics", "training_cases", -4), "cases must be in [1, 10000000]"),
    "no cases": (value("metrics", "training_cases", 0), "cases must be in [1, 10000000]"),
    "absurdly many cases": (value("metrics", "training_cases", 10**18), "cases must be in [1, 10000000]"),
    "other cases than prepared": (value("metrics", "training_cases", 5), "trained on 5 cases and had prepared 4"),
    "infinitely many cases": (
        value("metrics", "training_cases", np.inf),
        "'training_cases' of metrics must be a whole number",
    ),
    "NaN cases": (value("metrics", "training_cases", np.nan), "'training_cases' of metrics must be a whole number"),
    "fractional cases": (value("metrics", "training_cases", 4.5), "'training_cases' of metrics must be a whole number"),
    "a list of cases": (value("metrics", "training_cases", [4]), "'training_cases' of metrics must be a whole number"),
    "no samples": (value("metrics", "training_samples", 0), "samples must be in"),
    "no steps": (value("metrics", "training_steps", 0), "steps must be in"),
    "negative seconds": (value("metrics", "training_seconds", -1.0), "its seconds must be finite"),
    "NaN loss": (value("metrics", "training_loss", np.nan), "its training loss must be a number up to 1000"),
    "infinite loss": (value("metrics", "validation_loss", np.inf), "its validation loss must be a number up to 1000"),
    "huge loss": (value("metrics", "validation_loss", 1e308), "its validation loss must be a number up to 1000"),
    "more steps": (value("metrics", "training_steps", 10_000_000), "samples in 10000000 steps where its cases make"),
    "more samples": (value("metrics", "training_samples", 10_000_000), "it says 10000000 samples in"),
    "other validation cases": (value("metrics", "validation_cases", 3), "validated on 3 cases and had prepared 2"),
    "Dice above 1": (value("metrics", "validation_dice", [1.5]), "its Dice must be 1 values in [0, 1]"),
    "Dice below 0": (value("metrics", "validation_dice", [-0.1]), "its Dice must be 1 values in [0, 1]"),
    "two Dice": (value("metrics", "validation_dice", [0.5, 0.5]), "its Dice must be 1 values in [0, 1]"),
    "no Dice": (value("metrics", "validation_dice", []), "its Dice must be 1 values in [0, 1]"),
    "missing metric": (without("metrics", "training_loss"), "metrics lacks 'training_loss'"),
    "extra metric": (value("metrics", "age", 1), "metrics has an unknown 'age'"),
    "another contract": (value("about", "contract", 1), "the site speaks version 1 of the message contract"),
    "another run": (value("about", "run", "run-2"), "it answers another run or round"),
    "another round": (value("about", "round", 9), "it answers another run or round"),
    "another site's name": (value("about", "site", "site-1"), "it calls itself site-1 now"),
    "no name": (value("about", "site", "\x1b[2J"), "the site's name must be"),
    "nothing": (emptied, "the message has no ConfigRecord 'about'"),
}
