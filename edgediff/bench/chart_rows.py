"""Charts with a named row for each thing: where the name, the drawing and the figure of a row stand.

On a desk they stand side by side; on a phone name and figure share a line above the drawing.
"""

from __future__ import annotations

from typing import NamedTuple

from edgediff.bench.chart_svg import fitted, label, line, wide
from edgediff.compare.axes import Axis

_BESIDE = 600  # pixels of a chart from which on there is room beside the drawing
_NAME, _FIGURE = 150.0, 190.0


class Rows(NamedTuple):
    """The places of ``rows`` rows in a chart of some width, the first one at the pixel ``top``."""

    width: int
    rows: int
    top: float = 6.0
    figure: float = _FIGURE

    @property
    def beside(self) -> bool:
        """Whether names stand beside their rows."""
        return self.width >= _BESIDE

    @property
    def left(self) -> float:
        """The first pixel of drawings."""
        return _NAME if self.beside else 2.0

    @property
    def right(self) -> float:
        """The last pixel of drawings."""
        return self.width - (self.figure if self.beside else 8.0)

    @property
    def pitch(self) -> float:
        """Pixels from row to row."""
        return 30.0 if self.beside else 46.0

    @property
    def bottom(self) -> float:
        """The pixel under the last row."""
        return self.top + self.pitch * self.rows

    def middle(self, row: int) -> float:
        """Return the height of a row's drawing."""
        return self.top + self.pitch * row + (15.0 if self.beside else 31.0)

    def texts(self, row: int, name: str, figure: str) -> list[str]:
        """Return the name of a row and its figure."""
        if self.beside:
            y = self.middle(row)
            return [
                label(self.left - 12, y, fitted(name, _NAME - 14), "end"),
                label(self.right + 14, y, fitted(figure, self.figure - 14)),
            ]
        y = self.middle(row) - 19
        room = self.width - 8 - 7.3 * len(figure)
        return [label(2, y, fitted(name, room)), label(self.width - 2, y, figure, "end", "soft")]

    def grid(self, axis: Axis, unit: str) -> list[str]:
        """Return the lines of an axis under the rows, with its ticks and what they count."""
        shapes = []
        last = -1e9
        for tick in axis.ticks:
            at = axis.at(tick)
            shapes.append(line(((at, self.top), (at, self.bottom + 4)), "grid"))
            if at - last >= 34:  # narrower and figures would touch
                half = wide(f"{tick:g}", 12) / 2
                inside = min(max(at, half), self.width - half)
                shapes.append(label(inside, self.bottom + 15, f"{tick:g}", "middle", "small"))
                last = at
        middle = (self.left + self.right) / 2
        return [*shapes, label(middle, self.bottom + 34, unit, "middle", "soft small")]

    @property
    def height(self) -> float:
        """Pixels of the chart with its axis."""
        return self.bottom + 46
