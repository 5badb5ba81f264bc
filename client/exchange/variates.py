"""SCAFFOLD's control variates on the wire: all of them, and but for fp32 in five bits each, whatever the exchange.

The server's c goes down anew each round; what is lost of it is the same at all sites, and not carried on. What goes up
is c_i' - c_i, and a site goes on from c_i and what the server got of it, so that what was lost is part of its next
change (Richtárik, Sokolov & Fatkhullin, "EF21", NeurIPS 2021) and c stays the mean of what sites keep. The codec loses
less than a third of a block's norm (all of it where float32 cannot hold its squares, which is next to nothing), which
bounds how long a change can be (`server.replies`).
"""

from flwr.app import ArrayRecord

from client.exchange.parcel import NO_KEY, open_update, pack_update
from client.exchange.settings import FINE, Exchange
from client.weights import Weights, decode_weights

_NO_MODEL = ""


def pack_control(control: Weights, exchange: Exchange) -> tuple[Weights, bytes | None]:
    """Control variates by parameter as those who get them will see them, and their payload; None in a plain exchange.

    Raises:
        ReplyError: they are not finite.
    """
    if exchange.plain:
        return control, None
    return pack_update(control, _NO_MODEL, FINE, NO_KEY)


def open_control(record: ArrayRecord, exchange: Exchange, parameters: Weights) -> Weights:
    """The control variates in a record; a payload is read as these parameters.

    Raises:
        ReplyError: they are not what they must be.
    """
    if exchange.plain:
        return decode_weights(record)
    return open_update(record, FINE, _NO_MODEL, parameters)
