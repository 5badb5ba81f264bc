"""Who a ledger is about: patients, told apart by salted digests, so that no name stands in it.

The salt lies beside the digests. They keep names from a glance and from tables made in advance, not from somebody who
holds the ledger and tries every patient id that there may be: it is kept as the patients' data are.
"""

import hashlib
import hmac
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from segformer3d.errors import DataError
from segformer3d.patients import plain_id

DIGEST = re.compile(r"[0-9a-f]{64}")  # SHA-256 in hexadecimal digits


@dataclass(frozen=True)
class Member:
    """One patient.

    Attributes:
        patient: his or her id in the dataset.
        sources: SHA-256 of each case's files, as 64 hexadecimal digits; one for each visit.
    """

    patient: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Cohort:
    """The patients that one training draws from.

    Raises:
        DataError: there is none, one has no id or no case, or one id stands for two patients. No text names a patient.
    """

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise DataError("the cohort is empty: a private run needs at least one patient with a training case")
        for member in self.members:
            if not plain_id(member.patient) or not member.sources:
                raise DataError("a patient of the cohort has no id or no case; check the dataset's patient ids")
            if not all(DIGEST.fullmatch(source) for source in member.sources):
                raise DataError("a case of the cohort is not known by the SHA-256 of its files; prepare the data again")
        if len({plain_id(member.patient) for member in self.members}) < len(self.members):
            raise DataError("two patients of the cohort have the same id; give each patient an id of his or her own")

    def seal(self, salt: bytes) -> tuple["Sealed", ...]:
        """The same patients as a ledger with this salt knows them."""
        return tuple(_seal(salt, member) for member in self.members)


@dataclass(frozen=True)
class Sealed:
    """One patient as a ledger knows him or her: salted digests of the id and of each source."""

    patient: str
    sources: tuple[str, ...]

    @property
    def digests(self) -> frozenset[str]:
        """All of them. One that is known makes the patient known: under a new name, or with new files."""
        return frozenset((self.patient, *self.sources))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `read_sealed` is the inverse."""
        return {"patient": self.patient, "sources": list(self.sources)}


def read_sealed(values: object) -> Sealed:
    """Read what `Sealed.to_json` wrote.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(values, dict) or set(values) != {"patient", "sources"}:
        raise ValueError("a member must have exactly patient and sources")
    patient, sources = values["patient"], values["sources"]
    if not isinstance(sources, list) or not sources:
        raise ValueError("a member's sources must be a list of digests")
    if not all(isinstance(digest, str) and DIGEST.fullmatch(digest) for digest in (patient, *sources)):
        raise ValueError("a member's digests must be 64 hexadecimal digits")
    return Sealed(patient, tuple(sources))


def unknown(members: Collection[Sealed], known: frozenset[str]) -> tuple[Sealed, ...]:
    """The members of whom something is not known yet: the patient, or one of his or her cases."""
    return tuple(member for member in members if not member.digests <= known)


def _seal(salt: bytes, member: Member) -> Sealed:
    sources = (_digest(salt, "source", source) for source in member.sources)
    return Sealed(_digest(salt, "patient", plain_id(member.patient)), tuple(sources))


def _digest(salt: bytes, kind: str, text: str) -> str:
    return hmac.new(salt, f"{kind}:{text}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
