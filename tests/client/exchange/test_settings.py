"""The names of the exchanges, and what a name that nobody knows gets."""

import pytest

from client.exchange.settings import CODECS, EXCHANGES, PLAIN, named_exchange
from segformer3d.errors import ConfigurationError


def test_the_names_are_those_that_are_promised() -> None:
    assert list(EXCHANGES) == ["fp32", "fp16", "int8", "int4", "int2", "sparse", "compact"]
    assert [name for name, exchange in EXCHANGES.items() if exchange.plain] == [PLAIN]
    for exchange in EXCHANGES.values():
        assert all(codec is None or codec.name in CODECS for codec in (exchange.up, exchange.start, exchange.down))
        assert (exchange.up is None) == (exchange.start is None) == (exchange.down is None)
        # Sites must all get the same model: nothing that goes down is rounded at random.
        assert not any(codec and codec.random for codec in (exchange.start, exchange.down))


@pytest.mark.parametrize("name", ["int3", "", "FP32", None, 8])
def test_an_unknown_name_is_told_the_known_ones(name: object) -> None:
    with pytest.raises(ConfigurationError, match="one of fp32, fp16, int8, int4, int2, sparse, compact, got "):
        named_exchange(name)
