"""Several records as points, cheaper to the left and below, with the front of those that no other beats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from edgediff.bench.chart_svg import chart, dot, fitted, label, line, wide
from edgediff.compare.axes import Axis, from_zero
from edgediff.compare.front import front
from edgediff.compare.places import Box, around
from edgediff.compare.units import seconds, size

_LEFT, _TOP, _HIGH = 56.0, 34.0, 250.0


class Run(NamedTuple):
    """A record: seconds per picture, and the most memory that it took."""

    name: str
    seconds: float
    bytes: float


def plot(runs: Sequence[Run], width: int) -> str:
    """Return the chart of seconds per picture against peak memory."""
    right, bottom = width - 20.0, _TOP + _HIGH
    unit, scale = ("GB", 1e9) if max(r.bytes for r in runs) >= 1e9 else ("MB", 1e6)
    x = from_zero([r.seconds for r in runs], _LEFT, right)
    y = from_zero([r.bytes / scale for r in runs], bottom, _TOP)
    best = front([(r.seconds, r.bytes) for r in runs])
    shapes = _frame(x, y, bottom, unit)
    places = [(x.at(r.seconds), y.at(r.bytes / scale)) for r in runs]
    stairs = sorted(p for p, on in zip(places, best, strict=True) if on)
    corners = [stairs[0], *((b[0], a[1]) for a, b in pairwise(stairs))]
    path = sorted({*corners, *stairs}, key=lambda p: (p[0], p[1]))
    ends = [(path[0][0], _TOP), *path, (right, path[-1][1])]
    shapes.append(line(ends, "trend"))
    taken = [Box(px - 8, py - 8, px + 8, py + 8) for px, py in places] + [around(p) for p in pairwise(ends)]
    for run, (px, py), on in zip(runs, places, best, strict=True):
        shapes.append(dot(px, py, 6.5, "best" if on else "beaten", _said(run)))
        text = fitted(run.name, min(0.55 * width, 250.0))
        at = _free(px, py, wide(text), taken, width, bottom)
        taken.append(at)
        shapes.append(label(at.left, (at.top + at.bottom) / 2, text))
    said = "; ".join(f"{_said(r)}{'' if on else ', beaten'}" for r, on in zip(runs, best, strict=True))
    return chart(width, bottom + 46, "Seconds and memory of several records", said, shapes)


def _frame(x: Axis, y: Axis, bottom: float, unit: str) -> list[str]:
    shapes = []
    for tick in y.ticks:
        shapes.append(line(((x.first, y.at(tick)), (x.last, y.at(tick))), "grid"))
        shapes.append(label(x.first - 7, y.at(tick), f"{tick:g}", "end", "small"))
    for tick in x.ticks:
        shapes.append(line(((x.at(tick), _TOP), (x.at(tick), bottom)), "grid"))
        shapes.append(label(x.at(tick), bottom + 14, f"{tick:g}", "middle", "small"))
    shapes.append(line(((x.first, _TOP), (x.first, bottom), (x.last, bottom)), "axis"))
    scales = [" (logarithmic)" if axis.logarithmic else "" for axis in (x, y)]
    told = f"seconds per picture{scales[0]}, left is faster"
    shapes.append(label((x.first + x.last) / 2, bottom + 34, told, "middle", "soft small"))
    shapes.append(label(2, 12, f"{unit} of peak memory{scales[1]}, lower is leaner", "start", "soft small"))
    return shapes


def _free(x: float, y: float, long: float, taken: Sequence[Box], width: int, bottom: float) -> Box:
    """A place beside a point, the one that covers least of what stands there already."""
    tries = []
    for down in (0.0, -16.0, 16.0, -30.0, 30.0):
        for left in (x + 11, x - 11 - long, x - long / 2):
            left = min(max(left, _LEFT + 2), width - long - 2)
            top = min(max(y + down - 8, _TOP), bottom - 18)
            tries.append(Box(left, top, left + long, top + 16))
    return min(tries, key=lambda box: sum(box.overlap(other) for other in taken))


def _said(run: Run) -> str:
    return f"{run.name}: {seconds(run.seconds)}, {size(run.bytes)}"
