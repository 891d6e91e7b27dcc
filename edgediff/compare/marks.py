"""The marks of a plot: a circle for each bundle, its letter in it, its name and figures beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from edgediff.compare import units
from edgediff.compare.axes import Axis
from edgediff.compare.colours import BEST, BEST_FILL, INK, OTHER, PAPER, SOFT
from edgediff.compare.letters import width
from edgediff.compare.places import Box, around, placed
from edgediff.compare.scene import Dot, Label, Path, Shape

_LARGEST, _SMALLEST = 24.0, 3.5
_SAME = 3.0  # pixels apart


class Point(NamedTuple):
    """A bundle; ``letter`` stands in its mark.

    ``latency``: median seconds, between ``fastest`` and ``slowest``. ``psnr_db``: to the reference, infinite
    if all pictures are equal.
    """

    letter: str
    name: str
    latency: float
    fastest: float
    slowest: float
    psnr_db: float
    bytes: int
    on_front: bool


def marks(points: Sequence[tuple[Point, float]], x: Axis, lines: Sequence[Box], inside: Box) -> list[Shape]:
    """Return the marks of points, each with its height in pixels; labels keep off ``lines``.

    Marks that cover each other share a label.
    """
    most = max(p.bytes for p, _ in points)
    ordered = sorted(points, key=lambda each: -each[0].bytes)  # small ones are painted over large ones
    reaches: list[Path] = []
    dots = []
    for p, up in ordered:
        radius = max(_SMALLEST, _LARGEST * math.sqrt(p.bytes / max(most, 1)))
        stroke, fill, thick = (BEST, BEST_FILL, 1.8) if p.on_front else (OTHER, PAPER, 1.4)
        ends = x.at(max(p.fastest, x.low)), x.at(min(p.slowest, x.high))
        reaches.append(Path(((ends[0], up), (ends[1], up)), stroke, 1.6))
        dots.append(Dot(x.at(p.latency), up, radius, stroke, fill, thick))
    groups = _groups(dots)
    discs = [around(_corners(dots[g[0]])) for g in groups]
    texts = [_said([ordered[i][0] for i in g]) for g in groups]
    shapes: list[Shape] = [*reaches, *dots]
    for g in groups:
        letters, dot = "".join(sorted(ordered[i][0].letter for i in g)), dots[g[-1]]
        if 2 * dot.radius >= width(letters, 13) + 6:
            shapes.append(Label(dot.x, dot.y, letters, 13, INK, "middle"))
    taken = [*lines, *(around(path.points) for path in reaches)]
    for (name, figures), place in zip(texts, placed(texts, discs, taken, inside), strict=True):
        shapes.append(Label(place.x, place.top + 8, name, 14, INK, place.anchor))
        shapes.append(Label(place.x, place.top + 24, figures, 12, SOFT, place.anchor))
    return shapes


def _groups(dots: Sequence[Dot]) -> list[list[int]]:
    """Marks that cover each other, by number."""
    groups: list[list[int]] = []
    for i, dot in enumerate(dots):
        for group in groups:
            other = dots[group[0]]
            if max(abs(dot.x - other.x), abs(dot.y - other.y), abs(dot.radius - other.radius)) < _SAME:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _said(points: Sequence[Point]) -> tuple[str, str]:
    first, *others = sorted(points, key=lambda p: p.letter)
    names = ", ".join(f"{p.letter} {p.name}" for p in (first, *others))
    figures = f"{units.seconds(first.latency)}, {units.decibel(first.psnr_db)}, {units.size(first.bytes)}"
    return units.shortened(names, 60), f"each about {figures}" if others else figures


def _corners(dot: Dot) -> tuple[tuple[float, float], tuple[float, float]]:
    return (dot.x - dot.radius, dot.y - dot.radius), (dot.x + dot.radius, dot.y + dot.radius)
