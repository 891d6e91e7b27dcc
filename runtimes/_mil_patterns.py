"""Arrays that follow from places and sizes: ranges, fillings, bands; and sums along an axis."""

from __future__ import annotations

import numpy as np

from edgediff.runtimes._mil_operations import Array, Given, Kernel, dtype_of, operation, room
from edgediff.runtimes._mil_shapes import sizes


@operation("shape", exact=True)
def shape_of(given: Given) -> Kernel:
    given.value("output_dtype", "int32")  # the operation's own type says the same
    return lambda x: np.array(x.shape, np.int32)


@operation("fill", tensors="shape", exact=True)
def fill(given: Given) -> Kernel:
    number, dtype = given.value("value", 0.0), dtype_of(given.dtypes[0])
    return lambda shape: np.full(room(tuple(sizes(shape))), number, dtype)


@operation("fill_like", tensors="ref_tensor", exact=True)
def fill_like(given: Given) -> Kernel:
    number, dtype = given.value("value", 0.0), dtype_of(given.dtypes[0])
    return lambda x: np.full(x.shape, number, dtype)


@operation("range_1d", tensors="end start step")
def range_1d(given: Given) -> Kernel:
    def kernel(end: Array, start: Array, step: Array) -> Array:
        first, last, stride = (number.reshape(()).item() for number in (start, end, step))
        count = max(0, int(np.ceil((last - first) / stride)))
        room((count,))
        return (start + step * np.arange(count)).astype(start.dtype)

    return kernel


@operation("band_part", exact=True)
def band_part(given: Given) -> Kernel:
    lower, upper = int(given.value("lower", -1)), int(given.value("upper", -1))

    def kernel(x: Array) -> Array:
        behind = np.arange(x.shape[-2])[:, None] - np.arange(x.shape[-1])
        inside = (lower < 0) | (behind <= lower)
        inside &= (upper < 0) | (-behind <= upper)
        return np.where(inside, x, x.dtype.type(0))

    return kernel


@operation("one_hot", tensors="indices one_hot_vector_size", exact=True)
def one_hot(given: Given) -> Kernel:
    axis, dtype = int(given.value("axis", -1)), dtype_of(given.dtypes[0])
    on, off = given.value("on_value", 1), given.value("off_value", 0)

    def kernel(indices: Array, size: Array) -> Array:
        room((*indices.shape, int(size)))
        found = np.where(indices[..., None] == np.arange(int(size)), on, off).astype(dtype)
        return np.moveaxis(found, -1, axis)

    return kernel


@operation("cumsum")
def cumsum(given: Given) -> Kernel:
    axis = int(given.value("axis", 0))
    exclusive, backwards = bool(given.value("exclusive", False)), bool(given.value("reverse", False))

    def kernel(x: Array) -> Array:
        turned = np.flip(x, axis) if backwards else x
        total = np.cumsum(turned, axis, dtype=x.dtype)
        if exclusive:
            total = total - turned
        return np.flip(total, axis) if backwards else total

    return kernel
