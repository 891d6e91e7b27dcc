"""Softmax, normalizations and reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgediff.runtimes._mil_operations import Array, Given, Kernel, operation

_ROWS = 1 << 17  # numbers of whole rows that are normalized together, so that they stay in the cache
_COLUMNS = 1 << 22  # where the axis is not the last one, longer runs matter more


@operation("softmax")
def softmax(given: Given) -> Kernel:
    axis = int(given.value("axis", -1))

    def kernel(x: Array) -> Array:
        out = np.empty(x.shape, np.float32)
        # The axis last or in the middle: a view (before, axis, behind), taken a few slices at a time.
        place = axis % x.ndim
        behind = int(np.prod(x.shape[place + 1 :]))
        shape = (int(np.prod(x.shape[:place])), x.shape[place], behind)
        source, target = np.ascontiguousarray(x).reshape(shape), out.reshape(shape)
        block = _ROWS if behind == 1 else _COLUMNS
        rows = max(1, block // max(shape[1] * behind, 1))
        columns = behind if rows > 1 else max(1, block // max(shape[1], 1))
        for row in range(0, shape[0], rows):
            for column in range(0, behind, columns):
                part = (slice(row, row + rows), slice(None), slice(column, column + columns))
                _softmax(source[part], target[part])
        return out

    return kernel


def _softmax(x: Array, out: Array) -> None:
    np.subtract(x, x.max(1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(1, keepdims=True)


def _normalized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """(x - mean) / sqrt(variance + epsilon), with the variance of the differences themselves, not that of
    squares: large means lose nothing."""
    out = np.asarray(x - x.mean(axes, keepdims=True))
    variance = np.square(out).mean(axes, keepdims=True)
    out /= np.sqrt(variance + np.float32(epsilon))
    return out


@operation("layer_norm", tensors="x gamma? beta?")
def layer_norm(given: Given) -> Kernel:
    axes, epsilon = given.integers("axes", None), given.value("epsilon", 1e-5)

    def kernel(x: Array, gamma: Array | None, beta: Array | None) -> Array:
        over = tuple(sorted(axis % x.ndim for axis in (axes or range(x.ndim))))
        out = _normalized(x, over, epsilon)
        shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
        if gamma is not None:
            out *= gamma.reshape(shape)
        if beta is not None:
            out += beta.reshape(shape)
        return out

    return kernel


@operation("instance_norm", tensors="x gamma? beta?")
def instance_norm(given: Given) -> Kernel:
    epsilon = given.value("epsilon", 1e-5)

    def kernel(x: Array, gamma: Array | None, beta: Array | None) -> Array:
        out = _normalized(x, tuple(range(2, x.ndim)), epsilon)
        return _scaled(out, gamma, beta)

    return kernel


def _scaled(x: Array, gamma: Array | None, beta: Array | None) -> Array:
    """``x`` times and plus a number for each channel; in place."""
    tail = [1] * (x.ndim - 2)
    if gamma is not None:
        x *= gamma.reshape(-1, *tail)
    if beta is not None:
        x += beta.reshape(-1, *tail)
    return x


@operation("batch_norm", tensors="x mean variance gamma? beta?")
def batch_norm(given: Given) -> Kernel:
    epsilon = np.float32(given.value("epsilon", 1e-5))

    def kernel(x: Array, mean: Array, variance: Array, gamma: Array | None, beta: Array | None) -> Array:
        tail = [1] * (x.ndim - 2)
        out = np.asarray(x - mean.reshape(-1, *tail))
        out /= np.sqrt(variance + epsilon).reshape(-1, *tail)
        return _scaled(out, gamma, beta)

    return kernel


@operation("l2_norm")
def l2_norm(given: Given) -> Kernel:
    """Over the last three axes."""
    epsilon = np.float32(given.value("epsilon", 1e-6))
    return lambda x: x / np.sqrt(np.square(x).sum((-3, -2, -1), keepdims=True) + epsilon)


_REDUCTIONS: Mapping[str, Callable[..., Any]] = {
    "reduce_sum": np.sum,
    "reduce_mean": np.mean,
    "reduce_prod": np.prod,
    "reduce_l1_norm": lambda x, **how: np.abs(x).sum(**how),
    "reduce_l2_norm": lambda x, **how: np.sqrt(np.square(x).sum(**how)),
    "reduce_sum_square": lambda x, **how: np.square(x).sum(**how),
    "reduce_log_sum": lambda x, **how: np.log(x.sum(**how)),
}
_EXTREMES: Mapping[str, Callable[..., Any]] = {"reduce_max": np.max, "reduce_min": np.min}


def _reduction(function: Callable[..., Any]) -> Callable[[Given], Kernel]:
    def make(given: Given) -> Kernel:
        axes, keep = given.integers("axes", None), bool(given.value("keep_dims", False))
        over = None if axes is None else tuple(axes)

        def kernel(x: Array) -> Array:
            return np.asarray(function(x, axis=over, keepdims=keep)).astype(x.dtype, copy=False)

        return kernel

    return make


for _name, _function in _REDUCTIONS.items():
    operation(_name)(_reduction(_function))
for _name, _function in _EXTREMES.items():
    operation(_name, exact=True)(_reduction(_function))


@operation("reduce_log_sum_exp")
def log_sum_exp(given: Given) -> Kernel:
    axes, keep = given.integers("axes", None), bool(given.value("keep_dims", False))

    def kernel(x: Array) -> Array:
        over = tuple(axes) if axes is not None else tuple(range(x.ndim))
        top = x.max(axis=over, keepdims=True)
        total = np.log(np.exp(x - top).sum(axis=over, keepdims=True)) + top
        return np.asarray(total if keep else total.squeeze(over))

    return kernel


@operation("reduce_argmax", "reduce_argmin", exact=True)
def reduce_arg(given: Given) -> Kernel:
    axis, keep = int(given.value("axis", -1)), bool(given.value("keep_dims", False))
    given.value("output_dtype", "int32")  # the operation's own type says the same
    find = np.argmax if given.kind == "reduce_argmax" else np.argmin
    return lambda x: find(x, axis=axis, keepdims=keep).astype(np.int32)
