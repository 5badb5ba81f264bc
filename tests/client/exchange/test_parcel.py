"""Models and updates as they lie in messages. Oracles: the server's and the site's sides give the same bits; sums."""

from itertools import pairwise

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from client.exchange.coding import flat, sizes
from client.exchange.container import Header, seal
from client.exchange.parcel import (
    PACKED,
    Change,
    changed,
    digest_of_weights,
    is_packed,
    open_update,
    pack_change,
    pack_update,
    pack_whole,
    plain_model,
    read_parcel,
    record_of_payload,
)
from client.exchange.settings import CODECS, EXCHANGES, Codec
from client.weights import WEIGHTS, Weights, check_layout, encode_weights, is_buffer
from segformer3d.errors import ReplyError
from tests.examples import examples

from ..tiny_site import RUN, TINY, tiny_weights

PACKING = [exchange for exchange in EXCHANGES.values() if not exchange.plain]
MODEL = tiny_weights()
BASE = digest_of_weights(MODEL)


def moved(weights: Weights, seed: int, by: float = 1e-3) -> Weights:
    generator = np.random.default_rng(seed)
    return {
        name: value + 1 if is_buffer(name) else value + generator.normal(0, by, value.shape).astype(np.float32)
        for name, value in weights.items()
    }


def at_site(change: Change, held: Weights | None) -> Weights:
    parcel = read_parcel(record_of_payload(change.payload))
    values = parcel.values(MODEL)
    return values if held is None else changed(held, values)


@pytest.mark.parametrize("exchange", PACKING, ids=lambda exchange: exchange.name)
def test_server_and_sites_hold_the_same_model_which_follows_the_exact_one(exchange: object) -> None:
    exact, held = MODEL, None
    distances = []
    for number in range(8):
        change = pack_change(exact, held, exchange)  # type: ignore[arg-type]
        mine = at_site(change, held)
        assert digest_of_weights(mine) == change.digest == digest_of_weights(change.model)
        assert read_parcel(record_of_payload(change.payload)).whole == (held is None)
        assert all(np.array_equal(mine[name], exact[name]) for name in exact if is_buffer(name))
        distances.append(float(np.linalg.norm(flat(exact) - flat(mine))))
        held = change.model
        if number < 4:
            exact = moved(exact, number)
    # Once the exact model stands still, every message makes up for some of what the ones before it have lost.
    assert all(later <= 0.3 * sooner or later < 1e-5 for sooner, later in pairwise(distances[4:]))


def test_a_whole_model_arrives_to_the_last_bit() -> None:
    held = pack_change(MODEL, None, EXCHANGES["compact"])
    payload = pack_whole(held.model, held.digest, "c" * 64)
    parcel = read_parcel(record_of_payload(payload))
    assert parcel.whole
    assert (parcel.header.base, parcel.header.model) == ("c" * 64, held.digest)
    assert digest_of_weights(parcel.values(MODEL)) == held.digest


@pytest.mark.parametrize("exchange", PACKING, ids=lambda exchange: exchange.name)
def test_the_server_gets_what_the_site_counts_as_its_update(exchange: object) -> None:
    update = moved({name: np.zeros_like(value) for name, value in MODEL.items()}, 5)
    codec = exchange.up  # type: ignore[attr-defined]
    sent, payload = pack_update(update, BASE, codec, (1, 2))
    got = open_update(record_of_payload(payload), codec, BASE, MODEL)
    assert all(np.array_equal(got[name], sent[name]) for name in MODEL)
    assert pack_update(update, BASE, codec, (1, 2))[1] == payload
    if codec.random:
        assert pack_update(update, BASE, codec, (1, 3))[1] != payload


def test_an_update_of_another_codec_or_model_is_refused() -> None:
    up = EXCHANGES["compact"].up
    assert up is not None
    _, payload = pack_update(MODEL, BASE, up, (1,))
    with pytest.raises(ReplyError, match="of another model"):
        open_update(record_of_payload(payload), up, "d" * 64, MODEL)
    with pytest.raises(ReplyError, match="of codec int8"):
        open_update(record_of_payload(payload), EXCHANGES["int8"].up, BASE, MODEL)  # type: ignore[arg-type]
    whole = pack_whole(MODEL, BASE, "")
    with pytest.raises(ReplyError, match="of codec int4"):
        open_update(record_of_payload(whole), up, BASE, MODEL)


def test_an_update_of_another_architecture_is_refused() -> None:
    up = EXCHANGES["int8"].up
    assert up is not None
    other = {**MODEL, "more.weight": np.zeros(3, np.float32)}
    _, payload = pack_update(other, BASE, up, (1,))
    with pytest.raises(ReplyError, match="not of the size that the model takes"):
        open_update(record_of_payload(payload), up, BASE, MODEL)


def test_plain_weights_and_payloads_are_not_taken_for_each_other() -> None:
    up = EXCHANGES["int8"].up
    assert up is not None
    plain, packed = encode_weights(MODEL), record_of_payload(pack_whole(MODEL, BASE, ""))
    assert (is_packed(plain), is_packed(packed)) == (False, True)
    with pytest.raises(ReplyError, match="not in the exchange that the run has"):
        open_update(plain, up, BASE, MODEL)
    with pytest.raises(ReplyError, match="not the safetensors"):
        plain_model(RUN, TINY, packed)
    assert not is_packed(ArrayRecord())


@pytest.mark.parametrize(
    "record",
    [
        ArrayRecord(),
        ArrayRecord({"other": Array("uint8", (1,), PACKED, b"a")}),
        ArrayRecord({WEIGHTS: Array("uint8", (2,), PACKED, b"a")}),
        ArrayRecord({WEIGHTS: Array("float32", (1,), PACKED, b"a")}),
        ArrayRecord({WEIGHTS: Array("uint8", (1,), PACKED, b"a"), "more": Array("uint8", (1,), PACKED, b"a")}),
        ArrayRecord({WEIGHTS: Array("uint8", (0,), PACKED, b"")}),
    ],
)
def test_records_of_another_form_are_refused(record: ArrayRecord) -> None:
    with pytest.raises(ReplyError):
        read_parcel(record)


@settings(max_examples=examples(200))
@given(st.sampled_from([name for name in CODECS if name != "exact"]), st.integers(0, 2**32), st.data())
def test_a_well_sealed_payload_of_anything_is_weights_of_the_layout_or_refused(
    name: str, seed: int, data: st.DataObject
) -> None:
    """Bytes of every value, or of small ones only, of a size that may be right: never another exception, never NaN."""
    layout = {"a": np.zeros((3, 5), np.float32), "b": np.zeros(700, np.float32), "n.running_mean": np.zeros(2, "f4")}
    fewest, most = sizes(name, layout)
    size = data.draw(st.integers(fewest - 1, most + 1))
    body = np.random.default_rng(seed).integers(0, data.draw(st.sampled_from([3, 60, 256])), size, np.uint8).tobytes()
    record = record_of_payload(seal(Header(name, BASE), [body]))
    with np.errstate(over="ignore"):
        try:
            found = open_update(record, Codec(name), BASE, layout)
        except ReplyError:
            return
    assert fewest <= size <= most
    check_layout(found, layout)
    assert not any(np.isnan(value).any() for key, value in found.items() if not is_buffer(key))
