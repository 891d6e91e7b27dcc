"""The judge: what a picture shows, found by measurement alone. No part of it is learned.

Background: the palette colour that most pixels are near. Objects: connected regions that differ from it.
Colour: the palette colour nearest to the region's core. Shape, place and size: the template, rendered as the
training pictures are, that overlaps the region best. A region that no template overlaps well has no shape.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reference.grammar import BACKGROUNDS, COLOURS, SHAPES, cell_of
from benchmarks.reference.render import coverage

Picture = NDArray[np.uint8]
Plane = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

LEAST_AREA = 60.0  # square pixels at 64; the smallest object of the grammar has about 120
LEAST_OVERLAP = 0.8  # soft intersection over union; clean renderings reach 0.95 and more
NEAR = 60.0  # largest distance in RGB at which a colour still counts as a palette colour


@dataclass(frozen=True, slots=True)
class Found:
    """One object; colour and shape may be None, lengths are in 64-pixel units, the overlap is 0 to 1."""

    colour: str | None
    shape: str | None
    x: float
    y: float
    radius: float
    overlap: float

    @property
    def cell(self) -> int:
        return cell_of(self.x, self.y)

    @property
    def size(self) -> str:
        return "small" if self.radius < 10.5 else "large"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a picture shows; ``residual``: mean absolute difference (0 to 255) from the best-fit rendering."""

    background: str | None
    objects: tuple[Found, ...]
    residual: float


def judge(picture: Picture) -> Verdict:
    """Measure one picture, shape (H, H, 3), uint8."""
    pixels = picture.astype(np.float32)
    background = _background(pixels)
    ground = np.asarray(BACKGROUNDS[background] if background else np.median(pixels, (0, 1)), np.float32)
    far = np.linalg.norm(pixels - ground, axis=2)
    scale = 64 / len(picture)
    drawn = np.broadcast_to(ground, pixels.shape).copy()
    objects = []
    for region, others in _split(pixels, ground, far > 45.0):
        if region.sum() * scale**2 < LEAST_AREA:
            continue
        found, cover = _object(pixels, ground, region, others)
        tint = np.asarray(COLOURS[found.colour], np.float32) if found.colour else np.median(pixels[region], 0)
        drawn += cover[:, :, None] * (tint - drawn)
        objects.append(found)
    return Verdict(background, tuple(objects), float(np.abs(pixels - drawn).mean()))


def _background(pixels: Plane) -> str | None:
    """The palette background that most pixels are near, if at least a quarter of them are."""
    near = {
        n: float((np.linalg.norm(pixels - np.asarray(c), axis=2) < 40).mean()) for n, c in BACKGROUNDS.items()
    }
    best = max(near, key=lambda name: near[name])
    return best if near[best] >= 0.25 else None


