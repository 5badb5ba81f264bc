"""pydicom, used so that it says nothing by itself: it quotes values in its warnings, and they may be a patient's."""

import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segformer3d.errors import CaseError, DataError

if TYPE_CHECKING:
    from pydicom import Dataset

_PREAMBLE, _MAGIC = 128, b"DICM"
# Old archives leave the preamble out: such a file begins with an element of group 0002 or 0008.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
_UNDEFINED = 0xFFFFFFFF  # the length of an element that ends with a mark
DEFLATED = "1.2.840.10008.1.2.1.99"  # a transfer syntax: everything behind the file meta information is compressed
_LOGGERS = ("pydicom", "highdicom")

# What pydicom and highdicom raise, besides their own errors, when a file does not hold what they look for.
_COMMON_ERRORS = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError)
_RARE_ERRORS = (MemoryError, AssertionError, struct.error, zlib.error)


@contextmanager
def quietly() -> Iterator[None]:
    """The libraries neither warn nor log nor check values that nobody asks for."""
    from pydicom import config

    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def refusing(text: str) -> Iterator[None]:
    """Whatever the libraries fail with on a file becomes one line without their words.

    For bodies that do nothing but call them and convert what they return.

    Raises:
        CaseError: with this text.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        with quietly():
            yield
    except CaseError:
        raise
    except (*_COMMON_ERRORS, *_RARE_ERRORS, InvalidDicomError, BytesLengthException) as error:
        raise CaseError(text) from error


def is_dicom(path: Path) -> bool:
    """Whether a file looks like DICOM, by its first bytes; what cannot be opened does not."""
    return _has_magic(_head(path)) or _lacks_preamble(_head(path))


def is_blank(path: Path) -> bool:
    """Whether a file begins with nothing: empty, zeros where DICOM would begin (a copy that broke off), unreadable."""
    return not any(_head(path))


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, or the file itself, sorted; hidden ones left out. What does not exist has none.

    Raises:
        DataError: a folder cannot be read.
    """
    if folder.is_file():
        yield folder
        return
    for where, folders, files in os.walk(folder, onerror=_unreadable_folder) if folder.exists() else ():
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where, name) for name in sorted(files) if not name.startswith("."))


def read_header(path: Path, keywords: tuple[str, ...] | None = None) -> "Dataset":
    """A file's elements before the pixels: those of these keywords, or all.

    Raises:
        CaseError: it is damaged.
    """
    return read_to_pixels(path, keywords)[0]


def read_to_pixels(path: Path, keywords: tuple[str, ...] | None = None) -> "tuple[Dataset, bool]":
    """The same, and whether something follows: a file that was cut off within its header reads like a shorter one.

    Raises:
        CaseError: it is damaged.
    """
    from pydicom import dcmread

    force, tags = _lacks_preamble(_head(path)), list(keywords) if keywords else None
    with refusing("a DICOM file is truncated or damaged; export its series again"), path.open("rb") as file:
        header = dcmread(file, stop_before_pixels=True, force=force, specific_tags=tags)
        more = file.tell() < path.stat().st_size
        _check_lengths(header)
        # A deflated file has been read as a whole; its own checksum says whether it was cut off.
        return header, more or header.file_meta.get("TransferSyntaxUID") == DEFLATED


def name_of(uid: str) -> str:
    """What the standard calls what a UID stands for; "" where it does not know it."""
    from pydicom.uid import UID

    with quietly():
        name = UID(uid).name
    return "" if name == uid else name


def decoder_of(encoding: str) -> tuple[str, bool]:
    """The name of a transfer syntax, "" where pixels cannot be of it, and whether something installed decodes it."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    with quietly():
        try:
            return name_of(encoding), get_decoder(UID(encoding)).is_available
        except NotImplementedError:
            return "", False


def _check_lengths(header: "Dataset") -> None:
    """Pydicom takes the value of an element that a file ends in as it is."""
    from pydicom.dataelem import RawDataElement

    for tag in header.keys():  # noqa: SIM118 - the values would be decoded
        raw = header.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.value is not None and _UNDEFINED != raw.length > len(raw.value):
            raise EOFError


def _unreadable_folder(error: OSError) -> None:
    raise DataError(f"a folder cannot be read ({error.strerror}); give this account the right to read it") from error


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE + len(_MAGIC))
    except OSError:
        return b""


def _has_magic(head: bytes) -> bool:
    return head[_PREAMBLE:] == _MAGIC


def _lacks_preamble(head: bytes) -> bool:
    return len(head) > 8 and head[:2] in _FIRST_GROUPS and not _has_magic(head)
