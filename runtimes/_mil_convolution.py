"""Convolutions as matrix products."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgediff.runtimes._mil_operations import Array, Given, Kernel, operation, room

_COLUMNS = 1 << 20  # numbers in a block of columns: 4 MiB
Pads = list[tuple[int, int]]


def padding(given: Given, kind: str, pad: Sequence[int] | None) -> tuple[str, Pads]:
    """The kind of padding and, where it is ``custom``, how much of it before and behind each axis."""
    if kind != "custom":
        return kind, []
    numbers = list(pad or [])
    if len(numbers) % 2 or any(number < 0 for number in numbers):
        raise given.unsupported(f"padding {numbers}")
    return kind, list(zip(numbers[::2], numbers[1::2], strict=True))


def pads_for(
    kind: str,
    custom: Pads,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Pads:
    """How much is padded before and behind each axis of an input of ``sizes``."""
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        return custom or [(0, 0)] * len(sizes)
    found = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        whole = max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        less, more = whole // 2, whole - whole // 2
        found.append((less, more) if kind == "same" else (more, less))
    return found


def padded(x: Array, pads: Pads, fill: float = 0.0) -> Array:
    """``x`` with its last axes padded."""
    if not any(map(any, pads)):
        return x
    lead = x.ndim - len(pads)
    sizes = [size + before + behind for size, (before, behind) in zip(x.shape[lead:], pads, strict=True)]
    out = np.full(room((*x.shape[:lead], *sizes)), fill, x.dtype)
    inner: list[Any] = [
        slice(before, before + size) for size, (before, _) in zip(x.shape[lead:], pads, strict=True)
    ]
    out[(Ellipsis, *inner)] = x
    return out


@operation("conv", tensors="x weight bias?")
def conv(given: Given) -> Kernel:
    strides, dilations = given.integers("strides", None), given.integers("dilations", None)
    groups = int(given.value("groups", 1))
    kind, custom = padding(
        given,
        given.choice("pad_type", "valid", "same", "same_lower", "custom"),
        given.integers("pad", None),
    )

    def kernel(x: Array, weight: Array, bias: Array | None) -> Array:
        axes = x.ndim - 2
        steps, gaps = strides or [1] * axes, dilations or [1] * axes
        window = weight.shape[2:]
        x = padded(x, pads_for(kind, custom, x.shape[2:], window, steps, gaps))
        sizes = [
            (size - (width - 1) * gap - 1) // step + 1
            for size, width, step, gap in zip(x.shape[2:], window, steps, gaps, strict=True)
        ]
        out = np.empty(room((x.shape[0], weight.shape[0], *sizes)), np.float32)
        inside, outside = x.shape[1] // groups, weight.shape[0] // groups
        for row, group in itertools.product(range(x.shape[0]), range(groups)):
            part = slice(group * outside, (group + 1) * outside)
            _convolve(
                x[row, group * inside : (group + 1) * inside], weight[part], out[row, part], steps, gaps
            )
        if bias is not None:
            out += bias.reshape(-1, *[1] * axes)
        return out

    return kernel


def _convolve(x: Array, weight: Array, out: Array, strides: Sequence[int], dilations: Sequence[int]) -> None:
    """Fill ``out`` (O, *sizes) from a padded ``x`` (I, *...) and ``weight`` (O, I, *window)."""
    outside, inside, *window = weight.shape
    places = list(np.ndindex(*window))
    starts = [[at * gap for at, gap in zip(place, dilations, strict=True)] for place in places]
    if len(places) == 1:
        seen = _seen(x, starts[0], strides, out.shape[1:])
        np.matmul(weight.reshape(outside, inside), seen.reshape(inside, -1), out=out.reshape(outside, -1))
    elif inside == 1:
        out[...] = 0
        flat = weight.reshape(outside, -1)
        for index, start in enumerate(starts):
            scale = flat[:, index].reshape(-1, *[1] * len(window))
            out += _seen(x, start, strides, out.shape[1:]) * scale
    elif outside * 4 <= inside and max(strides) == 1:
        _products_first(x, weight, out, starts)
    else:
        _columns_first(x, weight, out, starts, strides)


def _seen(x: Array, start: Sequence[int], strides: Sequence[int], sizes: Sequence[int]) -> Array:
    """What one place of the window meets, for an output of ``sizes``; a view."""
    bounds = zip(start, strides, sizes, strict=True)
    return x[(slice(None), *(slice(at, at + (size - 1) * step + 1, step) for at, step, size in bounds))]


def _products_first(x: Array, weight: Array, out: Array, starts: Sequence[Sequence[int]]) -> None:
    """Few outputs: multiply all pixels by every place's weights, then add the results where they belong."""
    outside, inside = weight.shape[:2]
    matrix = np.ascontiguousarray(weight.reshape(outside, inside, -1).transpose(2, 0, 1))
    found = np.matmul(matrix.reshape(-1, inside), x.reshape(inside, -1))
    found = found.reshape(len(starts), outside, *x.shape[1:])
    out[...] = 0
    for place, start in zip(found, starts, strict=True):
        out += _seen(place, start, [1] * len(start), out.shape[1:])


def _columns_first(
    x: Array, weight: Array, out: Array, starts: Sequence[Sequence[int]], strides: Sequence[int]
) -> None:
    """Many outputs: write what the window meets at each pixel as a column, a few rows of the output at a
    time, and multiply."""
    inside, sizes = x.shape[0], out.shape[1:]
    matrix = weight.reshape(len(weight), -1)
    row = int(np.prod(sizes[1:]))
    step = max(1, min(sizes[0], _COLUMNS // max(matrix.shape[1] * row, 1)))
    columns = np.empty(room((inside, len(starts), step, *sizes[1:])), np.float32)
    flat = out.reshape(len(weight), -1)
    for first in range(0, sizes[0], step):
        count = min(step, sizes[0] - first)
        if count < step:
            columns = np.empty((inside, len(starts), count, *sizes[1:]), np.float32)
        for index, (top, *rest) in enumerate(starts):
            columns[:, index] = _seen(x, (top + first * strides[0], *rest), strides, (count, *sizes[1:]))
        flat[:, first * row : (first + count) * row] = matrix @ columns.reshape(matrix.shape[1], -1)
