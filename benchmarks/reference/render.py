"""Scenes to pictures: every shape is a signed distance, and a pixel's coverage is that distance clipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reference.grammar import BACKGROUNDS, COLOURS, SHAPES, Scene

Array = NDArray[np.floating[Any]]


def distance(shape: str, x: Array, y: Array) -> Array:
    """Signed distance (negative inside) of points to a shape of radius 1 about the origin, y downwards."""
    if shape == "circle":
        return np.asarray(np.hypot(x, y) - 1.0)
    if shape == "square":
        return np.asarray(np.maximum(np.abs(x), np.abs(y)) - 0.86)
    if shape == "triangle":
        slope = np.abs(x) * 0.8660254 - (y + 1.0) * 0.5
        return np.asarray(np.maximum(slope, y - 0.8))
    if shape == "star":
        return _star(x, y)
    if shape == "cross":
        a, b = np.abs(x), np.abs(y)
        return np.asarray(np.minimum(np.maximum(a - 1.0, b - 0.36), np.maximum(a - 0.36, b - 1.0)))
    if shape == "heart":
        half, lower = 0.6, y + 0.1
        tip = (np.abs(x) + np.abs(lower)) * 0.70710678 - half
        lobe = np.hypot(np.abs(x) - half * 0.70710678, lower + half * 0.70710678) - half
        return np.asarray(np.minimum(tip, lobe))
    raise ValueError(f"shape {shape!r} is none of {', '.join(SHAPES)}")


def _star(x: Array, y: Array, outer: float = 1.12, inner: float = 0.52) -> Array:
    """Five points: fold the plane into one tenth, where the outline is a single straight line."""
    turn = 2 * np.pi / 5
    angle: Array = np.arctan2(x, -y)
    angle = np.abs(angle - turn * np.round(angle / turn))
    length = np.hypot(x, y)
    px, py = length * np.sin(angle), length * np.cos(angle)
    ix, iy = inner * np.sin(turn / 2), inner * np.cos(turn / 2)
    nx, ny = outer - iy, ix
    return np.asarray((px * nx + (py - outer) * ny) / np.hypot(nx, ny))


WHOLE = slice(None)


def coverage(
    shape: str, x: Array, y: Array, radius: Array, size: int = 64, rows: slice = WHOLE, columns: slice = WHOLE
) -> Array:
    """Share of each pixel (of a window) that a shape covers, (N, H, W); lengths are in 64-pixel units."""
    grid = ((np.arange(size, dtype=np.float32) + 0.5) * (64 / size)).astype(np.float32)
    r = radius.astype(np.float32)[:, None, None]
    dx = (grid[None, None, columns] - x.astype(np.float32)[:, None, None]) / r
    dy = (grid[None, rows, None] - y.astype(np.float32)[:, None, None]) / r
    dx, dy = np.broadcast_arrays(dx, dy)
    covered: Array = np.clip(0.5 - distance(shape, dx, dy) * r * (size / 64), 0.0, 1.0).astype(np.float32)
    return covered


def paint(
    canvas: Array, which: NDArray[np.int64], shape: str, x: Array, y: Array, r: Array, colour: Array
) -> None:
    """Lay one object of a shape over each of the chosen pictures of a float canvas (N, H, W, 3), in place."""
    alpha = coverage(shape, x, y, r, canvas.shape[1])[..., None]
    below = canvas[which]
    canvas[which] = below + alpha * (colour[:, None, None, :] - below)


def render(scenes: Sequence[Scene], size: int = 64) -> NDArray[np.uint8]:
    """Pictures (N, size, size, 3) of scenes."""
    ground = np.array([BACKGROUNDS[scene.background] for scene in scenes], np.float32)
    canvas = np.repeat(np.repeat(ground[:, None, None, :], size, 1), size, 2)
    for layer in range(max((len(scene.objects) for scene in scenes), default=0)):
        for shape in SHAPES:
            chosen = [
                i for i, s in enumerate(scenes) if len(s.objects) > layer and s.objects[layer].shape == shape
            ]
            if chosen:
                things = [scenes[i].objects[layer] for i in chosen]
                x, y, r = (
                    np.array([getattr(t, k) for t in things], np.float32) for k in ("x", "y", "radius")
                )
                colour = np.array([COLOURS[t.colour] for t in things], np.float32)
                paint(canvas, np.array(chosen), shape, x, y, r, colour)
    return np.round(canvas).astype(np.uint8)
