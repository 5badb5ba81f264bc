"""Mutation testing by hand: faults that were planted on purpose, each of which a test must notice."""
