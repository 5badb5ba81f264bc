"""Timing side by side: repeats are interleaved, so that a neighbour's load on the machine meets all alike."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """Repeated measurements of one thing, in seconds, in the order in which they were made."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the repeats took longer."""
        return statistics.median(self.seconds)

    @property
    def noise(self) -> float:
        """Half the distance between the quartiles over the median: how far repeats scatter."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median


def interleaved(runs: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Series]:
    """Call every run once, then every run again, and so on; a run returns its own seconds. The first turn is free."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(run())
    return {name: Series(tuple(values)) for name, values in seconds.items()}


def times_as_fast(baseline: Series, other: Series) -> float:
    """The median over the turns of how many times as long the baseline took in the same turn."""
    return statistics.median(a / b for a, b in zip(baseline.seconds, other.seconds, strict=True))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def spoken(series: Series) -> str:
    """Median and noise for people: "0.512 s ±3 %"."""
    digits = 3 if series.median < 10 else 1
    return f"{series.median:.{digits}f} s ±{series.noise:.0%}"
