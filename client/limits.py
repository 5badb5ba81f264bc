"""What a site insists on, whatever the coordinator asks: the most it will do, and the least it wants for it."""

import math
from dataclasses import dataclass

from client.privacy.settings import MOST_DELTA, PrivacySettings
from segformer3d.errors import ConfigurationError, SegfedError
from segformer3d.tasks import Task

MOST = 1_000_000
NO_LIMIT = math.inf


class RefusalError(SegfedError):
    """The site's own limits forbid what was asked. The text may travel: it holds settings, nothing of the data."""


@dataclass(frozen=True)
class SiteLimits:
    """The `[limits]` of a site file. The defaults forbid nothing.

    Attributes:
        smallest_cohort: training cases below which the site takes no part: an update of few patients says more of each.
        tasks: names of the tasks that it takes part in; none names all.
        most_rounds: rounds of a run, at most.
        most_local_epochs: passes over its cases in one round, at most.
        private_only: whether it takes part in runs with differential privacy only.
        run_epsilon: what one run may cost a patient; where more is asked for, more noise is added than was asked for.
        epsilon: what all runs together may cost a patient: at this the site stops, before it computes a gradient.
        delta: the chance that the promise may fail with, of one run and of all together.

    Raises:
        ConfigurationError: a value breaks its rule.
    """

    smallest_cohort: int = 1
    tasks: tuple[str, ...] = ()
    most_rounds: int = MOST
    most_local_epochs: int = MOST
    private_only: bool = False
    run_epsilon: float = NO_LIMIT
    epsilon: float = NO_LIMIT
    delta: float = MOST_DELTA

    def __post_init__(self) -> None:
        for name in ("smallest_cohort", "most_rounds", "most_local_epochs"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MOST:
                raise ConfigurationError(f"{name} must be a whole number in [1, {MOST}], got {value!r}")
        for name in ("run_epsilon", "epsilon"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value <= NO_LIMIT:
                raise ConfigurationError(f"{name} must be a number above 0, got {value!r}")
        if type(self.delta) is not float or not 0 < self.delta < 1:
            raise ConfigurationError(f"delta must be in (0, 1), got {self.delta!r}")
        if not isinstance(self.private_only, bool):
            raise ConfigurationError(f"private_only must be true or false, got {self.private_only!r}")
        if not isinstance(self.tasks, tuple) or not all(isinstance(name, str) and name for name in self.tasks):
            raise ConfigurationError(f"tasks must be a list of names of tasks, got {self.tasks!r}")


def check_task(limits: SiteLimits, task: Task) -> None:
    """Whether the site takes part in a task.

    Raises:
        RefusalError: it does not.
    """
    if limits.tasks and task.name not in limits.tasks:
        raise RefusalError(f"it takes no part in the task {task.name}")


def check_privacy(limits: SiteLimits, privacy: PrivacySettings | None) -> None:
    """Whether the privacy of a run is what the site insists on.

    Raises:
        RefusalError: it is not.
    """
    if limits.private_only and privacy is not None and privacy.noise != "secure":
        raise RefusalError("it takes part in runs with secure noise only, and this run's noise comes from a seed")
    if limits.private_only and privacy is None:
        raise RefusalError("it takes part in runs with differential privacy only, and this run has none")


def check_cohort(limits: SiteLimits, cases: int) -> None:
    """Whether the site has cases enough to take part at all; how many it has stays its own business.

    Raises:
        RefusalError: it has not.
    """
    if cases < limits.smallest_cohort:
        raise RefusalError(f"it has fewer training cases than the {limits.smallest_cohort} it insists on")


def check_work(limits: SiteLimits, rounds: int, local_epochs: int) -> None:
    """Whether a run asks for no more than the site will do.

    Raises:
        RefusalError: it asks for more.
    """
    for asked, most, what in (
        (rounds, limits.most_rounds, "rounds"),
        (local_epochs, limits.most_local_epochs, "local epochs a round"),
    ):
        if asked > most:
            raise RefusalError(f"the run asks for {asked} {what} and it does {most} at most")
