"""SCAFFOLD's control variates on the wire: all of them, by the codec that the run's exchange has for a model's change.

The server's c goes down anew each round; what is lost of it is the same at all sites, and not carried on. What goes up
is c_i' - c_i, and a site goes on from c_i and what the server got of it, so that what was lost is part of its next
change (Richtárik, Sokolov & Fatkhullin, "EF21", NeurIPS 2021) and c stays the mean of what sites keep.
"""

from flwr.app import ArrayRecord

from client.exchange.parcel import open_update, pack_update
from client.exchange.settings import Exchange
from client.weights import Weights, decode_weights

_KEY = (0,)  # none of these codecs rounds at random
_NO_MODEL = ""


def pack_control(control: Weights, exchange: Exchange) -> tuple[Weights, bytes | None]:
    """Control variates by parameter as those who get them will see them, and their payload; None in a plain exchange.

    Raises:
        ReplyError: they are not finite.
    """
    if exchange.down is None:
        return control, None
    return pack_update(control, _NO_MODEL, exchange.down, _KEY)


def open_control(record: ArrayRecord, exchange: Exchange, parameters: Weights) -> Weights:
    """The control variates in a record; a payload is read as these parameters.

    Raises:
        ReplyError: they are not what they must be.
    """
    if exchange.down is None:
        return decode_weights(record)
    return open_update(record, exchange.down, _NO_MODEL, parameters)
