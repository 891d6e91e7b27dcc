"""Axes of a plot: from values to pixels, with round ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)
_LOGARITHMIC = 12.0  # ratio of largest to smallest from which equal factors get equal lengths


class Axis(NamedTuple):
    """Values from ``low`` to ``high`` lie between the pixels ``first`` and ``last``."""

    low: float
    high: float
    first: float
    last: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, here = self.low, self.high, value
        if self.logarithmic:
            low, high, here = math.log(low), math.log(high), math.log(value)
        return self.first + (self.last - self.first) * (here - low) / (high - low)


def from_zero(values: Sequence[float], first: float, last: float) -> Axis:
    """Return an axis for values above 0: from zero, or logarithmic where they differ by much."""
    least, most = min(values), max(values)
    if least <= 0 or most / least <= _LOGARITHMIC:
        step = round_step(most / 7 if most > 0 else 1.0)
        ticks = tuple(step * i for i in range(math.ceil(most / step * (1 - 1e-9)) + 1))
        return Axis(0.0, max(most * 1.03, ticks[-1]), first, last, ticks)
    low, high = least / 1.25, most * 1.25
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = (1, 2, 5) if math.log10(high / low) <= 3 else (1,)
    ticks = tuple(m * 10.0**d for d in decades for m in marks if low <= m * 10.0**d <= high)
    return Axis(low, high, first, last, ticks, True)


def fitting(values: Sequence[float], first: float, last: float) -> Axis:
    """Return an axis that holds the values with room at both ends; it need not begin at zero."""
    spread = max(max(values) - min(values), 4.0)
    step = round_step(spread / 4)
    low = step * math.floor((min(values) - 0.25 * step) / step)
    low = max(low, 0.0) if min(values) >= 0 else low
    high = step * math.ceil((max(values) + 0.25 * step) / step)
    if high - low < 2.5 * step:
        low, high = max(low - step, min(low, 0.0)), high + step
    count = round((high - low) / step)
    return Axis(low, high, first, last, tuple(low + step * i for i in range(count + 1)))


def round_step(about: float) -> float:
    """Return 1, 2, 2.5 or 5 times a power of ten that is at least ``about``, the least such."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(r * power for r in _ROUND if r * power >= about * (1 - 1e-9))
