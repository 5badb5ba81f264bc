"""`python -m benchmarks.utility`: what privacy costs in Dice, as the figure in docs/privacy.md shows it.

Each point is one private federation of the same sites, begun with the same model of made-up patients. The model itself
is a line, and so is a run whose noise is too weak to matter. Runs that are there already are not played again. Patients
are those of a folder of cases, or as many made-up ones as it takes to see what large cohorts get.
"""

import argparse
import csv
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.measure import table
from segformer3d.cases import find_cases
from segformer3d.checkpoint import load
from segformer3d.evaluation import evaluate
from segformer3d.files import write_json, write_whole
from segformer3d.inference import choose_device
from segformer3d.model_description import load_task
from segformer3d.statistics import summarise
from simulations.hippocampus_phantoms import write_hippocampus_phantoms
from simulations.run import start_simulation
from simulations.settings import SimulationSettings

NO_NOISE = 1e5  # an epsilon whose noise is a hundredth of the clipping norm
START, INFINITY = "start", "infinity"
HELD_OUT = 40  # made-up cases that no site gets
MADE_UP_SEED = 7  # `segfed warm-start` takes others


@dataclass(frozen=True)
class Recipe:
    """How sites of a size are trained; found by trying.

    Attributes:
        rounds: of a run.
        rate: learning rate at epsilon 8. Under noise AdamW's step is the rate times (noise + signal) / noise, so less
            signal wants a smaller one.
        rate_without_noise: learning rate where noise is next to nothing.
        privacy: other settings of privacy.
    """

    rounds: int
    rate: float
    rate_without_noise: float
    privacy: Mapping[str, Any]

    def asked(self, epsilon: float) -> dict[str, Any]:
        """The settings of privacy of one run."""
        if math.isinf(epsilon):
            return {**self.privacy, "learning_rate": self.rate_without_noise, "noise": "seeded"}
        return {**self.privacy, "learning_rate": self.rate * math.sqrt(epsilon / 8)}


TENS = Recipe(10, 0.04, 0.01, {})
# All but the weights inside the three deeper stages, in which noise would drown.
_SHALLOW = ["decoder.*", "stages.0.*", "*norm*", "*.bias"]
THOUSANDS = Recipe(20, 0.01, 0.005, {"sampling_rate": 0.05, "clip": 0.3, "trainable": _SHALLOW})


def main() -> None:
    """Play what is missing, and draw."""
    arguments = _parser().parse_args()
    out, start, sites = Path(arguments.out), Path(arguments.start), arguments.sites
    recipe, scans, share = TENS, arguments.scans, None
    if arguments.made_up is not None:
        recipe, scans = THOUSANDS, _made_up(out / "made-up", sites * arguments.made_up + HELD_OUT)
        share = HELD_OUT / (sites * arguments.made_up + HELD_OUT)
    asked = SimulationSettings(data=Path(scans), sites=sites, rounds=recipe.rounds, start=start)
    asked = asked if share is None else replace(asked, held_out=share)
    scores: dict[str, Path] = {}
    for epsilon in (*arguments.epsilons, math.inf):
        folder = out / f"epsilon-{epsilon:g}"
        if not (folder / "summary.json").is_file():
            private = replace(asked, epsilon=min(epsilon, NO_NOISE), privacy=recipe.asked(epsilon))
            start_simulation(private, folder)
        scores[INFINITY if math.isinf(epsilon) else f"{epsilon:g}"] = folder / "evaluation"
    held_out = folder / "sites" / "held-out"
    if not (out / START / "metrics.json").is_file():
        evaluate(load(start), load_task(start), find_cases(held_out), out / START, device=choose_device("auto"), seed=0)
    scores[START] = out / START
    found = {name: {**_dice(place), "gain": _gain(place, out / START)} for name, place in scores.items()}
    write_json(out / "utility.json", found)
    draw(found, out / "utility.png", f"{sites} sites, {recipe.rounds} rounds, delta 1e-5")
    rows = [(name, _spoken(dice, ""), _spoken(dice["gain"], "+")) for name, dice in found.items()]
    print(table(("epsilon", "mean Dice [95 % interval]", "gain over the start, case by case"), rows))


def _spoken(found: Mapping[str, Any], sign: str) -> str:
    return f"{found['mean']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"


def _made_up(folder: Path, cases: int) -> Path:
    if not folder.is_dir():
        write_whole(folder, lambda empty: write_hippocampus_phantoms(empty, cases, MADE_UP_SEED))
    return folder


def _dice(evaluation: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))[
        "mean_dice_over_cases"
    ]
    return values


def _gain(evaluation: Path, start: Path) -> dict[str, Any]:
    """How much more Dice than the start has: cases differ more from one another than runs do."""
    ours, theirs = _by_case(evaluation), _by_case(start)
    return asdict(summarise(np.array([ours[case] - dice for case, dice in theirs.items()]), seed=0))


def _by_case(evaluation: Path) -> dict[str, float]:
    """Mean Dice over the structures, by case."""
    scores: dict[str, list[float]] = {}
    with (evaluation / "cases.csv").open(encoding="utf-8", newline="") as table_of_cases:
        for row in csv.DictReader(table_of_cases):
            scores.setdefault(row["case"], []).append(float(row["dice"]))
    return {case: sum(dice) / len(dice) for case, dice in scores.items()}


def draw(found: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> None:
    """Dice against epsilon, with the start and the run without noise as lines."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    points = sorted((float(name), dice) for name, dice in found.items() if name not in (START, INFINITY))
    places = range(len(points))
    means = [dice["mean"] for _, dice in points]
    spread = [
        [mean - dice["low"] for mean, (_, dice) in zip(means, points, strict=True)],
        [dice["high"] - mean for mean, (_, dice) in zip(means, points, strict=True)],
    ]
    axes.errorbar(places, means, yerr=spread, marker="o", capsize=4, color="#1f5fa8", label="private run")
    for name, style, label in (
        (INFINITY, "--", "the same without noise"),
        (START, ":", "start: made-up patients only"),
    ):
        axes.axhline(found[name]["mean"], linestyle=style, color="#555555", label=label)
    axes.set_xticks(list(places), [f"{epsilon:g}" for epsilon, _ in points])
    axes.set(xlabel="epsilon of each patient (less is more private)", ylabel="mean Dice on held-out cases", title=title)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.utility", description=__doc__.splitlines()[0])
    add = parser.add_argument
    patients = parser.add_mutually_exclusive_group(required=True)
    patients.add_argument("--scans", metavar="DIR", help="labelled hippocampus cases")
    patients.add_argument("--made-up", type=int, metavar="N", help="so many made-up patients a site instead")
    add("--start", metavar="FILE", required=True, help="model of made-up patients, see segfed warm-start")
    add("--sites", type=int, default=4, metavar="N", help="hospitals (default 4)")
    add("--epsilons", type=float, nargs="+", default=[1.0, 2.0, 4.0, 8.0], metavar="E", help="(default 1 2 4 8)")
    add("--out", metavar="DIR", default="utility-report", help="folder for the runs, utility.json and utility.png")
    return parser


if __name__ == "__main__":
    main()
