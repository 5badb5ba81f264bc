"""How many examples a property is tried on: few by day, twenty times as many at night (`.ci/nightly properties`)."""

import os

NIGHT = "SEGFED_NIGHT"
FACTOR = 20 if os.environ.get(NIGHT) else 1


def examples(by_day: int) -> int:
    """For `max_examples` of a property, from what suffices by day."""
    return by_day * FACTOR
