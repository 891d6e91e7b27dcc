"""Pictures made by a rule, for networks that read one: to change, to encode, or to be steered by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_DISCS = 400
_EDGE = 0.1  # share of the range by which neighbours differ across an edge


def gradient(size: Mapping[str, int]) -> Array:
    """A picture (height, width, 3) in [0, 1] that runs once from black to white over all its numbers."""
    height, width = size["height"], size["width"]
    return np.linspace(0, 1, height * width * 3, dtype=np.float32).reshape(height, width, 3)


def dead_leaves(size: Mapping[str, int], seed: int) -> Array:
    """A picture (height, width, 3) in [0, 1] of discs that hide each other, with radii by a power law.

    Its edges and its power at each scale are like those of photographs (Lee, Mumford and Huang, 2001,
    "Occlusion models for natural images", section 3).
    """
    height, width = size["height"], size["width"]
    random = np.random.default_rng(seed)
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = random.random(3, np.float32)
    rows, columns = np.ogrid[:height, :width]
    side = min(height, width)
    # Radii whose density falls as their third power look alike at every scale.
    smallest, largest = max(1.0, side / 128), side / 2
    share = random.random(_DISCS)
    radii = 1 / np.sqrt(share / smallest**2 + (1 - share) / largest**2)
    middles = random.random((_DISCS, 2)) * (height, width)
    for radius, (row, column), colour in zip(radii, middles, random.random((_DISCS, 3)), strict=True):
        picture[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = colour
    return picture


def edges(picture: Array) -> Array:
    """White lines on black, of the same shape, where neighbouring pixels of a picture in [0, 1] differ."""
    grey = picture.mean(axis=2)
    found = np.zeros(grey.shape, bool)
    found[:-1] |= np.abs(np.diff(grey, axis=0)) > _EDGE
    found[:, :-1] |= np.abs(np.diff(grey, axis=1)) > _EDGE
    return np.repeat(found[:, :, None], 3, axis=2).astype(np.float32)


def signed(picture: Array) -> Array:
    """A picture (height, width, 3) in [0, 1] as an encoder reads it: (1, 3, height, width) in [-1, 1]."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None] * 2 - 1, np.float32)
