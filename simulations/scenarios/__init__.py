"""Scenarios: named, seeded ways in which hospitals differ, written as ordinary site folders.

A scenario deals the cases (`simulations.partitions`), then changes some sites' files, or makes one site hostile. A
client never knows: what a site may know, it reads in its own folder. What is held out is never changed, so every
scenario is measured on the same cases as they are; what a site's own cases are measured on changes with the site.
Promises: the files are a function of the data, the number of sites, the seed and the site alone, and no file outside
the federation's folder is written to.
"""

from simulations.scenarios.registry import SCENARIOS, Scenario, get_scenario

__all__ = ["SCENARIOS", "Scenario", "get_scenario"]
