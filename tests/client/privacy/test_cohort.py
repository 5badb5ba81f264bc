"""Patients are told apart by digests that name nobody. Oracle: HMAC-SHA256 itself, and ids that must not appear."""

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.privacy.cohort import Cohort, Member, Sealed, read_sealed, unknown
from segformer3d.errors import DataError

SALT = bytes(range(32))
A, B, C = (hashlib.sha256(name).hexdigest() for name in (b"a", b"b", b"c"))


def sealed(patient: str, *sources: str) -> Sealed:
    (found,) = Cohort((Member(patient, sources or (A,)),)).seal(SALT)
    return found


def test_a_seal_is_a_keyed_digest() -> None:
    def digest(text: str) -> str:
        return hmac.new(SALT, text.encode(), hashlib.sha256).hexdigest()

    assert sealed("p01", A, B) == Sealed(digest("patient:p01"), (digest(f"source:{A}"), digest(f"source:{B}")))
    assert Cohort((Member("p01", (A,)),)).seal(b"another salt")[0].digests.isdisjoint(sealed("p01", A).digests)


@pytest.mark.parametrize(
    ("one", "other"), [("P01", "p01"), ("p\udcff", "P\udcff"), ("Mu\u0308ller", "M\u00fcller"), (" p01", "p01 ")]
)
def test_spellings_of_one_id_are_one_patient(one: str, other: str) -> None:
    assert sealed(one).patient == sealed(other).patient
    with pytest.raises(DataError, match="same id"):
        Cohort((Member(one, (A,)), Member(other, (B,))))


@pytest.mark.parametrize(
    ("member", "is_known"),
    [
        (sealed("p01", A), True),
        (sealed("p01", A, B), False),
        (sealed("p01", C), False),
        (sealed("renamed", A), False),
        (sealed("p02", C), False),
    ],
    ids=["the same", "a new visit", "exported again", "renamed", "new"],
)
def test_whatever_is_new_of_a_patient_is_to_be_learned(member: Sealed, is_known: bool) -> None:
    known = sealed("p01", A).digests
    assert unknown([member], known) == (() if is_known else (member,))


def test_a_patient_is_found_by_the_id_or_by_any_case() -> None:
    known = sealed("p01", A, B).digests
    for member in (sealed("p01", C), sealed("renamed", A), sealed("renamed", C, B)):
        assert not member.digests.isdisjoint(known)
    assert sealed("p02", C).digests.isdisjoint(known)
    assert sealed(A, C).digests.isdisjoint(known), "an id that looks like a digest of a file is no file"


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ((), "the cohort is empty"),
        ((Member("", (A,)),), "no id or no case"),
        ((Member("  ", (A,)),), "no id or no case"),
        ((Member("p01", ()),), "no id or no case"),
        ((Member("p01", ("secret.nii.gz",)),), "prepare the data again"),
        ((Member("p01", (A.upper(),)),), "prepare the data again"),
        ((Member("p01", (A,)), Member("p01", (B,))), "same id"),
    ],
)
def test_what_is_no_cohort_is_refused_in_words_that_name_nobody(members: tuple[Member, ...], text: str) -> None:
    with pytest.raises(DataError, match=text) as refused:
        Cohort(members)
    assert "p01" not in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.text(st.characters(), min_size=1), st.lists(st.binary(), min_size=1))
def test_no_id_survives_sealing(patient: str, contents: list[bytes]) -> None:
    sources = tuple(hashlib.sha256(content).hexdigest() for content in contents)
    try:
        (member,) = Cohort((Member(patient, sources),)).seal(SALT)
    except DataError:  # nothing but spaces
        assert not patient.strip()
        return
    written = json.dumps(member.to_json())
    assert read_sealed(json.loads(written)) == member
    assert set(written) <= set('0123456789abcdef{}[]", :patientsources')
    assert not any(source in written for source in sources)


DIGEST = "0" * 64


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"patient": DIGEST},
        {"patient": DIGEST, "sources": []},
        {"patient": DIGEST, "sources": DIGEST},
        {"patient": DIGEST, "sources": [1]},
        {"patient": "p01", "sources": [DIGEST]},
        {"patient": DIGEST, "sources": [DIGEST], "name": "p01"},
        {"patient": None, "sources": [DIGEST]},
    ],
)
def test_what_is_no_sealed_member_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match="member"):
        read_sealed(values)
