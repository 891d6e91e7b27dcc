"""How long each component takes, and how far its samples lie from each other."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from edgediff.bench.chart_rows import Rows
from edgediff.bench.chart_svg import bar, chart, dot, line
from edgediff.compare.axes import Axis, from_zero, round_step
from edgediff.compare.units import seconds

_SHOWN = 400  # samples of a row; more are one smear


class Timed(NamedTuple):
    """Seconds of a component: every sample, and what was made of them."""

    name: str
    samples: tuple[float, ...]
    median: float
    p90: float
    p99: float
    kind: str = "f0"


def latency(rows: Sequence[Timed], width: int) -> str:
    """Return the chart of seconds: a bar to the median, a line over all samples, ticks at p90 and p99."""
    place = Rows(width, len(rows))
    most = max((v for r in rows for v in (r.median, r.p99)), default=0.0) or 1.0
    unit, scale = ("seconds", 1.0) if most >= 1.0 else ("milliseconds", 1e-3)
    axis = from_zero([0.0, most / scale], place.left, place.right)
    shapes = place.grid(axis, unit)
    for i, row in enumerate(rows):
        y = place.middle(i)
        shapes += place.texts(i, row.name, f"{seconds(row.median)}, p90 {seconds(row.p90)}")
        at = [axis.at(v / scale) for v in (row.median, row.p90, row.p99)]
        shapes.append(bar(axis.first, y - 8, at[0] - axis.first, 16, row.kind, _said(row)))
        shapes += _spread([axis.at(v / scale) for v in (*row.samples, row.p99)], at[1], at[2], y)
    return chart(width, place.height, "Seconds by component", "; ".join(map(_said, rows)), shapes)


def spread(rows: Sequence[Timed], width: int) -> str:
    """Return the chart of each row's samples as multiples of its median: how far they can be trusted. What
    lies outside 0.5 to 2 stands at that edge."""
    place = Rows(width, len(rows))
    ratios = {r.name: [min(max(v / r.median, 0.5), 2.0) for v in r.samples] for r in rows if r.median > 0}
    every = [v for found in ratios.values() for v in found] or [1.0]
    reach = max(max(every) - 1, 1 - min(every), 0.02)
    step = round_step(reach / 2.5)
    low, high = 1 - step * ceil((1 - min(every)) / step), 1 + step * ceil((max(every) - 1) / step)
    low, high = min(low, 1 - step), max(high, 1 + step)
    ticks = tuple(low + step * i for i in range(round((high - low) / step) + 1))
    axis = Axis(low, high, place.left, place.right, ticks)
    shapes = [*place.grid(axis, "times the median"), _upright(axis.at(1.0), place)]
    for i, row in enumerate(rows):
        y, found = place.middle(i), ratios.get(row.name, [])
        told = f"{min(row.samples) / row.median:.3g} to {max(row.samples) / row.median:.3g}x" if found else ""
        shapes += place.texts(i, row.name, f"{told}, n {len(row.samples)}" if told else "")
        shapes += [dot(axis.at(v), y, 3.6, f"{row.kind} dust") for v in found[:_SHOWN]]
        if found:
            p90, p99 = (axis.at(min(max(v / row.median, low), high)) for v in (row.p90, row.p99))
            shapes += _spread([axis.at(v) for v in found], p90, p99, y)
    return chart(width, place.height, "Spread of the samples", "; ".join(map(_said, rows)), shapes)


def _spread(places: Sequence[float], p90: float, p99: float, y: float) -> list[str]:
    return [
        line(((min(places), y), (max(places), y)), "reach"),
        line(((p90, y - 4), (p90, y + 4)), "mark"),
        line(((p99, y - 8), (p99, y + 8)), "mark"),
    ]


def _upright(x: float, place: Rows) -> str:
    return line(((x, place.top), (x, place.bottom + 4)), "trend")


def _said(row: Timed) -> str:
    return (
        f"{row.name}: median {seconds(row.median)}, p90 {seconds(row.p90)}, p99 {seconds(row.p99)}, "
        f"{len(row.samples)} samples"
    )
