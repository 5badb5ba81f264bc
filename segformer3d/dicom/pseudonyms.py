"""Names that stand for patients, studies and series, so that no identifier is in a file name, a table or a log.

A name is the beginning of HMAC-SHA256(key, kind:identifier). The key is made once for an output folder and kept in its
private folder: whoever adds to the folder later finds the same names for the same patients, and nobody without the key
can try out ids. Beside it lies what the names stand for at this place. Keep the private folder at the hospital; without
it, nothing in the output folder leads back.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer3d.errors import DataError
from segformer3d.files import storage_errors, write_json, write_secret
from segformer3d.layouts.description import read_description
from segformer3d.patients import plain_id

PRIVATE = "private"
KEY_BYTES = 32
# 48 bits: among a million names, two are the same with a chance of 0.2 %.
DIGITS = 12


@dataclass(frozen=True)
class Pseudonyms:
    """What identifiers are called in one output folder."""

    key: bytes

    def patient(self, patient_id: str) -> str:
        """One name for one patient, however the id is spelled (upper and lower case, spaces around it)."""
        return self._name("p", plain_id(patient_id))

    def study(self, uid: str) -> str:
        """A visit."""
        return self._name("v", uid)

    def series(self, uid: str) -> str:
        """A series, or the object of a label."""
        return self._name("s", uid)

    def _name(self, kind: str, identifier: str) -> str:
        text = f"{kind}:{identifier}".encode("utf-8", "surrogatepass")
        return kind + hmac.new(self.key, text, hashlib.sha256).hexdigest()[:DIGITS]


def open_pseudonyms(out: Path) -> Pseudonyms:
    """Those of an output folder: with its key, or with a new one where the folder is new.

    Raises:
        DataError: the key is damaged.
        StorageError: the folder cannot be written.
    """
    folder, file = out / PRIVATE, out / PRIVATE / "key"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        if not file.exists():
            write_secret(file, secrets.token_hex(KEY_BYTES).encode() + b"\n")
        return Pseudonyms(_read_key(file))


def remember(out: Path, sources: Mapping[str, Mapping[str, Any]]) -> None:
    """Note in the private folder what names stand for, beside what stood there before.

    Raises:
        DataError: what stood there is damaged.
        StorageError: it cannot be written.
    """
    path = out / PRIVATE / "series.json"
    known = read_description(path) if path.is_file() else {}
    write_json(path, {**known, **sources})


def _read_key(file: Path) -> bytes:
    try:
        key = bytes.fromhex(file.read_text(encoding="ascii"))
    except ValueError as error:
        raise DataError(f"{file} is damaged; restore it, or import into a new folder (with new names)") from error
    if len(key) != KEY_BYTES:
        raise DataError(f"{file} is damaged; restore it, or import into a new folder (with new names)")
    return key
