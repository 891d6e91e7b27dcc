"""Decoding in tiles: equal windows that overlap, blended where they do, so that a large picture takes the
memory of one tile.

Two things make a tile differ from the same region of the whole. Near a cut the decoder sees zeros where the
picture goes on; what lies within ``margin`` of a cut is therefore thrown away, and over the rest of the
overlap one tile fades into the next. Norms over the whole picture (group norm) and attention see the tile
alone; that difference is smooth and stays: the fade turns it into a slope. ``benchmarks/seams.py`` measures
both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import InputError, ResourceError
from edgediff.sampler import Array

MARGIN, FADE = 4, 8
"""In latents: what is thrown away at a cut, and at least so much fades. Neighbours share 2 MARGIN + FADE."""
OVERLAP = 2 * MARGIN + FADE
LEAST = 2 * OVERLAP
"""The smallest side of a tile, in latents: half of it is its own."""
Floats = NDArray[np.floating[Any]]
Progress = Callable[[int, int], None]


class Span(NamedTuple):
    """One tile along one axis, in latents, and its weights in the result's units (pixels)."""

    start: int
    stop: int
    weights: Array


def spans(extent: int, tile: int, factor: int) -> list[Span]:
    """Return the tiles of an axis of ``extent`` latents: all of ``tile``, evenly spread, overlapping.

    ``factor`` is the result's units per latent. At every place the weights of all tiles add up to 1.
    """
    if tile >= extent:
        return [Span(0, extent, np.ones(extent * factor, np.float32))]
    count = -(-(extent - OVERLAP) // (tile - OVERLAP))
    starts = [round(i * (extent - tile) / (count - 1)) for i in range(count)]
    place = np.arange(tile * factor) + 0.5
    raw = []
    for i, start in enumerate(starts):
        weights = np.ones(tile * factor)
        if i > 0:
            weights *= _rise(place, starts[i - 1] + tile - start, factor)
        if i + 1 < count:
            weights *= _rise(tile * factor - place, start + tile - starts[i + 1], factor)
        raw.append(weights)
    total = np.zeros(extent * factor)
    for start, weights in zip(starts, raw, strict=True):
        total[start * factor : (start + tile) * factor] += weights
    return [
        Span(s, s + tile, (w / total[s * factor : (s + tile) * factor]).astype(np.float32))
        for s, w in zip(starts, raw, strict=True)
    ]


def _rise(distance: Floats, shared: int, factor: int) -> Floats:
    """Weights by the distance from a cut, in pixels: 0 within the margin, 1 beyond what two tiles share.

    Between them half a cosine, whose slope is 0 at both ends.
    """
    share = np.clip((distance / factor - MARGIN) / (shared - 2 * MARGIN), 0, 1)
    risen: Floats = 0.5 - 0.5 * np.cos(np.pi * share)
    return risen


def blended(
    decode: Callable[[Array], Array],
    latents: Array,
    tile: int,
    factors: tuple[int, int],
    progress: Progress | None = None,
) -> Array:
    """Return what ``decode`` makes of latents (B, C, h, w), tile by tile and picture by picture.

    ``tile`` is the side of a tile in latents, ``factors`` are pixels per latent (height, width). ``decode``
    is given (1, C, tile, tile), less where the picture itself is smaller. ``progress`` is told tiles done
    and tiles in all, before the first one and after each.
    """
    batch, _, height, width = latents.shape
    rows, columns = spans(height, tile, factors[0]), spans(width, tile, factors[1])
    total = batch * len(rows) * len(columns)
    made: Array | None = None
    done = 0
    for i, row, column in _places(batch, rows, columns):
        if progress is not None:
            progress(done, total)
        part = decode(latents[i : i + 1, :, row.start : row.stop, column.start : column.stop])
        if made is None:
            made = np.zeros((batch, part.shape[1], height * factors[0], width * factors[1]), np.float32)
        top, left = row.start * factors[0], column.start * factors[1]
        place = made[i, :, top : top + part.shape[2], left : left + part.shape[3]]
        place += part[0] * (row.weights[:, None] * column.weights)
        done += 1
    if progress is not None:
        progress(done, total)
    assert made is not None  # there is at least one picture
    return made


def _places(batch: int, rows: list[Span], columns: list[Span]) -> Iterator[tuple[int, Span, Span]]:
    return ((i, row, column) for i in range(batch) for row in rows for column in columns)


def checked(tile: object, factors: Mapping[str, int], name: str = "tile_decode") -> int:
    """Return the side of a tile in pixels.

    Raises:
        InputError: it is no whole number, no multiple of the pixels per latent, or too small to overlap.
    """
    factor = max(factors.values())
    least = LEAST * factor
    if isinstance(tile, bool) or not isinstance(tile, (int, np.integer)) or tile < least:
        raise InputError(f"{name}: {tile!r} is not auto, off, or a whole number of pixels from {least}.")
    if tile % factor:
        raise InputError(f"{name}: {tile} is no multiple of {factor}; the nearest is "
                         f"{max(least, round(tile / factor) * factor)}.")  # fmt: skip
    return int(tile)


def largest(
    size: Mapping[str, int], factors: Mapping[str, int], fits: Callable[[int, int], bool]
) -> int | None:
    """Return the side, in pixels, of the largest tile that fits; None where the whole picture does.

    ``fits`` says of a height and a width in pixels whether decoding so much at once stays within what it may
    take. Sides fall by an eighth at a time.

    Raises:
        ResourceError: not even the smallest tile fits.
    """
    height, width = size["height"], size["width"]
    if fits(height, width):
        return None
    factor = max(factors.values())
    side = max(height, width) // factor
    while side > LEAST:
        side = max(LEAST, side * 7 // 8)
        if fits(min(height, side * factor), min(width, side * factor)):
            return side * factor
    raise ResourceError(
        f"decoding: not even a tile of {LEAST * factor} pixels fits into the memory asked for; ask for more, "
        "or take the tiny decoder."
    )
