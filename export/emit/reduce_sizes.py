"""Tiles of a grid, and how many tokens the operations of reduced attention leave."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from edgediff.export.emit.graph import Node

Extents = tuple[int, ...]
Indices = NDArray[np.int64]

OPERATIONS = ("arrange", "restore", "windows", "unwindows", "pool_tokens", "stride_tokens")
"""What :func:`edgediff.export.emit.reduce.reduced` adds to the vocabulary."""


def tokens_after(node: Node, given: list[Extents]) -> Extents:
    """The number of tokens of one of ``OPERATIONS``' results."""
    size, (height, width) = int(node.attributes["size"]), given[1]
    tile = ceil(height / size) * ceil(width / size)
    match node.op:
        case "arrange" | "unwindows":
            return (size * size * tile,)
        case "restore":
            return (height * width,)
        case _:  # a tile's places, and as many blocks of neighbours, each by its own size
            return (tile,)


def starts(extent: int, size: int) -> Indices:
    """Where tiles begin along one side: all of one length, over all of the side, as far apart as can be."""
    length = ceil(extent / size)
    return np.arange(size, dtype=np.int64) * (extent - length) // (size - 1)


def order(height: int, width: int, size: int, shifted: bool) -> Indices:
    """The place in the grid of each token in the order of tiles."""
    rows, columns = (_along(extent, size, shifted) for extent in (height, width))
    return (rows[:, None, :, None] * width + columns[None, :, None, :]).reshape(-1)


def _along(extent: int, size: int, shifted: bool) -> Indices:
    """(tiles, places of a tile) along one side."""
    length = ceil(extent / size)
    places = starts(extent, size)[:, None] + np.arange(length, dtype=np.int64)
    return (places + length // 2) % extent if shifted else places


def back(height: int, width: int, size: int, shifted: bool) -> Indices:
    """For each place of the grid the first token in the order of tiles that stands there."""
    found = np.full(height * width, -1, np.int64)
    places = order(height, width, size, shifted)
    found[places[::-1]] = np.arange(len(places) - 1, -1, -1)
    return found
