"""Places for labels beside the marks of a plot, so that none covers another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from edgediff.compare.letters import width
from edgediff.compare.scene import Anchor

_HEIGHT = 32.0
_WIDER = 1.15  # than in Pillow's font: browsers show their own
_FARTHEST = 16  # how many half label heights away a place is looked for


class Box(NamedTuple):
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Return the area that two have in common."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(high, 0.0)


def around(points: Sequence[tuple[float, float]]) -> Box:
    """Return the rectangle that holds points, with a pixel to spare."""
    across, down = zip(*points, strict=True)
    return Box(min(across) - 1, min(down) - 1, max(across) + 1, max(down) + 1)


class Place(NamedTuple):
    """Where two lines of text stand: at ``x``, which they start from, end at or are centred on, from
    ``top`` on."""

    x: float
    top: float
    anchor: Anchor


def placed(
    texts: Sequence[tuple[str, str]],
    marks: Sequence[Box],
    lines: Sequence[Box],
    inside: Box,
) -> list[Place]:
    """Return a place for each label, two lines (of 14 and 12 pixels), near its mark.

    A place to the right is taken first, then left, below, above, then farther ones; where all are taken, the
    one that covers least of marks, lines and other labels.
    """
    taken = [*marks, *lines]
    found = []
    for (name, figures), mark in zip(texts, marks, strict=True):
        wide = _WIDER * max(width(name, 14), width(figures, 12))
        pairs = [(place, _within(_box(place, wide), inside)) for place in _near(mark)]
        costs = [sum(box.overlap(each) for each in taken) for _, box in pairs]
        place, box = pairs[costs.index(min(costs))]
        taken.append(box)
        at = {"start": box.left, "middle": (box.left + box.right) / 2, "end": box.right}[place.anchor]
        found.append(Place(at, box.top, place.anchor))
    return found


def _near(mark: Box) -> Iterator[Place]:
    """The places around a mark, the best first."""
    right, left, middle = mark.right + 6, mark.left - 6, (mark.left + mark.right) / 2
    level = (mark.top + mark.bottom - _HEIGHT) / 2
    yield Place(right, level, "start")
    yield Place(left, level, "end")
    yield Place(middle, mark.bottom + 3, "middle")
    yield Place(middle, mark.top - _HEIGHT - 3, "middle")
    for step in range(1, _FARTHEST):
        far = 3 + 0.5 * step * _HEIGHT
        for down in (far, -far):
            yield Place(right, level + down, "start")
            yield Place(left, level + down, "end")


def _box(place: Place, wide: float) -> Box:
    left = place.x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[place.anchor]
    return Box(left, place.top, left + wide, place.top + _HEIGHT)


def _within(box: Box, inside: Box) -> Box:
    """Move a box into another one."""
    across = min(0.0, inside.right - box.right) + max(0.0, inside.left - box.left)
    down = min(0.0, inside.bottom - box.bottom) + max(0.0, inside.top - box.top)
    return Box(box.left + across, box.top + down, box.right + across, box.bottom + down)
