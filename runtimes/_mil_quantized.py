"""Integers of eight bits between operations."""

from __future__ import annotations

import numpy as np

from edgediff.runtimes._mil_operations import Array, Given, Kernel, operation


def _along(x: Array, numbers: Array, axis: int | None) -> Array:
    """One number, or one for each place of ``axis``."""
    if numbers.ndim == 0 or axis is None:
        return numbers
    return numbers.reshape([-1 if place == axis % x.ndim else 1 for place in range(x.ndim)])


@operation("quantize", tensors="input scale zero_point?", exact=True)
def quantize(given: Given) -> Kernel:
    """round(x / scale) + zero point, half to even, the nearest that the type holds."""
    axis = given.value("axis", None)
    dtype = np.uint8 if given.choice("output_dtype", "int8", "uint8") == "uint8" else np.int8
    info = np.iinfo(dtype)

    def kernel(x: Array, scale: Array, zero: Array | None) -> Array:
        found = x / _along(x, scale, axis)
        np.rint(found, out=found)
        if zero is not None:
            found += _along(x, zero.astype(np.float32), axis)
        return np.clip(found, info.min, info.max).astype(dtype)

    return kernel


@operation("dequantize", tensors="input scale zero_point?")
def dequantize(given: Given) -> Kernel:
    axis = given.value("axis", None)

    def kernel(x: Array, scale: Array, zero: Array | None) -> Array:
        found = x.astype(np.float32)
        if zero is not None:
            found -= _along(x, zero.astype(np.float32), axis)
        found *= _along(x, scale, axis)
        return found

    return kernel
