"""Products: linear layers, matrices, Einstein sums, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgediff.runtimes._mil_operations import Array, Given, Kernel, operation, room

_SCORES = 1 << 24  # of attention that are held at a time: 64 MiB


def product(a: Array, b: Array) -> Array:
    """Return ``a @ b``. NumPy hands only matrices with a contiguous axis to BLAS; others are copied first."""
    if a.ndim > 1 and b.ndim > 1:
        room((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]))
    return np.asarray(np.matmul(_straight(a), _straight(b)))


def _straight(x: Array) -> Array:
    if x.ndim < 2 or x.itemsize in x.strides[-2:]:
        return x
    return np.ascontiguousarray(x)


@operation("linear", tensors="x weight bias?")
def linear(given: Given) -> Kernel:
    def kernel(x: Array, weight: Array, bias: Array | None) -> Array:
        # One tall product: NumPy would otherwise make one for each leading index.
        flat = x.reshape(-1, x.shape[-1])
        out = np.empty(room((*x.shape[:-1], weight.shape[0])), np.float32)
        np.matmul(flat, weight.T, out=out.reshape(-1, weight.shape[0]))
        if bias is not None:
            out += bias
        return out

    return kernel


@operation("matmul", tensors="x y")
def matmul(given: Given) -> Kernel:
    turn_x, turn_y = given.value("transpose_x", False), given.value("transpose_y", False)

    def kernel(x: Array, y: Array) -> Array:
        if turn_x and x.ndim > 1:
            x = np.swapaxes(x, -1, -2)
        if turn_y and y.ndim > 1:
            y = np.swapaxes(y, -1, -2)
        return product(x, y)

    return kernel


@operation("einsum", tensors="values*")
def einsum(given: Given) -> Kernel:
    equation = str(given.value("equation")).replace(" ", "")
    left, arrow, out = equation.partition("->")
    sides = left.split(",")
    distinct = all(len(set(side)) == len(side) for side in (*sides, out))
    if not arrow or len(sides) != 2 or "." in equation or not distinct or set(out) - set(left):
        raise given.unsupported(f"equation {equation!r}")
    a, b = sides
    if any((label in a) != (label in b) and label not in out for label in a + b if label != ","):
        raise given.unsupported(f"equation {equation!r}, which sums one operand alone")
    shared = [label for label in a if label in b and label in out]
    summed = [label for label in a if label in b and label not in out]
    rows = [label for label in a if label not in b]
    columns = [label for label in b if label not in a]
    made = shared + rows + columns

    def kernel(values: Sequence[Array]) -> Array:
        x, y = values
        x = x.transpose([a.index(label) for label in shared + rows + summed])
        y = y.transpose([b.index(label) for label in shared + summed + columns])
        common = x.shape[: len(shared)]
        row, column = x.shape[len(shared) : len(shared) + len(rows)], y.shape[len(shared) + len(summed) :]
        depth = math.prod(x.shape[len(shared) + len(rows) :])
        found = product(
            x.reshape(*common, math.prod(row), depth), y.reshape(*common, depth, math.prod(column))
        )
        whole = found.reshape(*common, *row, *column)
        return whole.transpose([made.index(label) for label in out])

    return kernel


@operation("scaled_dot_product_attention", tensors="query key value attn_mask?")
def attention(given: Given) -> Kernel:
    """softmax(query key^T / sqrt(d) + mask) value, in blocks of queries."""

    def kernel(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
        lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
        query = np.broadcast_to(query, (*lead, *query.shape[-2:]))
        key = np.broadcast_to(key, (*lead, *key.shape[-2:]))
        value = np.broadcast_to(value, (*lead, *value.shape[-2:]))
        queries, depth, keys = *query.shape[-2:], key.shape[-2]
        if mask is not None:
            if mask.dtype == np.bool_:
                mask = np.where(mask, np.float32(0), np.float32(-np.inf))
            mask = np.broadcast_to(mask, (*lead, queries, keys))
        out = np.empty(room((*lead, queries, value.shape[-1])), np.float32)
        scale = np.float32(1 / math.sqrt(depth))
        step = max(1, _SCORES // max(keys, 1))
        for index in np.ndindex(*lead):
            turned = np.ascontiguousarray(key[index].T)
            for start in range(0, queries, step):
                part = slice(start, start + step)
                scores = np.matmul(query[index][part] * scale, turned)
                if mask is not None:
                    scores += mask[index][part]
                scores -= scores.max(-1, keepdims=True)
                np.exp(scores, out=scores)
                total = scores.sum(-1, keepdims=True)
                np.divide(np.matmul(scores, _straight(value[index])), total, out=out[index][part])
        return out

    return kernel
