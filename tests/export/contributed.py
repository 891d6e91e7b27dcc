"""ONNX Runtime's contributed operators in NumPy, from their documentation, for ONNX's reference evaluator.

They stand for kernels that only a GPU has. Products accumulate in float32 and are rounded once, as there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _normal(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + epsilon)


class MultiHeadAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(self, q: Array, k: Array, v: Array, num_heads: int = 1, unidirectional: int = 0) -> tuple[Array]:
        def heads(x: Array) -> Array:
            return x.reshape(*x.shape[:2], num_heads, -1).swapaxes(1, 2).astype(np.float32)

        a, b, c = heads(q), heads(k), heads(v)
        scores = a @ b.swapaxes(2, 3) / math.sqrt(a.shape[-1])
        if unidirectional:
            scores = scores + np.triu(np.full(scores.shape[-2:], -np.inf), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = weights / weights.sum(-1, keepdims=True) @ c
        return (mixed.swapaxes(1, 2).reshape(*q.shape[:2], -1).astype(q.dtype),)


class GroupNorm(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        skip: Array | None = None,
        groups: int = 1,
        epsilon: float = 1e-5,
        activation: int = 0,
        channels_last: int = 1,
    ) -> Any:
        assert channels_last == 1
        assert gamma.dtype == beta.dtype == np.float32
        total = x if skip is None else x + skip
        b, h, w, c = total.shape
        grouped = total.astype(np.float32).reshape(b, h, w, groups, c // groups)
        y = _normal(grouped, (1, 2, 4), epsilon).reshape(total.shape) * gamma + beta
        y = (y / (1 + np.exp(-y)) if activation else y).astype(x.dtype)
        return (y,) if skip is None else (y, total)


class SkipGroupNorm(GroupNorm):
    op_domain = "com.microsoft"


class SkipLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self,
        x: Array,
        skip: Array,
        gamma: Array,
        beta: Array | None = None,
        bias: Array | None = None,
        epsilon: float = 1e-5,
    ) -> Any:
        total = x + skip if bias is None else x + skip + bias
        y = _normal(total.astype(np.float32), (-1,), epsilon) * gamma + (0 if beta is None else beta)
        unused = np.zeros(1, np.float32)
        return y.astype(x.dtype), unused, unused, total


class BiasSplitGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array) -> tuple[Array]:
        value, gate = np.split((x + bias).astype(np.float32), 2, axis=-1)
        return ((value * gate * 0.5 * (1 + _erf(gate / math.sqrt(2)))).astype(x.dtype),)


class NhwcConv(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self,
        x: Array,
        w: Array,
        bias: Array | None = None,
        kernel_shape: Any = None,
        pads: Any = None,
        strides: Any = None,
        **_: Any,
    ) -> tuple[Array]:
        top, left, bottom, right = pads
        padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))).astype(np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(padded, tuple(kernel_shape), (1, 2))
        windows = windows[:, :: strides[0], :: strides[1]]  # (B, H, W, C, kh, kw)
        y = np.tensordot(windows, w.astype(np.float32), ((4, 5, 3), (1, 2, 3)))
        return ((y if bias is None else y + bias).astype(x.dtype),)


CONTRIBUTED = [
    MultiHeadAttention, GroupNorm, SkipGroupNorm, SkipLayerNormalization, BiasSplitGelu, NhwcConv,
]  # fmt: skip
