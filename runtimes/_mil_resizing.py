"""Pictures made larger or smaller."""

from __future__ import annotations

import math

import numpy as np

from edgediff.runtimes._mil_operations import Array, Given, Kernel, operation, room
from edgediff.runtimes._mil_shapes import sizes


def _nearest(x: Array, height: int, width: int) -> Array:
    """Each pixel is the one that lies at the same part of the old picture, rounded down."""
    room((*x.shape[:-2], height, width))
    if height % x.shape[-2] == 0 and width % x.shape[-1] == 0:
        return x.repeat(height // x.shape[-2], -2).repeat(width // x.shape[-1], -1)
    rows = np.arange(height) * x.shape[-2] // max(height, 1)
    columns = np.arange(width) * x.shape[-1] // max(width, 1)
    return x[..., rows[:, None], columns]


_MODES = ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def _places(old: int, new: int, mode: str) -> Array:
    """Where the new pixels lie between the old ones, as coremltools defines its sampling modes."""
    at, steps = np.arange(new, dtype=np.float64), max(new - 1, 1)
    if mode == "UNALIGN_CORNERS":
        found = (at + 0.5) * (old / new) - 0.5
    elif mode == "OFFSET_CORNERS":
        found = (at + 0.5) * (max(1, old - 1) / new)
    elif mode == "DEFAULT":
        found = at * ((old - old / new) / steps)
    elif mode == "ALIGN_CORNERS" and new == 1:
        found = at + (old - 1) / 2
    else:
        found = at * ((old - 1) / steps)
    return np.clip(found, 0, old - 1)


def _linear(x: Array, axis: int, size: int, mode: str) -> Array:
    """Interpolate along one axis."""
    room((*x.shape[:-1], x.shape[-1] * size))
    places = _places(x.shape[axis], size, mode)
    low = np.floor(places).astype(np.intp)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = (places - low).astype(np.float32).reshape([-1, *[1] * (-axis - 1)])
    below = np.take(x, low, axis)
    return np.asarray(below + (np.take(x, high, axis) - below) * share)


@operation("upsample_nearest_neighbor", exact=True)
def upsample_nearest(given: Given) -> Kernel:
    high, wide = given.value("scale_factor_height", 1), given.value("scale_factor_width", 1)
    return lambda x: _nearest(x, math.floor(x.shape[-2] * high), math.floor(x.shape[-1] * wide))


@operation("resize_nearest_neighbor", exact=True)
def resize_nearest(given: Given) -> Kernel:
    height, width = int(given.value("target_size_height")), int(given.value("target_size_width"))
    return lambda x: _nearest(x, height, width)


@operation("upsample_bilinear")
def upsample_bilinear(given: Given) -> Kernel:
    high, wide = given.value("scale_factor_height", 1), given.value("scale_factor_width", 1)
    mode = "STRICT_ALIGN_CORNERS" if given.value("align_corners", True) else "UNALIGN_CORNERS"
    given.value("half_pixel_centers", None)

    def kernel(x: Array) -> Array:
        tall = _linear(x, -2, math.floor(x.shape[-2] * high), mode)
        return _linear(tall, -1, math.floor(x.shape[-1] * wide), mode)

    return kernel


@operation("resize_bilinear")
def resize_bilinear(given: Given) -> Kernel:
    height, width = int(given.value("target_size_height", 1)), int(given.value("target_size_width", 1))
    mode = given.choice("sampling_mode", *_MODES)
    return lambda x: _linear(_linear(x, -2, height, mode), -1, width, mode)


@operation("resize", tensors="x shape")
def resize(given: Given) -> Kernel:
    """The last axes of ``x`` become as large as the last sizes of ``shape``; 0 keeps a size."""
    count = int(given.value("resized_dims"))
    nearest = given.choice("interpolation_mode", "LINEAR", "NEAREST_NEIGHBOR") == "NEAREST_NEIGHBOR"
    mode = given.choice("sampling_mode", *_MODES)
    if count > 2 or (nearest and mode != "DEFAULT"):
        raise given.unsupported(f"{count} axes with sampling mode {mode}")

    def kernel(x: Array, shape: Array) -> Array:
        wanted = [*x.shape[-2:-count], *sizes(shape)[-count:]] if count < 2 else sizes(shape)[-2:]
        height, width = (size or old for size, old in zip(wanted, x.shape[-2:], strict=True))
        if nearest:
            return _nearest(x, height, width).copy()
        return _linear(_linear(x, -2, height, mode), -1, width, mode)

    return kernel
