"""Quantisation in blocks: whole numbers of steps, one step a block, and several of them in a byte.

For a block x with step s, of which only 16 bits travel (rounded up, so that s is no smaller than was asked for):

    nearest   q = round(x / s)                          |x - q s| <= s / 2
    random    q = floor(x / s + u), u uniform in [0, 1)   E[q s] = x, |x - q s| < s

both cut off at ± the largest symbol. Symbols are packed as digits, as many as fit in a byte: a byte of several symbols
lets the Huffman codes of Zstandard come within a hundredth of the entropy where symbols of two bits would cost a fifth.
"""

import math

import numpy as np
from numpy.typing import NDArray

from client.exchange.settings import LEVELS, Codec
from segformer3d.errors import ReplyError

Floats = NDArray[np.float32]
BLOCK = 512  # values with one step: 2 bytes, 0.03 bits a value


class NotFiniteError(ReplyError):
    """Values that are not finite: training that exploded, or somebody who wants to break the average."""

    remedy = "lower the learning rate, or see the log at the site"


def blocks_of(count: int) -> int:
    """How many blocks so many values make; the last one may be shorter."""
    return -(-count // BLOCK)


def steps_bytes(count: int) -> int:
    """Bytes of the steps of so many values."""
    return 2 * blocks_of(count)


def symbols_bytes(count: int, levels: int) -> int:
    """Bytes of so many packed symbols."""
    return -(-count // _digits(levels))


def quantise(
    values: Floats, codec: Codec, generator: np.random.Generator
) -> tuple[NDArray[np.uint16], NDArray[np.int8]]:
    """Steps (upper halves of float32, one a block) and symbols in [-levels, levels] of float32 values (N,).

    A block that holds a value that is not finite gets a step that is not finite, and `dequantise` refuses it.
    """
    levels = LEVELS[codec.name]
    padded = np.zeros(blocks_of(values.size) * BLOCK, np.float32)
    padded[: values.size] = values
    blocks = padded.reshape(-1, BLOCK)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = upper_half(_widths(blocks, codec.step, levels))
        width = widths_of(steps)[:, None]
        blocks /= np.where(width > 0, width, np.float32(1))
        if codec.random:
            blocks += generator.random(blocks.shape, np.float32)
            np.floor(blocks, out=blocks)
        else:
            np.rint(blocks, out=blocks)
        np.clip(blocks, -levels, levels, out=blocks)
        np.copyto(blocks, 0, where=~np.isfinite(width) | (width == 0))
        return steps, padded[: values.size].astype(np.int8)


def dequantise(steps: NDArray[np.uint16], symbols: NDArray[np.int8]) -> Floats:
    """The values that steps and symbols stand for, float32 (N,).

    Raises:
        NotFiniteError: a step is not finite, or negative.
    """
    width = widths_of(steps)
    if not np.isfinite(width).all() or np.signbit(width).any():
        raise NotFiniteError("it holds values that are not finite")
    padded = np.zeros(steps.size * BLOCK, np.float32)
    padded[: symbols.size] = symbols
    with np.errstate(over="ignore"):
        np.multiply(padded.reshape(-1, BLOCK), width[:, None], out=padded.reshape(-1, BLOCK))
    return padded[: symbols.size]


def pack(symbols: NDArray[np.int8], levels: int) -> bytes:
    """Symbols as digits of base 2 levels + 1, as many a byte as fit."""
    radix, digits = 2 * levels + 1, _digits(levels)
    padded = np.zeros(symbols_bytes(symbols.size, levels) * digits, np.uint8)
    padded[: symbols.size] = (symbols.view(np.uint8) + np.uint8(levels)).view(np.uint8)  # modulo 256: never negative
    columns = padded.reshape(-1, digits)
    packed = columns[:, 0].copy()
    for digit in range(1, digits):
        packed *= np.uint8(radix)
        packed += columns[:, digit]
    return packed.tobytes()


def unpack(packed: NDArray[np.uint8], count: int, levels: int) -> NDArray[np.int8]:
    """So many symbols out of bytes that `pack` made.

    Raises:
        ReplyError: a byte stands for no symbols.
    """
    radix, digits = 2 * levels + 1, _digits(levels)
    if packed.size and int(packed.max()) >= radix**digits:
        raise ReplyError("it holds symbols out of their range")
    table = _table(radix, digits, levels)
    symbols = table[packed].reshape(-1)
    if not (symbols[count:] == -levels).all():
        raise ReplyError("it holds more symbols than values")
    return symbols[:count]


def upper_half(values: Floats) -> NDArray[np.uint16]:
    """The upper 16 bits of float32 values that are not negative, rounded up; what is not finite stays so."""
    bits = values.view(np.uint32) & np.uint32(0x7FFFFFFF)  # there is a negative zero
    rounded = (bits >> np.uint32(16)) + ((bits & np.uint32(0xFFFF)) != 0)
    halves: NDArray[np.uint16] = np.minimum(rounded, np.uint32(0x7FFF)).astype(np.uint16)
    return halves


def widths_of(steps: NDArray[np.uint16]) -> Floats:
    """The float32 values that `upper_half` kept."""
    return (steps.astype(np.uint32) << np.uint32(16)).view(np.float32)


def largest_of(blocks: Floats) -> Floats:
    """The largest size of the values of each block (B, N): (B,)."""
    largest: Floats = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    return largest


_TINIEST = np.float32(1e-45)


def _widths(blocks: Floats, step: float | None, levels: int) -> Floats:
    widths: Floats
    if step is None:
        largest = largest_of(blocks)
        widths = np.maximum(largest / np.float32(levels), np.minimum(largest, _TINIEST))  # no step of 0 for any value
    else:
        squares = np.einsum("ij,ij->i", blocks, blocks)
        widths = np.float32(step) * np.sqrt(squares / np.float32(BLOCK))
    return widths


def _digits(levels: int) -> int:
    return int(math.log(256) / math.log(2 * levels + 1))


def _table(radix: int, digits: int, levels: int) -> NDArray[np.int8]:
    """The symbols behind each byte, the first digit first: (radix ** digits, digits)."""
    numbers = np.arange(radix**digits)
    columns = [numbers // radix ** (digits - 1 - digit) % radix - levels for digit in range(digits)]
    return np.stack(columns, axis=1).astype(np.int8)
