"""How far each component is from what the machine can do, by ceilings that were measured on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgediff.bench.chart_rows import Rows
from edgediff.bench.chart_svg import bar, chart
from edgediff.compare.axes import Axis


class Reached(NamedTuple):
    """A component's FLOP/s, what share of the limit its time is, and what that limit is made of."""

    name: str
    percent: float
    rate: float
    what: str
    kind: str = "f0"


def limits(rows: Sequence[Reached], width: int) -> str:
    """Return the chart: a bar from 0 to 100 per cent for each component. What is above its limit is drawn
    past the mark of 100, up to 150."""
    place = Rows(width, len(rows))
    most = max(100.0, *(min(row.percent, 150.0) for row in rows))
    axis = Axis(0.0, most, place.left, place.right, tuple(25.0 * i for i in range(int(most // 25) + 1)))
    shapes = place.grid(axis, "per cent of the limit measured beside it")
    for i, row in enumerate(rows):
        y = place.middle(i)
        long = axis.at(min(row.percent, most)) - axis.first
        shapes.append(bar(axis.first, y - 8, axis.at(100.0) - axis.first, 16, "track"))
        shapes.append(bar(axis.first, y - 8, long, 16, row.kind, _said(row)))
        shapes += place.texts(i, row.name, f"{row.percent:.3g} %, {rate(row.rate)}")
    return chart(width, place.height, "Per cent of the machine's limit", "; ".join(map(_said, rows)), shapes)


def rate(value: float) -> str:
    """Return operations per second with three digits."""
    for unit in ("FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TFLOP/s"


def _said(row: Reached) -> str:
    return f"{row.name}: {rate(row.rate)}, {row.percent:.3g} % of the limit: {row.what}"
