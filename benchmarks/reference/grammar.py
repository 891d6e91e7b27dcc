"""Scenes and the sentences that describe them.

A scene is a plain background with one to three solid objects. Lengths are in units of a 64-pixel
picture, so the same scene can be rendered at any size. A caption states the colour and the shape of
every object and may state sizes, positions, a relation and the background; what it does not state is
drawn at random and is never judged.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 26, 32),
    "orange": (250, 128, 10),
    "yellow": (250, 226, 30),
    "green": (24, 140, 48),
    "cyan": (40, 210, 224),
    "blue": (30, 80, 226),
    "purple": (128, 30, 160),
    "pink": (250, 120, 196),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "beige": (228, 208, 176),
    "navy": (10, 18, 70),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
SIZES = {"small": 8.0, "large": 13.0}  # radii; an object of unstated size has 10.5, less where it is crowded
CELLS = (
    "in the top left", "at the top", "in the top right",
    "on the left", "in the center", "on the right",
    "in the bottom left", "at the bottom", "in the bottom right",
)  # fmt: skip
RELATIONS = ("to the left of", "to the right of", "above", "below")
CENTRES = (14.5, 32.0, 49.5)
HELD_OUT = (
    ("yellow", "circle"),
    ("green", "square"),
    ("purple", "triangle"),
    ("red", "heart"),
    ("cyan", "star"),
)
PAIRS = tuple((c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT)
SPLITS = ("train", "heldout-captions", "heldout-pairs")


@dataclass(frozen=True, slots=True)
class Object:
    """One solid shape; ``size`` and ``cell`` are what the caption states, None where it is silent."""

    colour: str
    shape: str
    radius: float
    x: float
    y: float
    size: str | None = None
    cell: int | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's contents, what its caption states, and the caption."""

    background: str
    objects: tuple[Object, ...]
    relation: str | None
    background_stated: bool
    caption: str


def cell_of(x: float, y: float) -> int:
    """The 3x3 cell that holds a point, numbered in reading order."""
    column, row = (min(2, max(0, int(v * 3 // 64))) for v in (x, y))
    return row * 3 + column


def describe(objects: tuple[Object, ...], relation: str | None, background: str | None) -> str:
    """The caption of a scene: ``a red circle to the left of a blue square on a white background``."""
    phrases = []
    for thing in objects:
        article = "an" if thing.size is None and thing.colour == "orange" else "a"
        words = [
            article,
            thing.size,
            thing.colour,
            thing.shape,
            None if thing.cell is None else CELLS[thing.cell],
        ]
        phrases.append(" ".join(word for word in words if word))
    if relation is not None:
        text = f"{phrases[0]} {relation} {phrases[1]}"
    elif len(phrases) == 1:
        text = phrases[0]
    else:
        text = ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return text if background is None else f"{text} on a {background} background"


def held_out_caption(caption: str) -> bool:
    """Whether a caption belongs to the tenth that training never sees (the same tenth everywhere)."""
    return zlib.crc32(caption.encode()) % 10 == 0


def scenes(
    seed: int, n: int, split: str = "train", counts: tuple[float, ...] = (0.4, 0.4, 0.2)
) -> list[Scene]:
    """``n`` scenes of a split; ``counts`` are the shares of one, two and three objects."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    rng = random.Random(f"{split}-{seed}")
    found: list[Scene] = []
    for scene in _stream(rng, split, counts):
        if split == "heldout-pairs" or held_out_caption(scene.caption) == (split == "heldout-captions"):
            found.append(scene)
        if len(found) >= n:
            break
    return found[:n]


def _stream(rng: random.Random, split: str, counts: tuple[float, ...]) -> Iterator[Scene]:
    while True:
        count = rng.choices((1, 2, 3), counts)[0]
        pairs = rng.sample(PAIRS, count)
        if split == "heldout-pairs":
            pairs[rng.randrange(count)] = rng.choice(HELD_OUT)
        relation = rng.choice(RELATIONS) if count == 2 and rng.random() < 0.5 else None
        stated = relation is None and rng.random() < 0.5
        objects = None
        while objects is None:
            sizes = [rng.choice(("small", "large")) if rng.random() < 0.3 else None for _ in pairs]
            cells = _cells(rng, count, relation, stated)
            for radius in (10.5, 9.0, 8.0):
                objects = objects or _place(rng, pairs, sizes, cells, stated, radius)
        background, background_stated = rng.choice(tuple(BACKGROUNDS)), rng.random() < 0.9
        caption = describe(objects, relation, background if background_stated else None)
        yield Scene(background, objects, relation, background_stated, caption)


def _cells(rng: random.Random, count: int, relation: str | None, stated: bool) -> list[int]:
    if relation is not None:
        across = sorted(rng.sample(range(3), 2), reverse=relation in ("to the right of", "below"))
        along = 1 if rng.random() < 0.6 else rng.choice((0, 2))
        level = relation in ("to the left of", "to the right of")
        return [along * 3 + a if level else a * 3 + along for a in across]
    if count == 1 and not stated and rng.random() < 0.6:
        return [4]
    return rng.sample(range(9), count)


def _place(
    rng: random.Random,
    pairs: list[tuple[str, str]],
    sizes: list[str | None],
    cells: list[int],
    stated: bool,
    usual: float,
) -> tuple[Object, ...] | None:
    """Objects in their cells, or None where two would come too close."""
    placed: list[Object] = []
    for (colour, shape), size, cell in zip(pairs, sizes, cells, strict=True):
        radius = (usual if size is None else SIZES[size]) * rng.uniform(0.97, 1.03)
        low, high = 1.1 * radius + 0.5, 63.5 - 1.1 * radius
        x, y = (min(high, max(low, CENTRES[c] + rng.uniform(-1.5, 1.5))) for c in (cell % 3, cell // 3))
        placed.append(Object(colour, shape, radius, x, y, size, cell if stated else None))
    for i, one in enumerate(placed):
        for other in placed[:i]:
            # Corners and points reach beyond the radius; two of one colour that touch look like one.
            gap = 2 + (0.25 * (one.radius + other.radius) if one.colour == other.colour else 0)
            if math.hypot(one.x - other.x, one.y - other.y) < one.radius + other.radius + gap:
                return None
    return tuple(placed)
