"""The scenarios by name: how cases are dealt, what becomes of the sites' files, and whether a site is hostile."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segformer3d.errors import ConfigurationError
from segformer3d.task import Task
from simulations.scenarios.attacks import ATTACKS, flip_labels
from simulations.scenarios.label_habits import change_habits, check_habits
from simulations.scenarios.missing_contrasts import check_contrasts, take_contrasts
from simulations.scenarios.scanners import change_scanners, check_scanners

# Changes the folders of the sites, which hold the cases that were dealt to them, given the seed and the task.
Change = Callable[[Sequence[Path], int, Task], None]


def leave(sites: Sequence[Path], seed: int, task: Task) -> None:
    """The sites' files stay as they were dealt."""


def any_task(task: Task) -> None:
    """Every task will do."""


@dataclass(frozen=True)
class Scenario:
    """One way in which hospitals differ.

    Attributes:
        summary: what it is, for people.
        partition: how cases are dealt, a name of `simulations.partitions.PARTITIONS`.
        change: what is done to the folders of the sites.
        check: raises ConfigurationError for a task that cannot have it.
        hostile: whether the last site means harm. What it learns from or measures is nothing to judge a model by.
        attack: what the last site does to its updates, a name of `ATTACKS`; None where it leaves them as they are.
        fewest_sites: how many sites it takes.
    """

    summary: str
    partition: str = "iid"
    change: Change = leave
    check: Callable[[Task], None] = any_task
    hostile: bool = False
    attack: str | None = None
    fewest_sites: int = 1


SCENARIOS: Mapping[str, Scenario] = {
    "iid": Scenario("equal hospitals"),
    "unequal": Scenario("hospitals of unequal size", "quantity"),
    "intensity": Scenario("hospitals that differ in the scale of their images", "intensity"),
    "scanners": Scenario("a scanner of its own at each hospital", change=change_scanners, check=check_scanners),
    "labels": Scenario(
        "one hospital outlines 1 voxel wider, one does not tell two structures apart",
        change=change_habits,
        check=check_habits,
        fewest_sites=2,
    ),
    "missing-contrasts": Scenario(
        "two hospitals lack a contrast each", change=take_contrasts, check=check_contrasts, fewest_sites=2
    ),
    "hostile-labels": Scenario("one hospital's labels are reversed", change=flip_labels, hostile=True, fewest_sites=2),
    **{
        f"hostile-{attack}": Scenario(
            f"one hospital's updates are {what}",
            change=flip_labels if attack == "scaled" else leave,
            hostile=True,
            attack=attack,
            fewest_sites=2,
        )
        for attack, what in ATTACKS.items()
    },
}


def get_scenario(name: str) -> Scenario:
    """The scenario of this name.

    Raises:
        ConfigurationError: there is none; the text lists those there are.
    """
    if name not in SCENARIOS:
        raise ConfigurationError(f"there is no scenario {name!r}; known are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]
