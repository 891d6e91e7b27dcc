"""The clusters of numbers with the least squared error, in one dimension.

Groups of sorted numbers are neighbours, so the best k of them follow from the best k - 1 by dynamic
programming, and the start of the last group never moves back as its end moves on, which makes a stage
O(n log n): Grønlund et al. (2017), "Fast Exact k-Means, k-Medians and Bregman Divergence Clustering in 1D",
section 2. A stage is done for all ends of one level at a time, so that NumPy does the work.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]
# Beyond this many numbers for each cluster, neighbours are merged first and the groups are refined on all
# numbers afterwards. Measured on normal, Student, Cauchy and two-peaked weights of 9 thousand to 15 million
# numbers, 1 to 8 bits: at most 0.02 dB above the exact error, in a tenth of the time.
_FINE, _FEWEST, _FINEST = 16, 256, 2048
_TURNS, _STILL = 500, 1e-7


def clusters(values: Numbers, counts: Numbers, k: int) -> Numbers:
    """The centres, ascending, of at most ``k`` clusters of distinct ascending ``values`` that occur
    ``counts`` times, with the least sum of squared distances; exact for up to
    max(256, min(16 k, 2048)) values."""
    if len(values) <= k:
        return values
    # Only differences count: taken from the middle, sums of squares lose no digits to a common offset.
    middle = (values[0] + values[-1]) / 2
    shifted = values - middle
    merged, masses = _merged(shifted, counts, max(_FEWEST, min(_FINE * k, _FINEST)))
    found = _exact(merged, masses, k)
    if len(merged) < len(values):
        found = _refined(shifted, counts, found)
    return np.asarray(found + middle)


def _merged(values: Numbers, counts: Numbers, most: int) -> tuple[Numbers, Numbers]:
    """At most ``most`` means of neighbours, and their counts, spaced as fine clusters would be: their density
    is the cube root of the numbers' (Bennett 1948, "Spectra of quantized signals")."""
    if len(values) <= most:
        return values, counts
    edges = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2, values[-1:]])
    share = np.cumsum(np.cbrt(counts * np.diff(edges) ** 2))
    bins = np.minimum((share / share[-1] * most).astype(np.int64), most - 1)
    mass = np.bincount(bins, counts, most).astype(np.float64)
    held = mass > 0
    return np.bincount(bins, counts * values, most)[held] / mass[held], mass[held]


def _exact(values: Numbers, counts: Numbers, k: int) -> Numbers:
    mass = np.concatenate([[0.0], np.cumsum(counts)])
    total = np.concatenate([[0.0], np.cumsum(counts * values)])
    n = len(values)
    levels = _levels(n)
    # The squared error is a constant less the sum over groups of total**2 / mass: that sum is made largest.
    best = np.zeros(n + 1)
    best[1:] = total[1:] ** 2 / mass[1:]
    starts = []
    for _ in range(1, k):
        best, start = _stage(best, mass, total, levels)
        starts.append(start)
    cuts = [n]
    for start in reversed(starts):
        cuts.append(int(start[cuts[-1]]))
    edges = np.array([0, *sorted(set(cuts) - {0})])
    return np.asarray(np.diff(total[edges]) / np.diff(mass[edges]), np.float64)


def _levels(n: int) -> list[tuple[int, Indices]]:
    """The ends 1 to n, by the stride to the ends of earlier levels that bound their starts."""
    strides = [1 << level for level in reversed(range(n.bit_length()))]
    return [(stride, np.arange(stride, n + 1, 2 * stride)) for stride in strides]


def _stage(
    best: Numbers, mass: Numbers, total: Numbers, levels: list[tuple[int, Indices]]
) -> tuple[Numbers, Indices]:
    """What is best with one more group, for every end, and where that last group starts."""
    n = len(best) - 1
    more = np.zeros(n + 1)
    start = np.full(n + 2 * levels[0][0], n, np.int64)
    start[0] = 0
    for stride, ends in levels:
        low = start[ends - stride]
        length = np.minimum(start[ends + stride], ends - 1) - low + 1
        stops = np.cumsum(length)
        firsts = stops - length
        begin = np.arange(stops[-1]) + np.repeat(low - firsts, length)
        end = np.repeat(ends, length)
        gain = (total[end] - total[begin]) ** 2 / (mass[end] - mass[begin]) + best[begin]
        most = np.maximum.reduceat(gain, firsts)
        hits = np.flatnonzero(gain == np.repeat(most, length))
        owners = np.searchsorted(stops, hits, side="right")
        start[ends] = begin[hits[np.flatnonzero(np.diff(owners, prepend=-1))]]
        more[ends] = most
    return more, start[: n + 1]


def _refined(values: Numbers, counts: Numbers, centres: Numbers) -> Numbers:
    """Lloyd's turns over all numbers, until they change nothing that counts."""
    mass = np.concatenate([[0.0], np.cumsum(counts)])
    total = np.concatenate([[0.0], np.cumsum(counts * values)])
    power = float(np.sum(counts * values**2))
    last = np.inf
    for _ in range(_TURNS):
        inner = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2, side="right")
        edges = np.concatenate([[0], inner, [len(values)]])
        held, sums = np.diff(mass[edges]), np.diff(total[edges])
        filled = held > 0
        centres = np.where(filled, sums / np.where(filled, held, 1), centres)
        error = power - float(np.sum(sums[filled] ** 2 / held[filled]))
        if last - error <= _STILL * error:
            break
        last = error
    return centres
