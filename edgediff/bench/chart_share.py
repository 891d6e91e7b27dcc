"""What a whole is made of, as one bar in pieces with a key below; and several such bars, a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from edgediff.bench.chart_rows import Rows
from edgediff.bench.chart_svg import bar, chart, fitted, label, wide

_HIGH = 34.0


class Part(NamedTuple):
    """A piece of a whole; ``kind`` is its colour's class."""

    name: str
    amount: float
    kind: str


def share(parts: Sequence[Part], width: int, title: str, shown: Callable[[float], str]) -> str:
    """Return one bar, its pieces as long as their amounts, and what each piece is; ``shown`` writes an
    amount."""
    whole = sum(p.amount for p in parts) or 1.0
    shapes, at = [], 0.0
    for p in parts:
        long = width * p.amount / whole
        percent = f"{100 * p.amount / whole:.0f} %"
        shapes.append(bar(at, 0, long, _HIGH, p.kind, f"{p.name}: {shown(p.amount)}, {percent}"))
        if long > wide(percent) + 10:
            shapes.append(label(at + long / 2, _HIGH / 2 + 1, percent, "middle", "on"))
        at += long
    key, bottom = _key([(p, f"{p.name}  {shown(p.amount)}") for p in parts], width, _HIGH + 22)
    said = "; ".join(f"{p.name}: {shown(p.amount)}, {100 * p.amount / whole:.1f} %" for p in parts)
    return chart(width, bottom, title, said, [*shapes, *key])


def stacks(rows: Mapping[str, Sequence[Part]], width: int, title: str, unit: str) -> str:
    """Return a bar in pieces for each row, all to the same scale, and one key."""
    place = Rows(width, len(rows), figure=110.0)
    most = max((sum(p.amount for p in parts) for parts in rows.values()), default=0.0) or 1.0
    shapes: list[str] = []
    for i, (name, parts) in enumerate(rows.items()):
        y, at = place.middle(i), place.left
        for p in parts:
            long = (place.right - place.left) * p.amount / most
            shapes.append(bar(at, y - 8, long, 16, p.kind, f"{name}, {p.name}: {p.amount:g} {unit}"))
            at += long
        shapes += place.texts(i, name, f"{sum(p.amount for p in parts):g} {unit}")
    kinds = {p.name: p for parts in rows.values() for p in parts}
    key, bottom = _key([(p, p.name) for p in kinds.values()], width, place.bottom + 18)
    said = "; ".join(
        f"{name}: {', '.join(f'{p.name} {p.amount:g} {unit}' for p in parts)}" for name, parts in rows.items()
    )
    return chart(width, bottom, title, said, [*shapes, *key])


def _key(items: Sequence[tuple[Part, str]], width: int, top: float) -> tuple[list[str], float]:
    """The names of colours, in as many lines as they take, and the pixel under them."""
    shapes, x, y = [], 0.0, top
    for part, text in items:
        long = wide(text) + 38
        if x > 0 and x + long > width:
            x, y = 0.0, y + 22
        shapes.append(bar(x, y - 6, 12, 12, part.kind))
        shapes.append(label(x + 18, y, fitted(text, width - 20)))
        x += long
    return shapes, y + 16
