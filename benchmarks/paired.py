"""Two systems judged on the same cases: the difference of their shares, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, sqrt
from typing import Any

_Z = 1.96  # 95 %


def difference(reference: Sequence[bool], found: Sequence[bool]) -> dict[str, Any]:
    """Return how many points ``found`` lies above ``reference``, both judged on the same cases, in order.

    ``points`` is the difference in per cent of the cases, ``low`` and ``high`` its 95 % interval (Newcombe,
    1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", method 10), ``lost`` and ``won`` the cases that only one of them got right, ``p`` the two-sided
    exact probability of such a split between equals (McNemar).

    Raises:
        ValueError: there are no cases, or not equally many.
    """
    if len(reference) != len(found) or not reference:
        raise ValueError(f"{len(reference)} and {len(found)} cases cannot be paired")
    pairs = list(zip(reference, found, strict=True))
    total = len(pairs)
    both, lost = sum(a and b for a, b in pairs), sum(a and not b for a, b in pairs)
    won = sum(b and not a for a, b in pairs)
    low, high = _newcombe(both, won, lost, total - both - won - lost)
    return {
        "points": round(100 * (won - lost) / total, 2),
        "low": round(100 * low, 2),
        "high": round(100 * high, 2),
        "lost": lost,
        "won": won,
        "p": round(_mcnemar(lost, won), 4),
    }


def _newcombe(both: int, won: int, lost: int, neither: int) -> tuple[float, float]:
    total = both + won + lost + neither
    new, old = (both + won) / total, (both + lost) / total
    (new_low, new_high), (old_low, old_high) = wilson(both + won, total), wilson(both + lost, total)
    margins = (both + won) * (lost + neither) * (both + lost) * (won + neither)
    product = both * neither - won * lost
    product = max(product - total / 2, 0.0) if product > 0 else product
    phi = product / sqrt(margins) if margins else 0.0
    down = (new - new_low) ** 2 - 2 * phi * (new - new_low) * (old_high - old) + (old_high - old) ** 2
    up = (new_high - new) ** 2 - 2 * phi * (new_high - new) * (old - old_low) + (old - old_low) ** 2
    return new - old - sqrt(max(down, 0.0)), new - old + sqrt(max(up, 0.0))


def wilson(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927)."""
    share = right / total
    centre = (share + _Z * _Z / (2 * total)) / (1 + _Z * _Z / total)
    reach = _Z * sqrt(share * (1 - share) / total + _Z * _Z / (4 * total * total)) / (1 + _Z * _Z / total)
    return centre - reach, centre + reach


def _mcnemar(lost: int, won: int) -> float:
    several = lost + won
    tail = sum(comb(several, k) for k in range(min(lost, won) + 1)) / 2**several
    return min(1.0, 2 * tail)
