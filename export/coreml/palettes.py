"""Palettes of weights: a table of 2**bits values and an index for each number, with the least squared error.

A float16 has only 65536 values, so clustering a weight of any size is clustering its histogram: the same
table and the same indices every time, without a random start.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import SourceError
from edgediff.export.coreml.compress_clusters import clusters

_ALL = 1 << 16
_HIGH = 15  # exponent of the largest powers of two that float16 holds


def palette(weight: NDArray[Any], bits: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """A table (2**bits,) in the weight's float type, ascending, and the index of each number in it, in the
    weight's shape.

    Entries beyond the weight's own values repeat the last one. float32 weights are clustered by their
    values as float16, scaled to its range. Raises SourceError for numbers that are not finite.
    """
    keys, exponent = _keys(weight)
    counts = np.bincount(keys.ravel(), minlength=_ALL)
    present = np.flatnonzero(counts)
    values = present.astype(np.uint16).view(np.float16).astype(np.float64)
    if not np.isfinite(values).all():
        raise SourceError(
            f"A weight {weight.shape} holds numbers that are not finite in {weight.dtype}: it has no "
            "palette. Keep the network in float32, or repair the checkpoint."
        )
    order = np.argsort(values, kind="stable")
    present, values = present[order], values[order]
    distinct, inverse = np.unique(values, return_inverse=True)  # 0 and -0 are one value
    summed = np.bincount(inverse, counts[present], len(distinct)).astype(np.float64)
    centres = np.ldexp(clusters(distinct, summed, 1 << bits), -exponent)
    table = np.full(1 << bits, centres[-1])
    table[: len(centres)] = centres
    table = table.astype(weight.dtype)
    used = table[: len(centres)].astype(np.float64)
    index = np.zeros(_ALL, np.uint8)
    index[present] = np.searchsorted((used[1:] + used[:-1]) / 2, np.ldexp(values, -exponent))
    return table, index[keys]


def _keys(weight: NDArray[Any]) -> tuple[NDArray[np.uint16], int]:
    """The float16 bits of each number, times 2**exponent where the weight is no float16."""
    if weight.dtype == np.float16:
        return np.ascontiguousarray(weight).view(np.uint16), 0
    largest = float(np.max(np.abs(weight), initial=0.0))
    exponent = _HIGH - int(np.frexp(largest)[1]) if 0 < largest < np.inf else 0
    with np.errstate(over="ignore"):
        return np.ldexp(weight, exponent).astype(np.float16).view(np.uint16), exponent
