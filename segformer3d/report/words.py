"""How numbers are written in a report: fixed digits, a real minus, and an interval as "0.861 to 0.884"."""

import math

from segformer3d.report.document import Cell
from segformer3d.statistics import Summary

NOTHING = "–"


def fixed(value: float | None, digits: int = 3) -> str:
    """So many digits, or a dash for what is unknown."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """The same with its sign, as differences are written."""
    return NOTHING if value is None or math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] in percent."""
    return fixed(None if share is None else 100 * share, digits) + ("" if share is None else " %")


def interval(summary: Summary, digits: int = 3, *, sign: bool = False) -> str:
    """The interval of a mean; of fewer than two values there is none."""
    if summary.count < 2:
        return ""
    write = signed if sign else fixed
    return f"{write(summary.low, digits)} to {write(summary.high, digits)}"


def mean_cell(summary: Summary, digits: int = 3, *, sign: bool = False, strong: bool = False) -> Cell:
    """A mean with its interval below, and how many cases could not count."""
    excluded = f"{summary.excluded} undefined" if summary.excluded else ""
    detail = "; ".join(part for part in (interval(summary, digits, sign=sign), excluded) if part)
    return Cell((signed if sign else fixed)(summary.mean, digits), detail, strong)


def counted(number: int, what: str, many: str = "") -> str:
    """A number and what it counts: "1 case", "3 cases"."""
    return f"{number} {what if number == 1 else many or what + 's'}"
