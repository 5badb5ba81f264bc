"""SCAFFOLD's control variates on the wire: whole, with little lost, and nothing lost for good."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.exchange.parcel import pack_update, record_of_payload
from client.exchange.settings import EXCHANGES, FINE, Exchange
from client.exchange.variates import open_control, pack_control
from client.weights import Weights, encode_weights, parameter_norm, parameters_of
from segformer3d.errors import ReplyError
from tests.client.tiny_site import tiny_weights

LOSSY = [exchange for exchange in EXCHANGES.values() if not exchange.plain]
PARAMETERS = parameters_of(tiny_weights())


def drawn(seed: int, heavy: float = 0.0) -> Weights:
    """Gaussian values; the heavier, the more of the sum of squares is in few of them."""
    generator = np.random.default_rng(seed)
    return {
        name: (generator.standard_normal(value.shape) * np.exp(heavy * generator.standard_normal(value.shape))).astype(
            np.float32
        )
        for name, value in PARAMETERS.items()
    }


def travelled(control: Weights, exchange: Exchange) -> tuple[Weights, Weights]:
    seen, payload = pack_control(control, exchange)
    record = encode_weights(control) if payload is None else record_of_payload(payload)
    return seen, open_control(record, exchange, PARAMETERS)


def test_they_travel_bit_for_bit_in_a_plain_exchange() -> None:
    control = drawn(0)
    for found in travelled(control, EXCHANGES["fp32"]):
        assert all(np.array_equal(found[name], value) for name, value in control.items())


@given(exchange=st.sampled_from(LOSSY), seed=st.integers(0, 1000), heavy=st.floats(0, 3))
def test_a_codec_loses_less_than_a_third_and_the_sender_knows_what_arrives(
    exchange: Exchange, seed: int, heavy: float
) -> None:
    """The bound that the server's check of their length rests on (`server.replies`)."""
    control = drawn(seed, heavy)
    seen, found = travelled(control, exchange)
    assert set(found) == set(PARAMETERS)
    assert all(np.array_equal(found[name], value) for name, value in seen.items())
    assert parameter_norm({name: control[name] - found[name] for name in control}) < parameter_norm(control) / 3


@pytest.mark.parametrize("exchange", LOSSY, ids=lambda exchange: exchange.name)
def test_what_is_lost_comes_with_the_next_change(exchange: Exchange) -> None:
    """A site whose gradients stay what they are has told all about them after a few rounds."""
    wanted = drawn(1)
    own = {name: np.zeros_like(value) for name, value in wanted.items()}
    for _ in range(8):
        seen, _ = pack_control({name: value - own[name] for name, value in wanted.items()}, exchange)
        own = {name: value + seen[name] for name, value in own.items()}
    assert parameter_norm({name: wanted[name] - own[name] for name in own}) < 1e-4 * parameter_norm(wanted)


@pytest.mark.parametrize("outlier", [5.0, 10.0, 20.0, 1000.0])
@pytest.mark.parametrize("exchange", LOSSY, ids=lambda exchange: exchange.name)
def test_a_block_with_one_large_value_loses_no_more(exchange: Exchange, outlier: float) -> None:
    generator = np.random.default_rng(3)
    values = generator.standard_normal((8, 512)).astype(np.float32)
    values[:, 7] = outlier
    seen, _ = pack_control({"w": values}, exchange)
    assert np.linalg.norm(values - seen["w"]) < np.linalg.norm(values) / 3


def test_what_is_no_payload_of_this_exchange_is_refused() -> None:
    compact = EXCHANGES["compact"]
    control = drawn(2)
    _, payload = pack_control(control, compact)
    assert payload is not None
    with pytest.raises(ReplyError, match="not in the exchange"):
        open_control(encode_weights(control), compact, PARAMETERS)
    with pytest.raises(ReplyError, match="cut off"):
        open_control(record_of_payload(payload[:-20]), compact, PARAMETERS)
    with pytest.raises(ReplyError, match="of another model"):
        open_control(record_of_payload(pack_update(control, "a" * 64, FINE, (0,))[1]), compact, PARAMETERS)
    with pytest.raises(ReplyError, match="not of the size"):
        open_control(record_of_payload(payload), compact, dict(list(PARAMETERS.items())[:-1]))
    with pytest.raises(ReplyError, match="safetensors"):
        open_control(record_of_payload(payload), EXCHANGES["fp32"], PARAMETERS)
