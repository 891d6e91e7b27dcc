"""What charts are made of: SVG elements whose colours are classes, so that one style sheet serves a light
page and a dark one.

Places are in pixels from the top left. Every text is escaped here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgediff.compare.units import visible

BROAD, SLIM = 840, 328
"""Pixels of a chart on a desk and on a phone; a page holds both and shows the one that fits."""
LINE = 13  # pixels of text


def told(text: str) -> str:
    """Return text from outside as SVG and HTML show it."""
    return escape(visible(text))


def label(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    """Return one line of text; ``y`` is its middle, ``kind`` its classes (``soft``, ``small``, ``on``)."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central"'
    return f"<text {place}{_class(kind)}>{told(text)}</text>"


def bar(x: float, y: float, wide: float, high: float, kind: str, title: str = "") -> str:
    """Return a filled rectangle; ``title`` is what pointing at it shows."""
    size = f'x="{x:.1f}" y="{y:.1f}" width="{max(wide, 0.5):.1f}" height="{high:.1f}"'
    return f"<rect {size}{_class(kind)}>{_title(title)}</rect>"


def dot(x: float, y: float, radius: float, kind: str, title: str = "") -> str:
    """Return a circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"{_class(kind)}>{_title(title)}</circle>'


def line(points: Sequence[tuple[float, float]], kind: str) -> str:
    """Return straight lines from point to point."""
    return f'<polyline points="{_joined(points)}" fill="none"{_class(kind)}/>'


def area(points: Sequence[tuple[float, float]], kind: str) -> str:
    """Return a filled polygon."""
    return f'<polygon points="{_joined(points)}"{_class(kind)}/>'


def chart(width: int, height: float, title: str, said: str, shapes: Sequence[str]) -> str:
    """Return the drawing. ``title`` names it and ``said`` tells in words what it shows, for those who hear
    the page."""
    size = f'viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}"'
    body = "\n".join(shapes)
    return (
        f'<svg {size} role="img" font-size="{LINE}">\n<title>{told(title)}</title><desc>{told(said)}</desc>\n'
        f"{body}\n</svg>"
    )


def wide(text: str, size: int = LINE) -> float:
    """Return about how many pixels wide a text is: no font is measured, since the reader's is unknown."""
    return 0.56 * size * len(text)


def fitted(text: str, room: float, size: int = LINE) -> str:
    """Return a text that is cut, with an ellipsis, to what ``room`` pixels hold."""
    most = max(int(room / (0.56 * size)), 1)
    return text if len(text) <= most else f"{text[: max(most - 1, 1)]}…"


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _title(text: str) -> str:
    return f"<title>{told(text)}</title>" if text else ""
