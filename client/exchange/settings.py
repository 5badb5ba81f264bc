"""The exchanges that a federation can choose from: which codec its updates take up, and which its models take down.

    fp32     as it is, bit for bit
    fp16     half precision
    int8     255 steps between the largest change of a block and its negative, rounded at random (unbiased)
    int4     15 such steps
    int2     three values a change: down, none, up (as in TernGrad, Wen et al. 2017, but with nearest rounding)
    sparse   the largest twentieth of the changes (Aji & Heafield, EMNLP 2017; Lin et al., ICLR 2018)
    compact  steps as wide as the changes of a block are large on average: about two bits a change up and five down

What a codec loses is not lost to training: a site adds it to its next update (error feedback: Seide et al.,
Interspeech 2014; Karimireddy et al., ICML 2019), and the server to its next model. That holds up only while a codec
loses less than it is given: steps by the largest change of a block and random rounding lose more than that at three
values, so `int2` and `compact` round to the nearest value and take their steps from the mean square of a block.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segformer3d.errors import ConfigurationError

# Codecs by their names on the wire; of those that quantise, the largest symbol.
EXACT, HALF, SPARSE = "exact", "half", "sparse"
LEVELS: Mapping[str, int] = {"int8": 127, "int4": 7, "int2": 1, SPARSE: 127}
CODECS = (EXACT, HALF, *LEVELS)
SHARE = 0.05  # of the values that a sparse update keeps


@dataclass(frozen=True)
class Codec:
    """How values are coded.

    Attributes:
        name: what the reader must know: one of `CODECS`.
        step: the width of a step over the root mean square of a block; None: the largest value of a block is the
            largest symbol, so that nothing is cut off.
        random: whether values are rounded at random, so that they are right on average; else to the nearest step.
    """

    name: str
    step: float | None = None
    random: bool = False


@dataclass(frozen=True)
class Exchange:
    """What travels in a run.

    Attributes:
        name: what people call it.
        up: of a site's update; None: float32 as it is.
        start: of the first model, which sites have nothing to compare with; None likewise.
        down: of a model's change from the one that a site holds; None: all of the model, as it is.
    """

    name: str
    up: Codec | None = None
    start: Codec | None = None
    down: Codec | None = None

    @property
    def plain(self) -> bool:
        """Whether weights travel as they are, and nobody need remember anything."""
        return self.up is None


_INT8 = Codec("int8")
FINE = Codec("int8", step=1 / 8)
# A Gaussian block costs 1.97 bits a value in steps of 1.1 and loses a tenth of its square; in steps of an eighth, 5.05
# bits and a thousandth. No other shape of the same mean square costs more. Ternary steps are Lloyd's and Max's.
_CHOICES = (
    Exchange("fp32"),
    Exchange("fp16", Codec(HALF), Codec(HALF), Codec(HALF)),
    Exchange("int8", Codec("int8", random=True), _INT8, _INT8),
    Exchange("int4", Codec("int4", random=True), _INT8, Codec("int4")),
    Exchange("int2", Codec("int2", step=1.22), _INT8, Codec("int4")),
    Exchange("sparse", Codec(SPARSE, random=True), _INT8, _INT8),
    Exchange("compact", Codec("int4", step=1.1), _INT8, FINE),
)
EXCHANGES: Mapping[str, Exchange] = {exchange.name: exchange for exchange in _CHOICES}
PLAIN = "fp32"


def named_exchange(name: Any) -> Exchange:
    """The exchange of this name.

    Raises:
        ConfigurationError: there is none; the text lists the known ones.
    """
    if not isinstance(name, str) or name not in EXCHANGES:
        raise ConfigurationError(f"exchange must be one of {', '.join(EXCHANGES)}, got {name!r}")
    return EXCHANGES[name]
