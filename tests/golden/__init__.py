"""Vectors that every port of the library must match; ``python -m tests.golden`` writes them anew."""
