"""Containers from friends and from strangers. Oracle: what is not to the last bit what was sealed is refused."""

import json
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from client.exchange.container import Header, read_header, seal, unseal
from segformer3d.errors import ReplyError

HEADER = Header("int8", "a" * 64, "b" * 64)
PARTS = [bytes(range(256)) * 8, b"", bytes(1000)]
BODY = b"".join(PARTS)
PAYLOAD = seal(HEADER, PARTS)


def opened(payload: bytes) -> tuple[Header, bytes]:
    header, frame = read_header(payload)
    return header, unseal(frame, len(BODY), len(BODY))


def with_header(text: bytes) -> bytes:
    return len(text).to_bytes(2, "little") + text + read_header(PAYLOAD)[1]


def test_what_was_sealed_comes_out() -> None:
    assert opened(PAYLOAD) == (HEADER, BODY)
    header, frame = read_header(seal(HEADER, []))
    assert (header, unseal(frame, 0, 0)) == (HEADER, b"")


@given(st.integers(0, len(PAYLOAD) - 1))
def test_a_payload_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(ReplyError):
        opened(PAYLOAD[:length])


@given(st.integers(0, len(PAYLOAD) - 1), st.integers(1, 255))
def test_a_payload_with_a_changed_byte_is_refused_or_says_something_else_of_itself(place: int, change: int) -> None:
    damaged = bytearray(PAYLOAD)
    damaged[place] ^= change
    try:
        header, body = opened(bytes(damaged))
    except ReplyError:
        return
    # A letter of a digest or codec may be another one, which whoever asked for it sees; the frame has a checksum.
    # A frame may ask for another window, or more room than it needs, and still hold the same.
    assert body == BODY
    in_header = place < len(PAYLOAD) - len(read_header(PAYLOAD)[1])
    assert (header != HEADER) == in_header


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(payload: bytes) -> None:
    with pytest.raises(ReplyError):
        opened(payload)


@given(st.binary(min_size=1, max_size=50))
def test_what_follows_is_refused(more: bytes) -> None:
    with pytest.raises(ReplyError, match="followed by something else"):
        opened(PAYLOAD + more)


def test_a_second_frame_is_refused() -> None:
    with pytest.raises(ReplyError, match="followed by something else"):
        opened(PAYLOAD + zstandard.ZstdCompressor().compress(b""))


def test_a_few_bytes_that_stand_for_gigabytes_are_never_unpacked() -> None:
    compressor = zstandard.ZstdCompressor().compressobj(size=2**31)
    bomb = b"".join(compressor.compress(bytes(2**24)) for _ in range(128)) + compressor.flush()
    assert len(bomb) < 2**20
    tracemalloc.start()
    with pytest.raises(ReplyError, match="not of the size that the model takes"):
        unseal(bomb, len(BODY), len(BODY))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_large_payload_is_refused_without_a_copy() -> None:
    large = PAYLOAD + bytes(2**26)
    tracemalloc.start()
    with pytest.raises(ReplyError):
        opened(large)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def lying(size: int, content: bytes) -> bytes:
    """A frame that says that it holds so many bytes and holds others."""
    frame = bytearray(zstandard.ZstdCompressor(write_checksum=False).compress(content))
    told = (len(content) - 256).to_bytes(2, "little")
    assert frame.count(told) >= 1
    place = bytes(frame).index(told)
    frame[place : place + 2] = (size - 256).to_bytes(2, "little")
    return bytes(frame)


@pytest.mark.parametrize("content", [bytes(60_000), bytes(len(BODY) - 1), bytes(300)])
def test_a_frame_that_lies_about_its_size_is_refused(content: bytes) -> None:
    with pytest.raises(ReplyError):
        unseal(lying(len(BODY), content), len(BODY), len(BODY))


def test_a_frame_that_does_not_say_its_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(BODY)
    with pytest.raises(ReplyError, match="not of the size"):
        unseal(frame, len(BODY), len(BODY))


def test_a_frame_that_asks_for_much_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, write_content_size=True)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=2**32).compress(bytes(10**6))
    assert zstandard.get_frame_parameters(frame).window_size > 2**27
    with pytest.raises(ReplyError, match="not of the size"):
        unseal(frame, 0, 2**40)


VALUES = {"codec": "int8", "base": "", "model": ""}
WRONG = {
    "no JSON": b"{",
    "a list": b"[]",
    "deep": b"[" * 500,
    "too long": json.dumps(VALUES).encode() + b" " * 500,
    "a name too few": json.dumps({"codec": "int8", "base": ""}).encode(),
    "a name too many": json.dumps({**VALUES, "more": 1}).encode(),
    "an unknown codec": json.dumps({**VALUES, "codec": "int3"}).encode(),
    "a codec that is no text": json.dumps({**VALUES, "codec": ["int8"]}).encode(),
    "a short digest": json.dumps({**VALUES, "base": "ab"}).encode(),
    "a digest that is no text": json.dumps({**VALUES, "model": 1}).encode(),
    "a path for a digest": json.dumps({**VALUES, "model": "../" * 21 + "x"}).encode(),
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_headers_that_say_something_else_are_refused(text: bytes) -> None:
    with pytest.raises(ReplyError, match="payload"):
        read_header(with_header(text))
