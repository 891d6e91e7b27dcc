"""Arrays cut into parts and put together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgediff.runtimes._mil_operations import Array, Given, Kernel, operation, room
from edgediff.runtimes._mil_shapes import sizes


@operation("concat", tensors="values*", exact=True)
def concat(given: Given) -> Kernel:
    axis, interleave = int(given.value("axis")), bool(given.value("interleave", False))

    def kernel(values: Sequence[Array]) -> Array:
        room((sum(value.size for value in values),))
        if not interleave:
            return np.concatenate(values, axis)
        stacked = np.stack(values, axis % values[0].ndim + 1)
        shape = list(values[0].shape)
        shape[axis] *= len(values)
        return stacked.reshape(shape)

    return kernel


@operation("stack", tensors="values*", exact=True)
def stack(given: Given) -> Kernel:
    axis = int(given.value("axis"))

    def kernel(values: Sequence[Array]) -> Array:
        room((sum(value.size for value in values),))
        return np.stack(values, axis)

    return kernel


@operation("split", exact=True)
def split(given: Given) -> Kernel:
    axis, count = int(given.value("axis")), given.value("num_splits", None)
    parts = given.integers("split_sizes", None)

    def kernel(x: Array) -> list[Array]:
        places: Any = int(count) if parts is None else list(itertools.accumulate(parts))[:-1]
        if parts is not None and sum(parts) != x.shape[axis]:
            raise ValueError(f"{x.shape[axis]} cannot be split into {parts}")
        return np.split(x, places, axis)

    return kernel


@operation("slice_by_index", tensors="x begin end", exact=True)
def slice_by_index(given: Given) -> Kernel:
    index = _indexing(given)
    return lambda x, begin, end: x[index(sizes(begin), sizes(end))]


@operation("slice_update", tensors="x update begin end", exact=True)
def slice_update(given: Given) -> Kernel:
    index = _indexing(given)

    def kernel(x: Array, update: Array, begin: Array, end: Array) -> Array:
        out = x.copy()
        out[index(sizes(begin), sizes(end))] = update
        return out

    return kernel


def _indexing(given: Given) -> Any:
    """A function of begin and end that says which part of an array they and the masks mean."""
    stride = given.integers("stride", None)
    no_begin, no_end = given.integers("begin_mask", None), given.integers("end_mask", None)
    single = given.integers("squeeze_mask", None)

    def index(begin: list[int], end: list[int]) -> tuple[slice | int, ...]:
        return tuple(
            first
            if single and single[axis]
            else slice(
                None if no_begin and no_begin[axis] else first,
                None if no_end and no_end[axis] else last,
                stride[axis] if stride else 1,
            )
            for axis, (first, last) in enumerate(zip(begin, end, strict=True))
        )

    return index


@operation("slice_by_size", tensors="x begin size", exact=True)
def slice_by_size(given: Given) -> Kernel:
    """A size of -1 takes all that is left."""

    def kernel(x: Array, begin: Array, size: Array) -> Array:
        parts = []
        for first, count, whole in zip(sizes(begin), sizes(size), x.shape, strict=True):
            first = first % whole if first < 0 else first
            last = whole if count == -1 else first + count
            if not 0 <= first <= last <= whole:
                raise ValueError(f"{count} from {first} on lie outside an axis of {whole}")
            parts.append(slice(first, last))
        return x[tuple(parts)]

    return kernel
