"""What a finished run is compared with: its rivals, trained with its budget on its sites."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from client.strategies.ditto import personal_models
from segformer3d.errors import DataError
from server.rounds import LAST_FILE
from simulations.comparison import POOLED, Budget, Compared, Rival, compare_rivals, personal_rivals, rivals_of
from simulations.run_folder import WORK, Run, read_run

RIVALS = "compared"


def compare_run(console: Console, run: Run) -> Compared:
    """Train and measure what a run is compared with.

    Raises:
        SegfedError: data or disk are not as they must be.
    """
    asked = run.settings
    # In a private run the sites train on all of their cases: none is left to ask what they gained.
    kept = asked.epsilon is None
    rivals = rivals_of(run.sites.sites, run.folder / RIVALS, run.folder / LAST_FILE, kept=kept)
    if asked.strategy.rule.personal and kept:
        rivals += personal_rivals(run.sites.sites, _personal_models(run), run.folder / RIVALS)
    with console.status(f"training {asked.sites + 1} models to compare with: pooled, and each site alone"):
        return compare_rivals(rivals, budget_of(run), asked.at_once)


def pooled_of(folder: Path, out: Path) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, float]]]:
    """Train on all data of a finished run's sites in one place, with the run's budget.

    Args:
        folder: the run's.
        out: where the model belongs.

    Returns:
        Its `metrics.json` on the held-out cases, and its mean Dice by site and case on those that sites keep.

    Raises:
        SegfedError: data or disk are not as they must be.
    """
    run = read_run(folder)
    rival = Rival(POOLED, POOLED, run.sites.sites, out, run.sites.sites)
    compared = compare_rivals((rival,), budget_of(run), 1)
    return compared.held_out[POOLED], compared.sites[POOLED]


def _personal_models(run: Run) -> list[Path]:
    """What Ditto has left at each site."""
    found = [
        personal_models(run.folder / WORK / site.name / run.name).before(run.settings.rounds + 1)
        for site in run.sites.sites
    ]
    if None in found:
        raise DataError(f"{run.folder} lacks a site's personal model; play the run again to compare it")
    return [path for path in found if path is not None]


def budget_of(run: Run) -> Budget:
    """What every rival of a run gets."""
    asked = run.settings
    return Budget(
        run.task,
        asked.training,
        asked.rounds,
        asked.local_epochs,
        asked.seed,
        asked.device,
        run.threads,
        run.sites.held_out.resolve(),
        (run.folder / WORK).resolve(),
    )
