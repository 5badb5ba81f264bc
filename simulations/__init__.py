"""Federations on one machine: synthetic hospitals, partitions, engines, comparisons."""
