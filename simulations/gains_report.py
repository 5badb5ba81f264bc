"""The sections of the federation's report for the hospitals: what each gained, and every model at every site."""

from collections.abc import Sequence
from itertools import repeat

from segformer3d.report.document import Cell, Column, Gallery, Note, Paragraph, Section, Table
from segformer3d.report.score_charts import Line, differences, heat_map
from segformer3d.report.words import counted, fixed, mean_cell
from segformer3d.statistics import MINIMUM_COUNT, Summary
from simulations.comparison import FEDERATED, POOLED
from simulations.gains import ALONE, LEVEL, MATRIX_SITES, CrossSite, Gain, SiteGains


def gains_section(sites: Sequence[SiteGains]) -> Section:
    """Each site's own model and the others, on the cases that the site keeps from training."""
    ways = [gain.way for gain in sites[0].gains]
    chart = differences(
        "gains", "Dice gained by taking part",
        [Line(site.site, _of(site, FEDERATED).difference.difference) for site in sites],
        "The federation's model less the site's own; right of nought the site gains.",
    )  # fmt: skip
    columns = (
        Column("site", "text"), Column("cases"), Column("gain by taking part"), Column("p"), Column("verdict", "text"),
        Column(ALONE), *map(Column, ways),
    )  # fmt: skip
    table = Table("Mean Dice on each site's own cases", columns, tuple(_row(site) for site in sites), _NOTE)
    return Section("What each hospital gained", (Paragraph(_HOW), Gallery((chart,)), table, *_few(sites)))


_HOW = (
    "Every model was measured on the cases that a site keeps from training, which no model has seen. The gain is the "
    "federation's model less the model that the site trained alone with the same budget, case by case."
)
_NOTE = (
    "Below each mean its 95 % bootstrap interval. p is Wilcoxon's signed-rank test, two-sided, for this site alone: of "
    f"twenty sites that gain nothing, one would show p < {LEVEL:g} by chance. A verdict needs p < {LEVEL:g} and an "
    "interval without nought."
)


def _of(site: SiteGains, way: str) -> Gain:
    return next(gain for gain in site.gains if gain.way == way)


def _row(site: SiteGains) -> tuple[Cell | str, ...]:
    gain = _of(site, FEDERATED)
    gained = mean_cell(gain.difference.difference, sign=True, strong=True)
    others = (mean_cell(other.dice) for other in site.gains)
    return (
        site.site, str(site.cases), gained, fixed(gain.difference.p_value), gain.verdict,
        mean_cell(site.alone), *others,
    )  # fmt: skip


def _few(sites: Sequence[SiteGains]) -> tuple[Note, ...]:
    few = [site.site for site in sites if site.cases < MINIMUM_COUNT]
    if not few:
        return ()
    said = f"{', '.join(few)}: of fewer than {MINIMUM_COUNT} cases only the interval is told, and of one case nothing. "
    return (Note(said + "More cases would be needed to say more."),)


def matrix_section(matrix: CrossSite, sites: int) -> Section:
    """Each model on each site's cases."""
    rows = [_named(model) for model in matrix.models]
    chart = heat_map(
        "cross-site", "Mean Dice: model by row, cases by column", rows, matrix.sites,
        [[cell.mean for cell in row] for row in matrix.dice],
        f"The more colour, the better; a column is one site's cases, and empty for fewer than {MINIMUM_COUNT}.",
    )  # fmt: skip
    counts = [cell.count for cell in matrix.dice[0]]
    columns = (Column("model", "text"), *(Column(f"{s} ({n})") for s, n in zip(matrix.sites, counts, strict=True)))
    cells = tuple(map(_matrix_row, matrix.models, matrix.dice, repeat(matrix.sites)))
    table = Table("Mean Dice of every model on every site's cases", columns, cells, _MATRIX_NOTE)
    return Section("Every model at every hospital", (Paragraph(_reach(matrix, sites)), Gallery((chart,)), table))


_MATRIX_NOTE = (
    f"In brackets the number of cases; of fewer than {MINIMUM_COUNT} only the interval is told, and of one case "
    "nothing. Bold: a site's own model on its own cases."
)


def _matrix_row(model: str, dice: Sequence[Summary], sites: Sequence[str]) -> tuple[Cell | str, ...]:
    cells = (mean_cell(cell, strong=model == site) for cell, site in zip(dice, sites, strict=True))
    return (_named(model), *cells)


def _reach(matrix: CrossSite, sites: int) -> str:
    said = "How far a model carries: trained at one site, measured at the others, on cases that no model has seen."
    if sites <= len(matrix.sites):
        return said
    return (
        f"{said} Shown are the first {MATRIX_SITES} of {counted(sites, 'site')}: the measurements grow with the square "
        "of the sites."
    )


def _named(model: str) -> str:
    return model if model in (FEDERATED, POOLED) else f"{model} {ALONE}"
