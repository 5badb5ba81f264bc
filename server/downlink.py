"""The model on its way down: as it is, or as the change of the model that a site holds.

The server keeps x, the exact model, and h, the one that sites hold (`client.exchange.parcel` says how h follows x).
What each site holds is known from what it said when it prepared its data, and from the rounds that it has been there
for since. Whoever does not hold the h of the round before gets the new one whole, and so does a site that turns out
not to.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from flwr.app import RecordDict

from client.contract import counting
from client.exchange.parcel import Change, pack_change, pack_whole
from client.exchange.settings import Exchange
from client.weights import Weights
from server.records import message_bytes

HELD = "held"  # what h is called in the state's memory
Encode = Callable[[bytes | None], RecordDict]


@dataclass(frozen=True, eq=False)
class NextModel:
    """The model that sites are about to get.

    Attributes:
        weights: all of it, as sites will hold it.
        change: how it follows from the one before; None where it travels as it is.
    """

    weights: Weights
    change: Change | None = None

    @property
    def digest(self) -> str:
        """Of the model, where it does not travel as it is."""
        return "" if self.change is None else self.change.digest

    @property
    def memory(self) -> Mapping[str, Weights]:
        """What the state remembers of it."""
        return {} if self.change is None else {HELD: self.weights}


def next_model(weights: Weights, memory: Mapping[str, Weights], exchange: Exchange) -> NextModel:
    """What sites get when the model is this, and the state has this memory."""
    if exchange.plain:
        return NextModel(weights)
    change = pack_change(weights, memory.get(HELD), exchange)
    return NextModel(change.model, change)


class Delivery:
    """One request with a model in it, as each site gets it.

    Args:
        model: what is delivered.
        encode: makes the request around a payload, or around plain weights for None.
        holds: the digest of the model that each site holds, by the site's name.
        counted: the last round whose reply counted, by the site's name, where requests say so.
    """

    def __init__(
        self, model: NextModel, encode: Encode, holds: Mapping[str, str], counted: Mapping[str, int] | None = None
    ) -> None:
        self._model = model
        self._encode = encode
        self._counted = counted
        change = model.change
        self._whole: set[str] = set()
        if change is not None and change.base:  # anybody can do with a change from nothing
            self._whole = {site for site, held in holds.items() if held not in (change.base, change.digest)}
        self._in_vain: set[str] = set()

    def groups(self, sites: Mapping[int, str]) -> Iterator[tuple[RecordDict, Sequence[int]]]:
        """Requests, and the nodes that get each of them; `sites` are the nodes' names."""
        if self._counted is not None:
            for node, site in sites.items():
                request = self._long if site in self._whole else self._short
                yield counting(request, self._counted.get(site, 0)), [node]
            return
        whole = [node for node, site in sites.items() if site in self._whole]
        others = [node for node, site in sites.items() if site not in self._whole]
        if others:
            yield self._short, others
        if whole:
            yield self._long, whole

    def send_whole(self, site: str) -> bool:
        """A site does not hold what it should: whether there is a whole model that it has not been sent yet."""
        if self._model.change is None or site in self._whole:
            return False
        self._whole.add(site)
        self._in_vain.add(site)
        return True

    def bytes_down(self, site: str) -> int:
        """Bytes that went to a site, with the change that it could do nothing with."""
        if site not in self._whole:
            return self._short_bytes
        return self._long_bytes + (self._short_bytes if site in self._in_vain else 0)

    @cached_property
    def _short(self) -> RecordDict:
        change = self._model.change
        return self._encode(None if change is None else change.payload)

    @cached_property
    def _long(self) -> RecordDict:
        change = self._model.change
        assert change is not None, "plain weights are whole already"
        return self._encode(pack_whole(change.model, change.digest, change.base))

    @cached_property
    def _short_bytes(self) -> int:
        return message_bytes(self._short)

    @cached_property
    def _long_bytes(self) -> int:
        return message_bytes(self._long)
