"""What an adapter adds to a weight, computed for a few rows at a time.

Kinds: LoRA (Hu et al. 2021, arXiv:2106.09685) and its Tucker form for convolutions, LoHa (Hyeon-Woo et al.
2021, arXiv:2108.06098) and LoKr (Yeh et al. 2023, arXiv:2309.14859) as LyCORIS stores them, and plain
differences. A weight counts as a matrix here: outputs x (inputs times the kernel's extents).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from edgediff.errors import SourceError, UnsupportedError
from edgediff.export.tensors import Entry, TensorFiles

RANK_LIMIT = 1024
Array = np.ndarray[Any, Any]
Rows = Callable[[int, int], Array]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of an adapter's file, read when it is needed."""

    name: str
    entry: Entry

    @property
    def shape(self) -> Shape:
        """Its extents."""
        return self.entry.shape

    def rows(self, first: int, count: int) -> Array:
        """Some rows as a float32 matrix. SourceError for NaN and Inf."""
        rest = self.shape[1:]
        width = prod(rest) * (4 if self.entry.dtype == "F32" else 2)
        reader = TensorFiles(())
        reader.entries[self.name] = replace(
            self.entry, shape=(count, *rest), begin=self.entry.begin + first * width
        )
        read: Array = reader.whole(self.name).astype(np.float32).reshape(count, -1)
        if not np.isfinite(read).all():
            raise SourceError(f"{self.entry.file}: tensor {self.name} holds NaN or Inf; it is damaged.")
        return read

    def matrix(self) -> Array:
        """All of it, every axis but the first made one."""
        return self.rows(0, self.shape[0])


@dataclass(frozen=True, slots=True)
class Delta:
    """A change: the shape that it fits, the rank that its alpha is divided by, and how to compute it.

    ``shape`` is (outputs, inputs, ...kernel); a kernel that is not spelt out is part of the inputs. ``rank``
    is None where alpha has no say. ``open`` reads the factors and returns what computes ``count`` rows from
    ``first`` on, as a float32 matrix that the caller may change.
    """

    shape: Shape
    rank: int | None
    open: Callable[[], Rows]


def delta_of(parts: Mapping[str, Piece], where: str) -> Delta:
    """The change of a weight that these parts make up.

    SourceError for parts that are missing or do not fit each other, UnsupportedError for a rank above 1024.
    ``where`` begins each message.
    """
    kinds = [kind for kind in _KINDS if any(part in parts for part in (*kind.needed, *kind.optional))]
    if len(kinds) != 1:
        raise SourceError(f"{where}: {', '.join(sorted(parts))} make no adapter of a known kind.")
    (kind,) = kinds
    if lacking := [part for part in kind.needed if part not in parts]:
        raise SourceError(f"{where}: {' and '.join(lacking)} are missing; the adapter is incomplete.")
    used = {part: piece for part, piece in parts.items() if part in (*kind.needed, *kind.optional)}
    delta = kind.make(used) if all(prod(piece.shape) for piece in used.values()) else None
    if delta is None:
        shapes = ", ".join(f"{part} {piece.shape}" for part, piece in sorted(used.items()))
        raise SourceError(f"{where}: its parts do not fit each other ({shapes}).")
    if delta.rank is not None and delta.rank > RANK_LIMIT:
        raise UnsupportedError(f"{where}: has rank {delta.rank}; at most {RANK_LIMIT} is read.")
    return delta


def difference(piece: Piece) -> Delta:
    """A change that is stored as it is, of a weight or a bias."""
    return Delta(piece.shape, None, lambda: piece.rows)


def _difference(parts: Mapping[str, Piece]) -> Delta | None:
    return difference(parts["diff"]) if parts["diff"].shape else None


def _low_rank(parts: Mapping[str, Piece]) -> Delta | None:
    return _product(parts["up"], parts["down"], parts.get("mid"), lying=False)


def _hadamard(parts: Mapping[str, Piece]) -> Delta | None:
    """The product, element by element, of two matrices of low rank."""
    names = ((f"hada_w{side}_a", f"hada_w{side}_b", f"hada_t{side}") for side in "12")
    one, other = (_product(parts[a], parts[b], parts.get(t), lying=t in parts) for a, b, t in names)
    if one is None or other is None or one.shape != other.shape:
        return None

    def opened() -> Rows:
        left, right = one.open(), other.open()
        return lambda first, count: left(first, count) * right(first, count)

    return Delta(one.shape, one.rank, opened)


def _kronecker(parts: Mapping[str, Piece]) -> Delta | None:
    """The Kronecker product of two matrices, each whole or of low rank; alpha is for those of low rank."""
    outer, inner = (_factor(parts, side) for side in "12")
    if outer is None or inner is None or len(outer.shape) != 2:
        return None
    height, below = outer.shape[0], inner.shape[0]

    def opened() -> Rows:
        left, right = outer.open()(0, height), inner.open()(0, below)

        def rows(first: int, count: int) -> Array:
            at = np.arange(first, first + count)
            product: Array = left[at // below][:, :, None] * right[at % below][:, None, :]
            return product.reshape(count, -1)

        return rows

    shape = (height * below, outer.shape[1] * inner.shape[1], *inner.shape[2:])
    return Delta(shape, outer.rank if outer.rank is not None else inner.rank, opened)


def _factor(parts: Mapping[str, Piece], side: str) -> Delta | None:
    """One factor of a Kronecker product; exactly one of its forms must be there."""
    whole, a, b, middle = (
        parts.get(f"lokr_{part.format(side)}") for part in ("w{}", "w{}_a", "w{}_b", "t{}")
    )
    if whole is not None:
        alone = a is None and b is None and middle is None
        return difference(whole) if alone and len(whole.shape) >= 2 else None
    return _product(a, b, middle, lying=middle is not None) if a is not None and b is not None else None


def _product(a: Piece, b: Piece, middle: Piece | None, lying: bool) -> Delta | None:
    """``a @ b``, or Tucker's form: the sum over i and j of a[., i] middle[i, j, kernel] b[j, .].

    ``a`` is outputs x rank (the other way round if it is ``lying``), ``b`` is rank x inputs.
    """
    if len(b.shape) < 2 or len(a.shape) < 2 or prod(a.shape[2:]) != 1:
        return None
    outputs, rank = a.shape[1::-1] if lying else a.shape[:2]
    shape = (outputs, *b.shape[1:])
    if middle is not None:
        if len(middle.shape) < 3 or middle.shape[1] != b.shape[0] or prod(b.shape[2:]) != 1:
            return None
        shape = (outputs, b.shape[1], *middle.shape[2:])
    if rank != (b if middle is None else middle).shape[0]:
        return None

    def opened() -> Rows:
        left, right = a.matrix().T if lying else a.matrix(), b.matrix()
        if middle is not None:
            core = middle.matrix().reshape(rank, len(right), -1)
            right = np.einsum("ijk,jr->irk", core, right, optimize=True).reshape(rank, -1)
        return lambda first, count: left[first : first + count] @ right

    return Delta(shape, b.shape[0], opened)


@dataclass(frozen=True, slots=True)
class _Kind:
    make: Callable[[Mapping[str, Piece]], Delta | None]
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


_LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
_KINDS = (
    _Kind(_low_rank, ("up", "down"), ("mid",)),
    _Kind(_hadamard, ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), ("hada_t1", "hada_t2")),
    _Kind(_kronecker, (), _LOKR),
    _Kind(_difference, ("diff",)),
)
