"""The ratio of two medians, with an interval that says how far the samples can be trusted.

Efron (1979), "Bootstrap methods: another look at the jackknife": both sets are drawn again from themselves,
with replacement, and the middle 95 % of the ratios so found is the interval. It knows the noise inside each
run. What differed between the two runs as a whole, such as another clock speed, it cannot know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST = 3
"""Samples that each side needs for an interval."""
_DRAWS = 2000
_MOST = 500  # samples of a side that are drawn from: more change little and cost memory


class Ratio(NamedTuple):
    """New over old: of the medians, and between which values it lies; ``known`` is False where there were too
    few samples, and the ends are then the ratio itself."""

    value: float
    low: float
    high: float
    known: bool


def ratio(old: Sequence[float], new: Sequence[float]) -> Ratio:
    """Return the ratio of the medians of two sets of positive numbers.

    Raises:
        ValueError: a set is empty or its median is not above 0.
    """
    if not old or not new or np.median(old) <= 0:
        raise ValueError("a ratio needs samples above 0 on both sides")
    value = float(np.median(new) / np.median(old))
    if min(len(old), len(new)) < LEAST:
        return Ratio(value, value, value, known=False)
    rng = np.random.default_rng(0)  # the same records always get the same answer
    ratios = _medians(new, rng) / np.maximum(_medians(old, rng), np.finfo(float).tiny)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Ratio(value, float(low), float(high), known=True)


def _medians(samples: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    values = np.asarray(samples, np.float64)
    if len(values) > _MOST:
        values = values[np.linspace(0, len(values) - 1, _MOST).astype(int)]
    picked = values[rng.integers(0, len(values), (_DRAWS, len(values)))]
    found: NDArray[np.float64] = np.median(picked, axis=1)
    return found
