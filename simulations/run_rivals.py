"""What a finished run is compared with: its rivals, trained with its budget on its sites.

A hostile site takes no part: its data may be falsified, so nobody should learn from it, and no model be judged by it.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from client.strategies.ditto import personal_models
from segformer3d.checkpoint import load
from segformer3d.dataset import prepare
from segformer3d.errors import DataError
from segformer3d.inference import choose_device
from segformer3d.training import validate
from server.records import mean_dice
from server.rounds import LAST_FILE
from simulations.comparison import POOLED, Budget, Compared, Rival, compare_rivals, personal_rivals, rivals_of
from simulations.run_folder import WORK, Run

RIVALS = "compared"


def compare_run(console: Console, run: Run) -> Compared:
    """Train and measure what a run is compared with.

    Raises:
        SegfedError: data or disk are not as they must be.
    """
    asked = run.settings
    # In a private run the sites train on all of their cases: none is left to ask what they gained.
    kept = asked.epsilon is None
    rivals = rivals_of(run.honest, run.folder / RIVALS, run.folder / LAST_FILE, kept=kept)
    if asked.strategy.rule.personal and kept:
        rivals += personal_rivals(run.honest, _personal_models(run), run.folder / RIVALS)
    with console.status(f"training {len(run.honest) + 1} models to compare with: pooled, and each site alone"):
        return compare_rivals(rivals, budget_of(run), asked.at_once)


def pooled_of(run: Run, out: Path) -> tuple[Mapping[str, Any], Mapping[str, float]]:
    """Train on all honest data of a finished run's sites in one place, with the run's budget and all of its cores.

    Args:
        run: a finished one.
        out: where the model belongs.

    Returns:
        Its `metrics.json` on the held-out cases, and its Dice by site, see `dice_at_sites`.

    Raises:
        SegfedError: data or disk are not as they must be.
    """
    compared = compare_rivals((Rival(POOLED, POOLED, run.honest, out),), budget_of_one(run), 1)
    return compared.held_out[POOLED], dice_at_sites(run, dict.fromkeys(run.honest, out / "model.safetensors"))


def personal_dice(run: Run) -> Mapping[str, float]:
    """The Dice of every honest site's personal model at its own site, see `dice_at_sites`.

    Raises:
        SegfedError: a model is missing or damaged, or the site's data is not as it must be.
    """
    return dice_at_sites(run, dict(zip(run.honest, _personal_models(run), strict=True)))


def dice_at_sites(run: Run, models: Mapping[Path, Path]) -> Mapping[str, float]:
    """Models measured as a site measures the global one: on the cases that it keeps from training, on the task's grid.

    Args:
        run: a finished one.
        models: the model file by the folder of the site where it is measured.

    Returns:
        The mean Dice over the structures by the site's name; sites without a case that tells one are left out.

    Raises:
        SegfedError: a model is damaged, or a site's data is not as it must be.
    """
    device, pattern = choose_device(run.settings.device), run.settings.patient_pattern
    found = {}
    for site, model in models.items():
        kept = prepare(site, run.task, run.folder / WORK / site.name / "cache", patient_pattern=pattern).validation
        found[site.name] = mean_dice(validate(load(model).to(device), kept, run.task, device=device).dice)
    return {name: dice for name, dice in found.items() if not math.isnan(dice)}


def _personal_models(run: Run) -> list[Path]:
    """What Ditto has left at each honest site."""
    found = [
        personal_models(run.folder / WORK / site.name / run.name).before(run.settings.rounds + 1) for site in run.honest
    ]
    if None in found:
        raise DataError(f"{run.folder} lacks a site's personal model; play the run again to compare it")
    return [path for path in found if path is not None]


def budget_of_one(run: Run) -> Budget:
    """What a rival that is trained alone gets: the cores that the sites had together."""
    return replace(budget_of(run), threads=run.threads * run.settings.at_once)


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
        asked.patient_pattern,
    )
