"""Operations on pictures: padding, pooling, pixels and channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgediff.runtimes._mil_convolution import padded, padding, pads_for
from edgediff.runtimes._mil_operations import Array, Given, Kernel, operation, room
from edgediff.runtimes._mil_shapes import sizes


@operation("pad", tensors="x pad", exact=True)
def pad(given: Given) -> Kernel:
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    mode = modes[given.choice("mode", "constant", "reflect", "replicate")]
    number = given.value("constant_val", 0.0)

    def kernel(x: Array, pad: Array) -> Array:
        numbers = sizes(pad)
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        if any(size < 0 for size in numbers):
            raise ValueError(f"padding {numbers}")
        if mode == "constant":
            return padded(x, pairs, number)
        whole = [(0, 0)] * (x.ndim - len(pairs)) + pairs
        room(tuple(size + before + behind for size, (before, behind) in zip(x.shape, whole, strict=True)))
        return np.pad(x, whole, "reflect" if mode == "reflect" else "edge")

    return kernel


@operation("avg_pool", "max_pool")
def pool(given: Given) -> Kernel:
    window = given.integers("kernel_sizes")
    strides = given.integers("strides", [1] * len(window))
    kind = given.choice("pad_type", "valid", "same", "same_lower", "custom")
    kind, custom = padding(given, kind, given.integers("pad", None))
    averaged, outside = given.kind == "avg_pool", not given.value("exclude_padding_from_average", False)
    if given.value("ceil_mode", False):
        raise given.unsupported("ceil_mode")

    def kernel(x: Array) -> Array:
        ones = [1] * len(window)
        pads = pads_for(kind, custom, x.shape[2:], window, strides, ones)
        whole = padded(x, pads, 0.0 if averaged else -np.inf)
        count = [
            (size - width) // step + 1
            for size, width, step in zip(whole.shape[2:], window, strides, strict=True)
        ]
        found = _window(whole, window, strides, count, averaged)
        if not averaged:
            return found
        if outside:
            return found / np.float32(math.prod(window))
        inside = padded(np.ones((1, 1, *x.shape[2:]), np.float32), pads)
        return found / _window(inside, window, strides, count, True)

    return kernel


def _window(x: Array, window: list[int], strides: list[int], count: list[int], summed: bool) -> Array:
    """The sums, or the largest, of all that a window meets."""
    found = np.full((*x.shape[:2], *count), 0.0 if summed else -np.inf, np.float32)
    for place in np.ndindex(*window):
        bounds = zip(place, strides, count, strict=True)
        inner: list[Any] = [slice(at, at + (size - 1) * step + 1, step) for at, step, size in bounds]
        part = x[(Ellipsis, *inner)]
        (np.add if summed else np.maximum)(found, part, out=found)
    return found


@operation("pixel_shuffle", "pixel_unshuffle", "depth_to_space", "space_to_depth", exact=True)
def pixels(given: Given) -> Kernel:
    """Channels become pixels or the other way; ``pixel_*`` count a channel's pixels last, the others
    first."""
    names = {
        "pixel_shuffle": "upscale_factor",
        "pixel_unshuffle": "downscale_factor",
    }
    f = int(given.value(names.get(given.kind, "block_size")))
    last = given.kind.startswith("pixel")

    def larger(x: Array) -> Array:
        n, c, h, w = x.shape
        if last:
            parts = x.reshape(n, c // (f * f), f, f, h, w).transpose(0, 1, 4, 2, 5, 3)
        else:
            parts = x.reshape(n, f, f, c // (f * f), h, w).transpose(0, 3, 4, 1, 5, 2)
        return parts.reshape(n, c // (f * f), h * f, w * f)

    def smaller(x: Array) -> Array:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // f, f, w // f, f)
        order = (0, 1, 3, 5, 2, 4) if last else (0, 3, 5, 1, 2, 4)
        return parts.transpose(order).reshape(n, c * f * f, h // f, w // f)

    return larger if given.kind in ("pixel_shuffle", "depth_to_space") else smaller
