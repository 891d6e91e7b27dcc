"""Comparisons, sweeps and the reference model."""
