"""Latency, likeness and size of bundles in one plot, with the front of those that nothing beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from edgediff.compare import units
from edgediff.compare.axes import Axis, fitting, from_zero
from edgediff.compare.colours import BEST, BEST_FILL, FAINT, INK, OTHER, PAPER, SOFT
from edgediff.compare.letters import width
from edgediff.compare.marks import Point, marks
from edgediff.compare.places import Box, around
from edgediff.compare.scene import Dot, Label, Path, Scene, Shape

WIDTH, HEIGHT = 860, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 830, 84, 440
_BAND = 84  # height of the strip for bundles whose pictures equal the reference's


def plot(points: Sequence[Point], what: str = "picture") -> Scene:
    """Return the plot: seconds to the right, likeness upwards, size as area."""
    same = any(math.isinf(p.psnr_db) for p in points)
    finite = [p.psnr_db for p in points if math.isfinite(p.psnr_db)]
    most = 1.3 * max(p.latency for p in points)  # a moment's hitch does not set the scale
    x = from_zero([v for p in points for v in (p.latency, min(p.slowest, most))], _LEFT, _RIGHT)
    bottom = _BOTTOM if finite else _TOP + _BAND
    y = fitting(finite, bottom, _TOP + (_BAND if same else 0)) if finite else None
    stairs = _stairs(points, x, y, bottom)
    inside = Box(_LEFT + 4, _TOP + 2, _RIGHT + 24, bottom - 2)
    lines = [around(ends) for ends in pairwise(stairs.points)]
    lines.append(Box(_LEFT, _TOP + _BAND - 2, _RIGHT, _TOP + _BAND + 2))
    shown = marks([(p, _height(p, y)) for p in points], x, lines, inside)
    shapes = [*_frame(x, y, bottom, same), stairs, *shown, *_heading(what, bottom)]
    said = "; ".join(
        f"{p.letter} {p.name}: {units.seconds(p.latency)}, {units.decibel(p.psnr_db)}, {units.size(p.bytes)}"
        for p in points
    )
    return Scene(WIDTH, HEIGHT - (_BOTTOM - bottom), tuple(shapes), said)


def _frame(x: Axis, y: Axis | None, bottom: float, same: bool) -> list[Shape]:
    shapes: list[Shape] = []
    for tick in x.ticks:
        at = x.at(tick)
        shapes.append(Path(((at, _TOP), (at, bottom)), FAINT))
        shapes.append(Label(at, bottom + 16, f"{tick:g}", 13, INK, "middle"))
    if y is not None:
        for tick in y.ticks:
            shapes.append(Path(((_LEFT, y.at(tick)), (_RIGHT, y.at(tick))), FAINT))
            shapes.append(Label(_LEFT - 10, y.at(tick), f"{tick:g}", 13, INK, "end"))
    if same:
        edge = _TOP + _BAND
        shapes.append(Path(((_LEFT, edge), (_RIGHT, edge)), SOFT, 1.0, dashed=y is not None))
        shapes.append(Label(_LEFT - 10, _TOP + _BAND / 2 - 8, "identical", 13, INK, "end"))
        shapes.append(Label(_LEFT - 10, _TOP + _BAND / 2 + 8, "(no limit)", 12, SOFT, "end"))
    shapes.append(Path(((_LEFT, _TOP), (_LEFT, bottom), (_RIGHT, bottom)), INK, 1.2))
    return shapes


def _heading(what: str, bottom: float) -> list[Shape]:
    middle = (_LEFT + _RIGHT) / 2
    shapes: list[Shape] = [
        Label(16, 20, "PSNR to the reference in dB, higher is closer", 14, INK),
        Label(middle, bottom + 40, f"seconds per {what} (median), left is faster", 14, INK, "middle"),
        Label(middle, bottom + 62, "the area of a circle is the size of the bundle", 12, SOFT, "middle"),
    ]
    at = 18.0
    for sign, text in (
        (Dot(at + 7, 47, 6, BEST, BEST_FILL, 1.8), "on the front: no other is at least as good in all three"),
        (Dot(at + 7, 47, 6, OTHER, PAPER, 1.4), "beaten"),
        (Path(((at, 47), (at + 24, 47)), OTHER, 1.6), "fastest to slowest"),
        (Path(((at, 47), (at + 24, 47)), BEST, 1.6, dashed=True), "closest within that time"),
    ):
        long = 14 if isinstance(sign, Dot) else 24
        shapes.append(_moved(sign, at - 18.0))
        shapes.append(Label(at + long + 7, 47, text, 12, SOFT))
        at += long + 7 + 1.15 * width(text, 12) + 20
    return shapes


def _moved(sign: Dot | Path, across: float) -> Shape:
    if isinstance(sign, Dot):
        return sign._replace(x=sign.x + across)
    return sign._replace(points=tuple((x + across, y) for x, y in sign.points))


def _stairs(points: Sequence[Point], x: Axis, y: Axis | None, bottom: float) -> Path:
    """The closest that is reached within each time: a line that climbs where a bundle is better."""
    corners: list[tuple[float, float]] = []
    best = -math.inf
    for p in sorted(points, key=lambda p: (p.latency, -p.psnr_db)):
        if p.psnr_db > best:
            at = (x.at(p.latency), _height(p, y))
            corners += [(at[0], corners[-1][1] if corners else bottom), at]
            best = p.psnr_db
    return Path((*corners, (_RIGHT, corners[-1][1])), BEST, 1.6, dashed=True)


def _height(p: Point, y: Axis | None) -> float:
    return _TOP + _BAND / 2 if y is None or math.isinf(p.psnr_db) else y.at(p.psnr_db)
