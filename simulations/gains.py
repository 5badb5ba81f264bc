"""What did my hospital gain? Every way of training, measured on each site's own cases, less the site's own model.

The cases are those that the site keeps from training, and no model in the comparison has trained on them. Differences
are paired by case, with a bootstrap interval and Wilcoxon's signed-rank test (`segformer3d.paired`); a verdict needs
both: an interval without nought and p < 0.05. Promises: of fewer than `MINIMUM_COUNT` cases there is an interval and no
verdict; every site asks a question of its own, so nothing is corrected for the number of sites.

A way of training is a mapping from sites to the scores of its model there. That of "alone" is another model at each
site; a personalised one would be, too, and is compared like any other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from segformer3d.paired import MEAN, paired_difference
from segformer3d.protocols import METRICS
from segformer3d.results import PairedDifference
from segformer3d.statistics import MINIMUM_COUNT, Summary, not_over_read, summarise

ALONE = "alone"
LEVEL = 0.05
MATRIX_SITES = 10  # the matrix takes as many measurements as the square of its sites

CaseDice = Mapping[str, float]  # a case's mean Dice over the structures that its label tells, by the case's name
Way = Mapping[str, CaseDice]  # by site
Verdict = Literal["gained", "lost", "no difference shown", "too few cases"]


@dataclass(frozen=True)
class Gain:
    """One way of training at one site.

    Attributes:
        way: its name.
        dice: the mean Dice of its model.
        difference: that less the Dice of the site's own model, case by case; not over-read, as `dice`.
        verdict: what may be said.
    """

    way: str
    dice: Summary
    difference: PairedDifference
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """The gain as plain JSON values."""
        return {
            "mean_dice": self.dice.to_json(),
            "difference": self.difference.difference.to_json(),
            "p_value": self.difference.p_value,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class SiteGains:
    """What each way of training is worth to one site: its own model's Dice, and the others'."""

    site: str
    alone: Summary
    gains: tuple[Gain, ...]

    @property
    def cases(self) -> int:
        """How many of its cases were measured."""
        return self.alone.count

    def to_json(self) -> dict[str, Any]:
        """The site's gains as plain JSON values."""
        gains = {gain.way: gain.to_json() for gain in self.gains}
        return {"cases": self.cases, ALONE: self.alone.to_json(), "against_alone": gains}


@dataclass(frozen=True)
class CrossSite:
    """Each model on each site's cases: the mean Dice, not over-read, in rows of models and columns of sites."""

    models: tuple[str, ...]
    sites: tuple[str, ...]
    dice: tuple[tuple[Summary, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """The matrix as plain JSON values."""
        rows = [[cell.to_json() for cell in row] for row in self.dice]
        return {"models": list(self.models), "sites": list(self.sites), "mean_dice": rows}


def gains_of(ways: Mapping[str, Way], seed: int) -> tuple[SiteGains, ...]:
    """Compare every way of training with "alone", site by site.

    Args:
        ways: the scores by way of training and site; all ways of a site have the same cases.
        seed: of the bootstrap.
    """
    others = {way: scores for way, scores in ways.items() if way != ALONE}
    return tuple(
        SiteGains(
            site,
            not_over_read(summarise(own.values(), seed)),
            tuple(_gain(way, scores[site], own, seed) for way, scores in others.items()),
        )
        for site, own in ways[ALONE].items()
    )


def _gain(way: str, scores: CaseDice, own: CaseDice, seed: int) -> Gain:
    first, second = (np.array([side[case] for case in own], np.float64) for side in (scores, own))
    paired = paired_difference(first, second, structure=MEAN, metric=METRICS[0], seed=seed)
    paired = replace(paired, difference=not_over_read(paired.difference))
    return Gain(way, not_over_read(summarise(first, seed)), paired, verdict(paired))


def verdict(paired: PairedDifference) -> Verdict:
    """What a difference allows to say."""
    low, high = paired.difference.low, paired.difference.high
    if paired.difference.count < MINIMUM_COUNT or paired.p_value is None or low is None or high is None:
        return "too few cases"
    if paired.p_value >= LEVEL or low <= 0 <= high:
        return "no difference shown"
    return "gained" if low > 0 else "lost"


def cross_site(models: Mapping[str, Way], sites: Sequence[str], seed: int) -> CrossSite:
    """The mean Dice of every model that was measured at all of these sites.

    Args:
        models: the scores by model and site.
        sites: the columns.
        seed: of the bootstrap.
    """
    measured = {name: scores for name, scores in models.items() if all(site in scores for site in sites)}
    rows = (tuple(_cell(scores[site], seed) for site in sites) for scores in measured.values())
    return CrossSite(tuple(measured), tuple(sites), tuple(rows))


def _cell(scores: CaseDice, seed: int) -> Summary:
    return not_over_read(summarise(scores.values(), seed))


def print_gains(console: Console, gains: Sequence[SiteGains]) -> None:
    """A line for each site: what the federation gave it."""
    table = Table(title="What each site gained, on cases of its own", title_justify="left", box=None, pad_edge=False)
    table.add_column("site", min_width=12)
    for name in ("cases", "alone", "federated", "difference [95 % interval]", "p", "verdict"):
        table.add_column(name, justify="right", min_width=8)
    for site in gains:
        gain = next(gain for gain in site.gains if gain.way == "federated")
        table.add_row(site.site, str(site.cases), _three(site.alone.mean), _three(gain.dice.mean), *_spoken(gain))
    console.print(table)


def _spoken(gain: Gain) -> tuple[str, str, str]:
    told, p = gain.difference.difference, gain.difference.p_value
    mean = "" if told.mean is None else f"{told.mean:+.3f} "
    between = "-" if told.low is None or told.high is None else f"{mean}[{told.low:+.3f}, {told.high:+.3f}]"
    return between, _three(p), gain.verdict


def _three(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