def _regions(mask: Mask) -> list[Mask]:
    """Connected regions (4 neighbours), by spreading the largest label until nothing changes."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        around = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        spread = np.where(mask, np.maximum.reduce([labels, *around]), 0)
        if np.array_equal(spread, labels):
            return [labels == n for n in np.unique(labels) if n]
        labels = spread


def _split(pixels: Plane, ground: Plane, mask: Mask) -> list[tuple[Mask, Mask]]:
    """Regions, touching objects of several colours cut apart; beside each, what belongs to its neighbours."""
    palette = np.asarray([ground, *COLOURS.values()], np.float32)
    nearest = np.linalg.norm(pixels[:, :, None, :] - palette, axis=3).argmin(2)
    nothing = np.zeros_like(mask)
    parts: list[tuple[Mask, Mask]] = []
    for region in _regions(mask):
        # Mixed pixels at an outline may be near a third colour, but never three of them side by side.
        cores = [_shrunk(region & (nearest == label)) for label in np.unique(nearest[region]) if label]
        cores = [core for core in cores if core.sum() >= 12]
        if len(cores) < 2:
            parts.append((region, nothing))
            continue
        grown = [_grown(_grown(core)) & region for core in cores]
        for i, own in enumerate(grown):
            rest = np.logical_or.reduce([_grown(g) for j, g in enumerate(cores) if j != i])
            parts.append((own & ~rest, rest))
    return parts


def _object(pixels: Plane, ground: Plane, region: Mask, others: Mask) -> tuple[Found, Plane]:
    core = _shrunk(region)
    tint = np.median(pixels[core if core.any() else region], axis=0)
    distances = {name: float(np.linalg.norm(tint - np.asarray(c))) for name, c in COLOURS.items()}
    colour = min(distances, key=lambda name: distances[name])
    # How much of each pixel is the object: its place between the background's colour and the object's.
    line = tint - ground
    share = np.clip(((pixels - ground) @ line) / max(float(line @ line), 1.0), 0, 1)
    share = np.where(_grown(_grown(region)) & ~others, share, 0)
    shape, x, y, radius, overlap, cover = _best_template(share.astype(np.float32))
    return (
        Found(
            colour if distances[colour] <= NEAR else None,
            shape if overlap >= LEAST_OVERLAP else None,
            x,
            y,
            radius,
            overlap,
        ),
        cover,
    )


def _shrunk(mask: Mask) -> Mask:
    return ~_grown(~mask)


def _grown(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:] | mask


def _moments() -> dict[str, tuple[float, float]]:
    """Area of each shape of radius 1, and how far its centroid lies below its origin."""
    found = {}
    for shape in SHAPES:
        plane = coverage(shape, np.asarray([32.0]), np.asarray([32.0]), np.asarray([20.0]), 256)[0]
        area = float(plane.sum()) / 16
        rows = (np.arange(256) + 0.5) / 4
        found[shape] = (area / 400, float((plane.sum(1) * rows).sum() / plane.sum() - 32) / 20)
    return found


_MOMENTS = _moments()


def _best_template(share: Plane) -> tuple[str, float, float, float, float, Plane]:
    """The template of largest soft overlap: from area and centroid first, then a search around that."""
    size = len(share)
    unit = 64 / size
    rows, columns = _window(share)
    near = share[rows, columns]
    places = (np.arange(size) + 0.5) * unit
    mass = float(share.sum())
    area = mass * unit**2
    cx, cy = float((share.sum(0) * places).sum() / mass), float((share.sum(1) * places).sum() / mass)
    starts = []
    for shape in SHAPES:
        ratio, drop = _MOMENTS[shape]
        radius = (area / ratio) ** 0.5
        x, y = cx, cy - drop * radius
        cover = coverage(shape, np.asarray([x]), np.asarray([y]), np.asarray([radius]), size, rows, columns)
        overlap = float(np.minimum(cover, near).sum() / np.maximum(cover, near).sum())
        starts.append((overlap, shape, x, y, radius))
    best: tuple[str, float, float, float, float] | None = None
    for _, shape, x, y, radius in sorted(starts, reverse=True)[:3]:
        for reach in (1.0, 0.4):
            moves = itertools.product((-reach, 0, reach), (-reach, 0, reach), (-0.5, 0, 0.5))
            offsets = np.asarray(list(moves), np.float32)
            xs, ys = x + offsets[:, 0], y + offsets[:, 1]
            rs = np.maximum(radius + offsets[:, 2] * reach, 2.0)
            covers = coverage(shape, xs, ys, rs, size, rows, columns)
            overlaps = np.minimum(covers, near).sum((1, 2)) / np.maximum(covers, near).sum((1, 2))
            top = int(overlaps.argmax())
            x, y, radius = float(xs[top]), float(ys[top]), float(rs[top])
        if best is None or overlaps[top] > best[4]:
            best = (shape, x, y, radius, float(overlaps[top]))
    if best is None:
        raise ValueError("the grammar has no shapes")
    shape, x, y, radius, overlap = best
    return *best, coverage(shape, np.asarray([x]), np.asarray([y]), np.asarray([radius]), size)[0]


def _window(share: Plane) -> tuple[slice, slice]:
    """Rows and columns that hold an object, with room around it for templates to move in."""
    spans = []
    for axis in (1, 0):
        held = np.flatnonzero(share.max(axis) > 0)
        spans.append(slice(max(0, int(held[0]) - 6), int(held[-1]) + 7))
    return spans[0], spans[1]
