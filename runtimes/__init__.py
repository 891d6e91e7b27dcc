"""Runtimes, one file each, found by name through :mod:`edgediff.runtime`; files that start with _ are
helpers."""
