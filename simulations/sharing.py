"""How runs that are played side by side, and the sites of each, share the cores of a machine."""

import os
from dataclasses import dataclass

from segformer3d.inference import choose_device
from simulations.settings import SimulationSettings, cores


@dataclass(frozen=True)
class Sharing:
    """What computes at the same time.

    Attributes:
        runs: that are played at once.
        sites: of each run that compute at once.
        threads: of each site.
    """

    runs: int
    sites: int
    threads: int

    @property
    def all_threads(self) -> int:
        """Of all that computes at once."""
        return self.runs * self.sites * self.threads

    def within(self, parallel: int) -> "Sharing":
        """So many sites at once, each with the threads that it has: what is computed stays the same to the last bit."""
        return Sharing(max(1, parallel // self.sites), min(self.sites, parallel), self.threads)

    def alone(self, models: int) -> tuple[int, int]:
        """How many of these models, each trained in one process, are trained at once, and the threads of each."""
        at_once = min(models, self.runs * self.sites)
        return at_once, self.all_threads // at_once


def share_cores(settings: SimulationSettings, runs: int) -> Sharing:
    """The sharing that would end first if every site took as long; of equals the one with most runs at once.

    (Sites wait for each other at the end of a round, runs never do.) On a GPU, whose memory the number of cores does
    not tell, no more sites compute at once than in a single run, unless `parallel` says how many. Ray shares out a
    machine by itself, and plays one run at a time.

    Raises:
        ConfigurationError: the device is not there.
    """
    by_cores = settings.engine != "ray" and choose_device(settings.device).type == "cpu"
    within = settings.parallel or (cores() if by_cores else settings.at_once)

    def sites_at_once(together: int) -> int:
        return min(settings.sites, within // together)

    def turns(together: int) -> int:
        return -(-runs // together) * -(-settings.sites // sites_at_once(together))

    most = 1 if settings.engine == "ray" else min(runs, within)
    together = min(range(1, most + 1), key=lambda number: (turns(number), -number))
    sites = sites_at_once(together)
    return Sharing(together, sites, threads_of(together * sites))


def threads_of(at_once: int) -> int:
    """The threads of each of so many computations: its share of the cores, or fewer where OMP_NUM_THREADS says so."""
    share, said = max(1, cores() // at_once), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(said)) if said.isdecimal() and int(said) else share
