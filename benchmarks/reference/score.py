"""From verdicts to scores: per attribute and per caption, with Wilson's 95 % intervals."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reference.grammar import Object, Scene
from benchmarks.reference.judge import Found, Verdict, judge

Pictures = NDArray[np.uint8]
Draw = Callable[[list[str], int], Pictures]
"""Captions and a seed -> pictures, shape (N, H, H, 3)."""

ATTRIBUTES = ("background", "count", "colour", "shape", "size", "position", "relation")


def marks(scene: Scene, verdict: Verdict) -> dict[str, list[bool]]:
    """Return right or wrong for everything the caption states, by attribute."""
    found = _matched(scene, verdict.objects)
    given: dict[str, list[bool]] = {"count": [len(verdict.objects) == len(scene.objects)]}
    if scene.background_stated:
        given["background"] = [verdict.background == scene.background]
    pairs = list(zip(scene.objects, found, strict=True))
    given["colour"] = [f is not None and f.colour == o.colour for o, f in pairs]
    given["shape"] = [f is not None and f.shape == o.shape for o, f in pairs]
    given["size"] = [f is not None and f.size == o.size for o, f in pairs if o.size is not None]
    given["position"] = [f is not None and f.cell == o.cell for o, f in pairs if o.cell is not None]
    if scene.relation is not None:
        given["relation"] = [_related(scene.relation, found[0], found[1])]
    return {name: values for name, values in given.items() if values}


def _matched(scene: Scene, found: Sequence[Found]) -> list[Found | None]:
    """Give each object of the caption the found one that suits it best, no one twice."""
    pool: list[Found | None] = [*found[:6], *[None] * len(scene.objects)]
    orders = itertools.permutations(pool, len(scene.objects))
    return list(max(orders, key=lambda order: sum(map(_likeness, scene.objects, order))))


def _likeness(wanted: Object, found: Found | None) -> float:
    if found is None:
        return 0.0
    near = math.exp(-math.hypot(wanted.x - found.x, wanted.y - found.y) / 16)
    placed = wanted.cell is not None and wanted.cell == found.cell
    return 2.0 * (wanted.colour == found.colour) + 2.0 * (wanted.shape == found.shape) + placed + 0.1 * near


def _related(relation: str, one: Found | None, other: Found | None) -> bool:
    if one is None or other is None:
        return False
    dx, dy = other.x - one.x, other.y - one.y
    apart = {"to the left of": dx, "to the right of": -dx, "above": dy, "below": -dy}[relation]
    return apart > 6 and apart >= max(abs(dx), abs(dy))


def score_pictures(scenes: Sequence[Scene], pictures: Pictures) -> dict[str, Any]:
    """Return a table: per attribute, per whole caption (also by number of objects), and the mean residual."""
    tally: dict[str, list[bool]] = defaultdict(list)
    residuals = []
    for scene, picture in zip(scenes, pictures, strict=True):
        verdict = judge(picture)
        given = marks(scene, verdict)
        for name, values in given.items():
            tally[name] += values
        whole = all(all(values) for values in given.values())
        tally["whole"].append(whole)
        tally[f"whole, {len(scene.objects)} object{'s' * (len(scene.objects) > 1)}"].append(whole)
        residuals.append(verdict.residual)
    order = [*ATTRIBUTES, "whole", *sorted(name for name in tally if name.startswith("whole,"))]
    table: dict[str, Any] = {name: rate(sum(tally[name]), len(tally[name])) for name in order if tally[name]}
    return {"captions": len(scenes), "residual": round(float(np.mean(residuals)), 3), "scores": table}


def rate(right: int, total: int) -> dict[str, float | int]:
    """Return a share with its 95 % interval (Wilson, 1927)."""
    z = 1.96
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    reach = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return {
        "share": round(share, 4),
        "low": round(centre - reach, 4),
        "high": round(centre + reach, 4),
        "of": total,
    }


def score_draw(draw: Draw, scenes: Sequence[Scene], seed: int = 0, batch: int = 16) -> dict[str, Any]:
    """Draw every scene's caption, ``batch`` at a time under seeds that count up, and score the pictures."""
    drawn = []
    for start in range(0, len(scenes), batch):
        drawn.append(draw([s.caption for s in scenes[start : start + batch]], seed + start))
    return score_pictures(scenes, np.concatenate(drawn))
