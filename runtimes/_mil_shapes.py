"""Operations that move numbers and change none: shapes, order, copies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from edgediff.runtimes._mil_operations import Array, Given, Kernel, operation, room


def sizes(value: Array) -> list[int]:
    """A vector of whole numbers, or one number, as a list."""
    return [int(number) for number in np.asarray(value).reshape(-1)]


@operation("identity", exact=True)
def identity(given: Given) -> Kernel:
    return lambda x: x


@operation("reshape", tensors="x shape", exact=True)
def reshape(given: Given) -> Kernel:
    """-1 is what is left; 0 keeps the size that ``x`` has there, counted from the last axis, or is 1."""

    def kernel(x: Array, shape: Array) -> Array:
        wanted = sizes(shape)
        if 0 in wanted and x.size:
            kept = [1] * len(wanted) + list(x.shape)
            wanted = [size or kept[place - len(wanted)] for place, size in enumerate(wanted)]
        return x.reshape(wanted)

    return kernel


@operation("reshape_like", tensors="x ref_tensors*", exact=True)
def reshape_like(given: Given) -> Kernel:
    """The sizes of some axes of each reference, one after the other."""
    begins, ends = given.integers("begins"), given.integers("ends")
    masks = given.integers("end_masks")

    def kernel(x: Array, references: Sequence[Array]) -> Array:
        parts = zip(references, begins, ends, masks, strict=True)
        wanted = [ref.shape[begin : None if mask else end] for ref, begin, end, mask in parts]
        return x.reshape(tuple(itertools.chain(*wanted)))

    return kernel


@operation("flatten2d", exact=True)
def flatten2d(given: Given) -> Kernel:
    axis = int(given.value("axis", 1))
    return lambda x: x.reshape(int(np.prod(x.shape[: axis % (x.ndim + 1)])), -1)


@operation("transpose", exact=True)
def transpose(given: Given) -> Kernel:
    perm = given.integers("perm")
    return lambda x: x.transpose(perm)


@operation("expand_dims", exact=True)
def expand_dims(given: Given) -> Kernel:
    axes = tuple(given.integers("axes"))
    return lambda x: np.expand_dims(x, axes)


@operation("squeeze", exact=True)
def squeeze(given: Given) -> Kernel:
    axes = given.integers("axes", None)
    return lambda x: x.squeeze(None if axes is None else tuple(axes))


@operation("tile", tensors="x reps", exact=True)
def tile(given: Given) -> Kernel:
    def kernel(x: Array, reps: Array) -> Array:
        counts = sizes(reps)
        room(tuple(size * count for size, count in zip(x.shape, counts, strict=True)))
        return np.tile(x, counts)

    return kernel


@operation("reverse", exact=True)
def reverse(given: Given) -> Kernel:
    axes = given.integers("axes", None)
    return lambda x: np.flip(x, None if axes is None else tuple(axes))
