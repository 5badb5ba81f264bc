"""Quantisation. Oracles: the bounds and the mean that the formulas promise, inverses, determinism."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from client.exchange.quantisation import (
    BLOCK,
    Floats,
    NotFiniteError,
    dequantise,
    pack,
    quantise,
    symbols_bytes,
    unpack,
    upper_half,
    widths_of,
)
from client.exchange.settings import EXCHANGES, LEVELS, Codec
from segformer3d.errors import ReplyError

# Sizes around a block's, and values of every size that a step can be taken of without its square leaving float32.
VALUES = arrays(
    np.float32,
    st.one_of(st.integers(0, 40), st.integers(BLOCK - 2, 2 * BLOCK + 2)),
    elements=st.one_of(
        st.just(0.0), st.floats(-(2.0**50), 2.0**50, width=32), st.floats(-(2.0**-10), 2.0**-10, width=32)
    ),
)
CODECS = [codec for e in EXCHANGES.values() for codec in (e.up, e.start, e.down) if codec and codec.name in LEVELS]


def sent(values: Floats, codec: Codec, seed: int = 0) -> tuple[Floats, Floats]:
    """What arrives, and the width of the step of each value."""
    steps, symbols = quantise(values, codec, np.random.default_rng(seed))
    assert np.abs(symbols.astype(int)).max(initial=0) <= LEVELS[codec.name]
    return dequantise(steps, symbols), np.repeat(widths_of(steps), BLOCK)[: values.size]


@given(VALUES, st.sampled_from(CODECS), st.integers(0, 9))
def test_nothing_is_further_off_than_its_step_unless_it_was_cut_off(values: Floats, codec: Codec, seed: int) -> None:
    arrived, width = sent(values, codec, seed)
    bound = (1.0 if codec.random else 0.5) * width.astype(np.float64) * (1 + 1e-5)
    inside = np.abs(values) <= width.astype(np.float64) * LEVELS[codec.name]
    assert inside.all() or codec.step is not None
    assert (np.abs(arrived.astype(np.float64) - values) <= bound)[inside].all()
    assert (np.abs(arrived) <= np.abs(values))[~inside].all()
    assert (np.sign(arrived) * np.sign(values) >= 0).all()


@given(VALUES, st.sampled_from([codec for codec in CODECS if not codec.random]))
def test_what_is_rounded_to_the_nearest_step_loses_no_more_than_there_was(values: Floats, codec: Codec) -> None:
    """Value by value, which keeps the feedback of errors from growing."""
    arrived, _ = sent(values, codec)
    assert (np.abs(values.astype(np.float64) - arrived) <= np.abs(values) * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_random_rounding_is_right_on_average(name: str) -> None:
    """The mean of n roundings lies within 5 standard errors; one of them deviates by half a step at most."""
    values = np.random.default_rng(3).normal(0, 1e-3, 2 * BLOCK).astype(np.float32)
    n, codec = 4000, Codec(name, random=True)
    generator = np.random.default_rng(4)
    total = np.zeros(values.size)
    for _ in range(n):
        steps, symbols = quantise(values, codec, generator)
        total += dequantise(steps, symbols)
    width = np.repeat(widths_of(steps), BLOCK)
    assert (np.abs(total / n - values) <= 5 * 0.5 * width / np.sqrt(n)).all()
    nearest, _ = sent(values, Codec(name))
    assert (np.abs(nearest - values) > 5 * 0.5 * width / np.sqrt(n)).any()  # which could not be said of the nearest


def test_a_gaussian_block_loses_what_the_settings_say() -> None:
    """A tenth of its square up and a thousandth down, in `compact`; Lloyd and Max give 0.190 for three values."""
    values = np.random.default_rng(0).normal(0, 2e-4, 400 * BLOCK).astype(np.float32)
    lost = {
        codec: float(np.square(sent(values, codec)[0] - values).sum() / np.square(values).sum())
        for name in ("compact", "int2")
        for codec in (EXCHANGES[name].up, EXCHANGES[name].down)
        if codec
    }
    up, down, ternary, _ = lost.values()
    assert up == pytest.approx(1.1**2 / 12, rel=0.05)
    assert down == pytest.approx(1 / 64 / 12, rel=0.05)
    assert ternary == pytest.approx(0.190, abs=0.003)


def test_the_same_key_gives_the_same_symbols_and_another_one_others() -> None:
    values = np.random.default_rng(1).normal(size=BLOCK).astype(np.float32)
    draws = [quantise(values, Codec("int4", random=True), np.random.default_rng([7, n]))[1] for n in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


@given(st.data(), st.sampled_from(sorted(set(LEVELS.values()))))
def test_packed_symbols_come_back(data: st.DataObject, levels: int) -> None:
    symbols = data.draw(arrays(np.int8, st.integers(0, 50), elements=st.integers(-levels, levels)))
    packed = pack(symbols, levels)
    assert len(packed) == symbols_bytes(symbols.size, levels)
    assert np.array_equal(unpack(np.frombuffer(packed, np.uint8), symbols.size, levels), symbols)


def test_small_symbols_share_a_byte() -> None:
    assert [symbols_bytes(1000, levels) for levels in (127, 7, 1)] == [1000, 500, 200]


@pytest.mark.parametrize(("byte", "levels"), [(255, 127), (225, 7), (243, 1)])
def test_bytes_that_stand_for_no_symbols_are_refused(byte: int, levels: int) -> None:
    with pytest.raises(ReplyError, match="out of their range"):
        unpack(np.array([byte], np.uint8), 1, levels)


def test_symbols_beyond_the_values_are_refused() -> None:
    packed = np.frombuffer(pack(np.array([1, 1], np.int8), 7), np.uint8)
    with pytest.raises(ReplyError, match="more symbols than values"):
        unpack(packed, 1, 7)


@given(arrays(np.float32, 20, elements=st.floats(0, 2.0**127, width=32)))
def test_half_of_a_float_is_no_smaller_and_hardly_larger(values: Floats) -> None:
    kept = widths_of(upper_half(values)).astype(np.float64)
    normal = values >= np.finfo(np.float32).tiny
    assert (kept >= values).all()
    assert (kept <= values.astype(np.float64) * (1 + 2**-7))[normal].all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_values_that_are_not_finite_or_exploded_are_refused_by_who_reads_them(bad: float, codec: Codec) -> None:
    values = np.ones(BLOCK + 1, np.float32)
    values[-1] = bad
    steps, symbols = quantise(values, codec, np.random.default_rng(0))
    if bad == 1e30 and codec.step is None:  # large, but a number
        assert np.isfinite(dequantise(steps, symbols)).all()
        return
    with pytest.raises(NotFiniteError, match="not finite"):
        dequantise(steps, symbols)


@pytest.mark.parametrize("step", [0x7F80, 0x7FC0, 0xFF80, 0x8000, 0xBF80])
def test_steps_that_are_not_finite_or_negative_are_refused(step: int) -> None:
    with pytest.raises(NotFiniteError):
        dequantise(np.array([step], np.uint16), np.ones(3, np.int8))
