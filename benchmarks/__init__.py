"""Measurements behind the figures in the docs. Not shipped in the wheel."""
