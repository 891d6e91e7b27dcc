"""Parts of stored tensors under other names: what one layout calls a tensor is part of one in another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from edgediff.errors import SourceError
from edgediff.export.tensors import Array, Entry, Tensors


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of the tensor ``name``: first its rows ``rows[0]`` to ``rows[1]``, then its transpose, then the
    same numbers in ``shape``, which keeps the first extent."""

    name: str
    rows: tuple[int, int] | None = None
    transposed: bool = False
    shape: tuple[int, ...] | None = None


class View:
    """The tensors ``pieces`` of ``base``. Reading holds one run of rows, as reading ``base`` does.

    Raises:
        SourceError: a piece asks for rows or a shape that its tensor does not have.
    """

    def __init__(self, base: Tensors, pieces: Mapping[str, Piece]) -> None:
        self._base = base
        self._pieces = pieces
        self.entries: dict[str, Entry] = {name: _entry(base, piece) for name, piece in pieces.items()}

    def rows(self, name: str, limit: int) -> Iterator[Array]:
        """A tensor as float32 or float16, in runs along its first axis of about ``limit`` bytes."""
        piece, shape = self._pieces[name], self.entries[name].shape
        runs = self._transposed(piece, limit) if piece.transposed else self._taken(piece, limit)
        for run in runs:
            yield run.reshape(-1, *shape[1:]) if shape else run

    def whole(self, name: str) -> Array:
        """All of a tensor."""
        return np.concatenate(list(self.rows(name, 1 << 62))).reshape(self.entries[name].shape)

    def _taken(self, piece: Piece, limit: int) -> Iterator[Array]:
        """Runs of the base's rows, cut to those that the piece has."""
        first, end = piece.rows or (0, 1 << 62)
        at = 0
        for run in self._base.rows(piece.name, limit):
            part = run[max(0, first - at) : max(0, end - at)]
            at += len(run)
            if len(part):
                yield part
            if at >= end:
                return

    def _transposed(self, piece: Piece, limit: int) -> Iterator[Array]:
        """Columns as rows. The base is read once for each run, so that no run needs all of it."""
        rows, columns = _cut(self._base.entries[piece.name], piece)
        step = max(1, limit // max(1, 4 * rows))
        for begin in range(0, columns, step):
            kept = [run[:, begin : begin + step].copy() for run in self._taken(piece, limit)]
            yield np.ascontiguousarray(np.concatenate(kept).T)


def _entry(base: Tensors, piece: Piece) -> Entry:
    entry = base.entries[piece.name]
    shape = _cut(entry, piece)
    if piece.transposed:
        if len(shape) != 2:
            raise _wrong(entry, piece, "a matrix")
        shape = shape[::-1]
    if piece.shape is not None:
        if piece.shape[:1] != shape[:1] or prod(piece.shape) != prod(shape):
            raise _wrong(entry, piece, f"the numbers of {piece.shape}")
        shape = piece.shape
    return replace(entry, shape=shape)


def _cut(entry: Entry, piece: Piece) -> tuple[int, ...]:
    if piece.rows is None:
        return entry.shape
    first, end = piece.rows
    if not entry.shape or not 0 <= first < end <= entry.shape[0]:
        raise _wrong(entry, piece, f"rows {first} to {end}")
    return (end - first, *entry.shape[1:])


def _wrong(entry: Entry, piece: Piece, wanted: str) -> SourceError:
    return SourceError(
        f"{entry.file}: tensor {piece.name} is {entry.shape}; expected {wanted}. "
        "The file is damaged or of an unknown layout."
    )
