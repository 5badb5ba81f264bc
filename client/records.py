"""Reading Flower records strictly: exactly these records, exactly these names, exactly these types."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from client.weights import printable
from segformer3d.errors import ReplyError

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)
Fields = Mapping[str, type]
_KINDS: Mapping[type, str] = {int: "a whole number", float: "a float", str: "a text", list: "a list of floats"}


def digest_of(records: RecordDict) -> str:
    """SHA-256 of a message's content, independent of how protobuf orders it."""
    found = hashlib.sha256()
    for name in sorted(records):
        record = records[name]
        if isinstance(record, ArrayRecord):
            for key in sorted(record):
                array = record[key]
                found.update(repr((name, key, array.dtype, tuple(array.shape), array.stype)).encode())
                found.update(hashlib.sha256(array.data).digest())
        else:
            found.update(repr((name, sorted(record.items()))).encode())
    return found.hexdigest()


def record_of(records: RecordDict, name: str, kind: type[Record]) -> Record:
    """The record of this name.

    Raises:
        ReplyError: it is missing or of another kind.
    """
    record = records.get(name)
    if not isinstance(record, kind):
        raise ReplyError(f"the message has no {kind.__name__} {name!r}")
    return record


def check_names(names: Mapping[str, Any], expected: set[str], what: str) -> None:
    """See that exactly these names are there.

    Raises:
        ReplyError: one is missing or one too many.
    """
    for name in sorted(set(names) ^ expected):
        raise ReplyError(f"{what} {'lacks' if name in expected else 'has an unknown'} {printable(name, 80)!r}")


def read_fields(record: ConfigRecord | MetricRecord, fields: Fields, what: str) -> dict[str, Any]:
    """The values of a record; a float may not be an int, nor a list anything but floats.

    Raises:
        ReplyError: a name is missing or unknown, or a value is of another type.
    """
    check_names(record, set(fields), what)
    for name, kind in fields.items():
        value = record[name]
        if type(value) is not kind or (isinstance(value, list) and any(type(v) is not float for v in value)):
            raise ReplyError(f"{name!r} of {what} must be {_KINDS[kind]}")
    return dict(record)


def read_json(name: str, text: str) -> dict[str, Any]:
    """A JSON object out of a text.

    Raises:
        ReplyError: it is none.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ReplyError(f"{name!r} of the message is no JSON object")
    return values
