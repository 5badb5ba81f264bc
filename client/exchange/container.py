"""The container of a payload: the length of a JSON header in two bytes, the header, one Zstandard frame (RFC 8878).

A frame says how many bytes are in it. That must be what the model's layout asks for, and no more is ever allocated or
unpacked: a few bytes that stand for gigabytes are refused unread. The frame's checksum finds damage on the way.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import zstandard

from client.exchange.settings import CODECS
from client.names import DIGEST
from segformer3d.errors import ReplyError
from segformer3d.files import Buffer

_LONGEST_HEADER = 512  # bytes; two digests and a name are 180
_LEVEL = 1  # symbols have no repeats to look for: higher levels take longer and code them no better
_LARGEST_WINDOW = (
    2**27
)  # bytes of memory that a frame may ask for besides its content; level 1 asks for half a megabyte


@dataclass(frozen=True)
class Header:
    """What a payload says of itself.

    Attributes:
        codec: how its values are coded, one of `client.exchange.settings.CODECS`.
        base: digest of the model that the values are a change from; of a whole model: of the one that came before it.
            Empty where there is none.
        model: digest of the model that comes out, empty for an update.
    """

    codec: str
    base: str = ""
    model: str = ""


def seal(header: Header, parts: Sequence[bytes]) -> bytes:
    """A payload of parts, each of which gets codes of its own: what is alike is coded together."""
    text = json.dumps(asdict(header)).encode()
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    stream, frame = compressor.compressobj(size=sum(map(len, parts))), []
    for part in parts:
        frame += [stream.compress(part), stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    return b"".join([len(text).to_bytes(2, "little"), text, *frame, stream.flush()])


def read_header(payload: Buffer) -> tuple[Header, memoryview]:
    """The header of a payload, and the frame behind it, of which nothing is copied.

    Raises:
        ReplyError: it is cut off, too long, or not what `seal` writes.
    """
    payload = memoryview(payload)
    end = 2 + int.from_bytes(payload[:2], "little")
    if not 2 < end <= len(payload) or end > _LONGEST_HEADER:
        raise ReplyError("the payload is cut off, or no payload at all")
    try:
        values = json.loads(bytes(payload[2:end]))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or set(values) != {item.name for item in fields(Header)}:
        raise ReplyError("the description of the payload cannot be read")
    if values["codec"] not in CODECS:
        raise ReplyError("the payload is of an unknown codec")
    if not all(isinstance(values[name], str) and DIGEST.fullmatch(values[name]) for name in ("base", "model")):
        raise ReplyError("the payload names models by something else than digests")
    return Header(**values), payload[end:]


def unseal(frame: Buffer, fewest: int, most: int) -> bytes:
    """The content of a frame, which must be of so many bytes.

    Raises:
        ReplyError: it is of another size, cut off, damaged, or followed by something else.
    """
    try:
        told = zstandard.get_frame_parameters(frame)
        if not fewest <= told.content_size <= most or told.window_size > _LARGEST_WINDOW:
            raise ReplyError("the payload's content is not of the size that the model takes")
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ReplyError("the payload is cut off, damaged, or followed by something else") from error
