"""Correcting a bound: errors that were added up are not quite what the whole of them is."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt
from typing import TypeVar

T = TypeVar("T")
_CLOSE = 0.3  # decibels above the floor that are close enough
_STEP = 64.0  # by how much the bound is moved at most


def raised(
    pick: Callable[[float], T | None], reached: Callable[[T], float], floor: float, turns: int
) -> T | None:
    """What ``pick`` gives for the largest error at which the whole still reaches ``floor`` dB.

    ``pick`` answers a bound on the sum of errors (mean squares as shares of the squared range), ``reached``
    measures. The bound is first moved by what was missed, then between the last that held and the last that
    did not. After ``turns`` measurements without success the answer is that of no error at all; None where
    even that cannot be picked.
    """
    bound = 10 ** (-floor / 10)
    held: T | None = None
    low, high = 0.0, inf
    seen: list[tuple[T, float]] = []
    for _ in range(turns):
        picked = pick(bound)
        if picked is None:
            low = bound  # so small an error cannot be had in the time
            bound = sqrt(low * high) if high < inf else bound * _STEP
            continue
        known = [ratio for other, ratio in seen if other == picked]
        ratio = known[0] if known else reached(picked)
        seen.append((picked, ratio))
        missed = min(_STEP, max(1 / _STEP, 10 ** ((ratio - floor) / 10)))
        if ratio >= floor:
            held, low = picked, bound
            if ratio - floor <= _CLOSE or (known and high < inf):
                break
            bound = sqrt(low * high) if high < inf else bound * max(missed, 1.1)
        else:
            high = bound
            bound = sqrt(low * high) if low > 0 else bound * min(missed, 0.9)
    return pick(0.0) if held is None else held
