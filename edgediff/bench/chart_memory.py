"""Resident memory over time, with the stages of the run shaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgediff.bench.chart_svg import area, bar, chart, dot, fitted, label, line
from edgediff.compare.axes import Axis, from_zero, round_step
from edgediff.compare.units import size

_LEFT, _TOP, _HIGH = 56.0, 40.0, 190.0
_MOST = 900  # points of the line: no screen shows more
_MARGIN = 46.0


class Moment(NamedTuple):
    """What was resident at a time, in seconds from the first one, and which stage ran."""

    seconds: float
    bytes: int
    stage: str


def memory(moments: Sequence[Moment], width: int) -> str:
    """Return the chart. Where samples are more than pixels, the largest of each group stands for it, so that
    no peak is lost."""
    right, bottom = width - 14.0, _TOP + _HIGH
    unit, scale = ("GB", 1e9) if max(m.bytes for m in moments) >= 1e9 else ("MB", 1e6)
    most = 1.1 * max(m.bytes for m in moments) / scale  # with room for the label of the peak
    y = from_zero([0.0, most], bottom, _TOP)
    end = max(moments[-1].seconds, 1e-3)
    step = round_step(end / (7 if width > 500 else 4))
    x = Axis(0.0, end, _LEFT, right, tuple(step * i for i in range(int(end / step * (1 + 1e-9)) + 1)))
    shapes = [*_bands(moments, x, bottom), *_frame(x, y, bottom, unit)]
    kept = _thinned(moments)
    ends = [(x.at(m.seconds), y.at(m.bytes / scale)) for m in kept]
    shapes.append(area([(ends[0][0], bottom), *ends, (ends[-1][0], bottom)], "f0 pale"))
    shapes.append(line(ends, "s0"))
    peak = max(moments, key=lambda m: m.bytes)
    at = x.at(peak.seconds), y.at(peak.bytes / scale)
    shapes.append(dot(*at, 4.0, "best"))
    late = at[0] > (_LEFT + right) / 2
    text = f"peak {size(peak.bytes)}"
    shapes.append(label(at[0] + (-8 if late else 8), at[1] - 9, text, "end" if late else "start"))
    said = f"{text} after {peak.seconds:.2f} s, in the stage {peak.stage}; {len(moments)} samples"
    return chart(width, bottom + _MARGIN, "Resident memory over time", said, shapes)


def stages(moments: Sequence[Moment]) -> list[tuple[str, float, float]]:
    """Return the stages in order with their first and last second."""
    found: list[tuple[str, float, float]] = []
    for m in moments:
        if found and found[-1][0] == m.stage:
            found[-1] = (m.stage, found[-1][1], m.seconds)
            continue
        if found:
            found[-1] = (*found[-1][:2], m.seconds)
        found.append((m.stage, m.seconds, m.seconds))
    return found


def _bands(moments: Sequence[Moment], x: Axis, bottom: float) -> list[str]:
    shapes, free = [], -1e9
    for i, (stage, began, ended) in enumerate(stages(moments)):
        left, right = x.at(began), x.at(ended)
        title = f"{stage}: {began:.2f} to {ended:.2f} s"
        shapes.append(bar(left, _TOP, right - left, bottom - _TOP, f"band-{'ab'[i % 2]}", title))
        name = fitted(stage, right - left, 12)
        if left >= free and len(name.rstrip("…")) >= min(len(stage), 4):  # a stump says nothing
            shapes.append(label((left + right) / 2, _TOP - 9, name, "middle", "soft small"))
            free = right
    return shapes


def _frame(x: Axis, y: Axis, bottom: float, unit: str) -> list[str]:
    shapes = []
    for tick in y.ticks:
        shapes.append(line(((x.first, y.at(tick)), (x.last, y.at(tick))), "grid"))
        shapes.append(label(x.first - 7, y.at(tick), f"{tick:g}", "end", "small"))
    shapes.append(line(((x.first, bottom), (x.last, bottom)), "axis"))
    for tick in x.ticks:
        shapes.append(label(x.at(tick), bottom + 14, f"{tick:g}", "middle", "small"))
    shapes.append(label((x.first + x.last) / 2, bottom + 34, "seconds", "middle", "soft small"))
    shapes.append(label(2, 12, f"{unit} resident", "start", "soft small"))
    return shapes


def _thinned(moments: Sequence[Moment]) -> list[Moment]:
    group = -(-len(moments) // _MOST)
    packs = [moments[i : i + group] for i in range(0, len(moments), group)]
    return [max(pack, key=lambda m: m.bytes) for pack in packs]
