"""Choosing one option for each item: the least total cost under a bound on a total weight, or on two.

The multiple-choice knapsack problem (Kellerer, Pferschy and Pisinger 2004, chapter 11), by dynamic
programming over the weight. Weights are rounded up to a small share of the bound, so that a choice that is
made holds the bound for certain; what that loses of the optimum is less than the rounding of all items
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np

_LEVELS = 32768
_TURNS = 40


class Option(NamedTuple):
    """What choosing it costs, and what it weighs."""

    cost: float
    weight: float


def least(items: Sequence[Sequence[Option]], bound: float) -> list[int] | None:
    """The option of each item such that the total weight is at most ``bound`` and the total cost least.

    None where no choice is light enough. Costs and weights are finite; weights and the bound are not
    negative. Of equal costs the lighter option is taken, of equal options the first.
    """
    unit = bound / _LEVELS
    totals = np.zeros(_LEVELS + 1)
    taken = []
    for options in items:
        best = np.full(_LEVELS + 1, inf)
        which = np.zeros(_LEVELS + 1, np.int32)
        for i in sorted(range(len(options)), key=lambda i: options[i].weight):
            steps = _steps(options[i].weight, unit)
            if steps > _LEVELS:
                continue
            found = np.full(_LEVELS + 1, inf)
            found[steps:] = totals[: _LEVELS + 1 - steps] + options[i].cost
            better = found < best
            best[better], which[better] = found[better], i
        totals = best
        taken.append(which)
    at = int(np.argmin(totals))
    if totals[at] == inf:
        return None
    chosen = []
    for options, which in zip(reversed(items), reversed(taken), strict=True):
        chosen.append(int(which[at]))
        at -= _steps(options[chosen[-1]].weight, unit)
    return chosen[::-1]


def _steps(weight: float, unit: float) -> int:
    if weight <= 0:
        return 0
    if unit == 0 or weight / unit > _LEVELS:
        return _LEVELS + 1
    # What rounding of floats adds to a weight that is a whole number of units is not another unit.
    return int(np.ceil(weight / unit - 1e-9))


def least_under_two(
    items: Sequence[Sequence[Option]], bound: float, seconds: Sequence[Sequence[float]], limit: float
) -> list[int] | None:
    """:func:`least`, where also the total of ``seconds`` (by item and option) is at most ``limit``.

    The second bound has a price on it (a Lagrange multiplier), which is raised until it is held: the choice
    is the best one for its own total, which may stay below the limit. None where nothing holds both.
    """
    chosen = least(items, bound)
    if chosen is None or _total(seconds, chosen) <= limit:
        return chosen
    dearest = sum(max(option.cost for option in options) for options in items)
    low, high = 0.0, max(dearest, 1e-30) / max(limit, 1e-30)
    held = None
    for _ in range(_TURNS):
        found = least(_priced(items, seconds, high), bound)
        if found is not None and _total(seconds, found) <= limit:
            held = found
            break
        low, high = high, 4 * high
    if held is None:
        return None
    while high - low > 1e-6 * high:
        price = (low + high) / 2
        found = least(_priced(items, seconds, price), bound)
        if found is not None and _total(seconds, found) <= limit:
            held, high = found, price
        else:
            low = price
    return held


def _priced(
    items: Sequence[Sequence[Option]], seconds: Sequence[Sequence[float]], price: float
) -> list[list[Option]]:
    return [
        [
            Option(option.cost + price * taken, option.weight)
            for option, taken in zip(options, each, strict=True)
        ]
        for options, each in zip(items, seconds, strict=True)
    ]


def _total(seconds: Sequence[Sequence[float]], chosen: Sequence[int]) -> float:
    return sum(each[i] for each, i in zip(seconds, chosen, strict=True))
