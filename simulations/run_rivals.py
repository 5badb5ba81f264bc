"""What a finished run is compared with: its rivals, trained with its budget on its sites.

A hostile site takes no part: its data may be falsified, so nobody should learn from it, and no model be judged by it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from client.round_files import RoundFiles
from client.strategies.ditto import personal_models
from client.strategies.local import memory_files
from segformer3d.checkpoint import load, save
from segformer3d.dataset import prepare
from segformer3d.errors import DataError
from segformer3d.inference import choose_device
from segformer3d.norms import take_norms
from segformer3d.training import validate
from server.records import mean_dice
from server.rounds import LAST_FILE
from simulations.comparison import PERSONAL, POOLED, Budget, Compared, Rival, compare_rivals, personal_rivals, rivals_of
from simulations.run_folder import START_FILE, WORK, Run

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
    own = _own_models(run) if kept else ()
    if own:
        rivals += personal_rivals(run.honest, own, run.folder / RIVALS)
    with console.status(f"training {len(run.honest) + 1} models to compare with: pooled, and each site alone"):
        return compare_rivals(rivals, budget_of(run), asked.at_once)


def pooled_of(run: Run, out: Path, threads: int) -> tuple[Mapping[str, Any], Mapping[str, float]]:
    """Train on all honest data of a finished run's sites in one place, with the run's budget.

    Args:
        run: a finished one.
        out: where the model belongs.
        threads: to train with.

    Returns:
        Its `metrics.json` on the held-out cases, and its Dice by site, see `dice_at_sites`.

    Raises:
        SegfedError: data or disk are not as they must be.
    """
    budget = replace(budget_of(run), threads=threads)
    compared = compare_rivals((Rival(POOLED, POOLED, run.honest, out),), budget, 1)
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
    return [_kept_at(run, site, personal_models, "personal model") for site in run.honest]


def _kept_at(run: Run, site: Path, files: Callable[[Path], RoundFiles], what: str) -> Path:
    """The newest of the files that a site has kept of a run."""
    found = files(run.folder / WORK / site.name / run.name).before(run.settings.rounds + 1)
    if found is None:
        raise DataError(f"{run.folder} lacks a site's {what}; play the run again to compare it")
    return found


def _own_models(run: Run) -> Sequence[Path]:
    """The model that each honest site would use, where that is not everyone's."""
    rule = run.settings.strategy.rule
    if rule.personal:
        return _personal_models(run)
    return [_with_own_norms(run, site) for site in run.honest] if rule.local_norms else ()


def _with_own_norms(run: Run, site: Path) -> Path:
    """FedBN: the last model with the norms that a site has kept."""
    model = load(run.folder / LAST_FILE)
    take_norms(model, _kept_at(run, site, memory_files, "norms"))
    mixed = run.folder / RIVALS / f"{PERSONAL}-{site.name}" / "model.safetensors"
    save(mixed, model, run.task)
    return mixed


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
        None if asked.start is None else (run.folder / START_FILE).resolve(),
    )
