"""How a cost grows: the exponent of a power law with its interval, and models of two terms.

A line through the logarithms of both (least squares) has the exponent as its slope. The 95 % interval is that
of the slope for residuals that are normal (Student's t).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

# Student's t, 97.5 %, by degrees of freedom (any table of statistics); beyond, the normal distribution's.
_T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)
_BEYOND = 2.0

Points = Sequence[tuple[float, float]]


def exponent(points: Points) -> dict[str, float]:
    """Return ``exponent`` of cost ~ scale * amount^exponent, and ``low`` and ``high`` of its interval.

    Raises:
        ValueError: there are fewer than 3 points, or all of one amount.
    """
    x, y = np.log([p[0] for p in points]), np.log([p[1] for p in points])
    across = float(((x - x.mean()) ** 2).sum())
    if len(points) < 3 or across == 0:
        raise ValueError(f"{len(points)} points of too few amounts have no slope with an interval")
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / across)
    apart = y - y.mean() - slope * (x - x.mean())
    free = len(points) - 2
    error = math.sqrt(float((apart**2).sum()) / free / across)
    reach = (_T[free - 1] if free <= len(_T) else _BEYOND) * error
    return {"exponent": round(slope, 3), "low": round(slope - reach, 3), "high": round(slope + reach, 3)}


def two_terms(points: Points, powers: tuple[float, float]) -> dict[str, float]:
    """Return ``first`` and ``second`` of cost = first * amount^p + second * amount^q, none below 0, and
    ``worst``, the largest relative miss of a point.

    Squares of relative misses are least, so that small amounts count as much as large ones.
    """
    amounts, costs = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    columns = np.stack([amounts ** powers[0], amounts ** powers[1]], axis=1) / costs[:, None]
    found = np.linalg.lstsq(columns, np.ones(len(costs)), rcond=None)[0]
    if (found < 0).any():  # one term alone is then the best
        kept = int(np.argmax(found))
        alone = columns[:, kept]
        found = np.zeros(2)
        found[kept] = alone.sum() / (alone**2).sum()
    worst = float(np.abs(columns @ found - 1).max())
    return {"first": float(found[0]), "second": float(found[1]), "worst": round(worst, 4)}


WALL, PROCESSOR = "seconds", "processor_seconds"
"""What is fitted: time as it passes, or that of processors, which other work changes little."""


def medians(visits: Sequence[dict[str, Any]], clock: str = WALL) -> dict[float, dict[str, float]]:
    """Return by amount the median over visits of each visit's median, with the least and the largest."""
    by_amount: dict[float, list[float]] = {}
    for amount, seconds in per_visit(visits, clock):
        by_amount.setdefault(amount, []).append(seconds)
    return {
        amount: {
            "median": statistics.median(found),
            "min": min(found),
            "max": max(found),
            "visits": len(found),
        }
        for amount, found in sorted(by_amount.items())
    }


def per_visit(visits: Sequence[dict[str, Any]], clock: str = WALL) -> list[tuple[float, float]]:
    """Return amount and median seconds of every cell of every visit."""
    return [
        (float(amount), statistics.median(cell[clock]))
        for visit in visits
        for amount, cell in visit["cells"].items()
    ]


def fits(sweep: str, visits: Sequence[dict[str, Any]], clock: str = WALL) -> dict[str, Any]:
    """Return what a sweep's visits say of its growth.

    ``pixels``: the exponent over all amounts (pixels of the picture, not of a side), over the smaller and the
    larger ones, and the terms linear and quadratic in pixels, with the side from which the quadratic one is
    the larger. ``batch`` and ``steps``: the exponent, and what is fixed and what each one adds.
    """
    points = [(a * a, s) if sweep == "pixels" else (a, s) for a, s in per_visit(visits, clock)]
    found: dict[str, Any] = {"all": exponent(points)}
    if sweep != "pixels":
        terms = two_terms(points, (0.0, 1.0))
        return {**found, "fixed_s": terms["first"], "each_s": terms["second"], "worst": terms["worst"]}
    amounts = sorted({a for a, _ in points})
    middle = amounts[len(amounts) // 2]
    for name, part in (
        ("small", [p for p in points if p[0] <= middle]),
        ("large", [p for p in points if p[0] >= middle]),
    ):
        if len(part) >= 3 and len({a for a, _ in part}) >= 2:
            found[name] = {
                **exponent(part),
                "sides": [round(math.sqrt(f(p[0] for p in part))) for f in (min, max)],
            }
    terms = two_terms(points, (1.0, 2.0))
    found["linear_s_per_megapixel"] = terms["first"] * 1e6
    found["quadratic_s_per_megapixel2"] = terms["second"] * 1e12
    found["worst"] = terms["worst"]
    if terms["second"] > 0:
        found["equal_at_side"] = round(math.sqrt(terms["first"] / terms["second"]))
    return found
