"""A drawing as a list of shapes, which :mod:`edgediff.compare.svg` and Pillow show alike.

Places are in pixels from the top left. Shapes are painted in their order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from edgediff.compare.letters import drawable

if TYPE_CHECKING:
    from PIL.Image import Image

Anchor = Literal["start", "middle", "end"]
_SHARP = 2  # a PNG has so many pixels for one of the drawing's
_SMOOTH = 4  # and is drawn so much larger, since Pillow's lines have hard edges
_LETTER = {"start": "l", "middle": "m", "end": "r"}


class Dot(NamedTuple):
    """A circle; no ``fill`` leaves what is under it."""

    x: float
    y: float
    radius: float
    stroke: str
    fill: str | None = None
    width: float = 1.5


class Path(NamedTuple):
    """Straight lines from point to point, dashed if asked."""

    points: tuple[tuple[float, float], ...]
    stroke: str
    width: float = 1.0
    dashed: bool = False


class Label(NamedTuple):
    """One line of text; ``y`` is its middle."""

    x: float
    y: float
    text: str
    size: int
    fill: str
    anchor: Anchor = "start"


Shape = Dot | Path | Label


class Scene(NamedTuple):
    """A drawing; ``said`` tells in a sentence what it shows."""

    width: int
    height: int
    shapes: tuple[Shape, ...]
    said: str


def to_picture(scene: Scene) -> Image:
    """Return a drawing as a picture of twice its size."""
    from PIL import Image, ImageDraw

    zoom = _SHARP * _SMOOTH
    lines = Image.new("RGB", (scene.width * zoom, scene.height * zoom), "white")
    pen = ImageDraw.Draw(lines)
    for shape in scene.shapes:
        if isinstance(shape, Dot):
            x, y, r = (v * zoom for v in (shape.x, shape.y, shape.radius))
            box = (x - r, y - r, x + r, y + r)
            pen.ellipse(box, fill=shape.fill, outline=shape.stroke, width=round(shape.width * zoom))
        elif isinstance(shape, Path):
            for a, b in _strokes(shape):
                ends = [(a[0] * zoom, a[1] * zoom), (b[0] * zoom, b[1] * zoom)]
                pen.line(ends, fill=shape.stroke, width=max(1, round(shape.width * zoom)))
    size = (scene.width * _SHARP, scene.height * _SHARP)
    image = lines.resize(size, Image.Resampling.BOX)
    pen = ImageDraw.Draw(image)
    for shape in scene.shapes:  # text last and at its own size: its edges are smooth already
        if isinstance(shape, Label):
            at = (shape.x * _SHARP, shape.y * _SHARP)
            anchor = f"{_LETTER[shape.anchor]}m"
            pen.text(at, drawable(shape.text), fill=shape.fill, font_size=shape.size * _SHARP, anchor=anchor)
    return image


def _strokes(path: Path) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Cut a path into the pieces that are painted: dashes of 5 pixels with gaps of 4, or whole lines."""
    found = []
    for a, b in pairwise(path.points):
        length = ((b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2) ** 0.5
        if not path.dashed or length == 0:
            found.append((a, b))
            continue
        for i in range(int(length // 9) + 1):
            ends = (9 * i / length, min(1.0, (9 * i + 5) / length))
            first, last = ((a[0] + (b[0] - a[0]) * s, a[1] + (b[1] - a[1]) * s) for s in ends)
            found.append((first, last))
    return found
