"""Three forms of attention in MIL, over tokens (B, C, 1, S).

The Neural Engine's forms are those of Apple's "Deploying Transformers on the Apple Neural Engine" (2022):
a product of its own for each head, keys turned once so that scores are (B, keys, 1, queries), and a softmax
over their second axis. No other tensor is turned or reshaped.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgediff.export.emit.graph import Node
from edgediff.export.emit.mil_builder import Builder, Var

Array = NDArray[np.float32]

# Added to the scores of hidden tokens: exp() of it is 0 in float32, and float16 can hold it.
_HIDDEN = -10000.0
_CHUNK = 512  # queries at a time in the second version
_PRODUCT = "nchw,nwhu->nchu"


def attention(b: Builder, node: Node, x: list[Var]) -> Var:
    """softmax(k^T q / sqrt(channels of a head)) over the keys, in the form that is asked for."""
    q, k, v = x
    width = node.inputs[0].channels // int(node.attributes["heads"])
    # Queries rather than products: in float16 the products themselves could overflow.
    scaled = b.op("mul", x=q, y=b.number(1.0 / math.sqrt(width)))
    return (_together if b.form.attention == "original" else _by_heads)(b, node, scaled, k, v)


def _together(b: Builder, node: Node, q: Var, k: Var, v: Var) -> Var:
    """All heads in one product of (B, heads, queries, keys)."""
    heads = int(node.attributes["heads"])
    split = [b.reshape(each, each.shape[0], heads, each.shape[1] // heads, -1) for each in (q, k, v)]
    scores = b.op("matmul", x=split[0], y=split[1], transpose_x=True)
    if node.attributes["causal"]:
        scores = b.op("add", x=scores, y=b.numbers("causal", _later(b.fixed(q)[3])[None, None]))
    weights = b.op("softmax", x=scores, axis=-1)
    mixed = b.op("matmul", x=split[2], y=weights, transpose_y=True)
    return b.reshape(mixed, q.shape[0], node.output.channels, 1, -1)


def _by_heads(b: Builder, node: Node, q: Var, k: Var, v: Var) -> Var:
    heads = int(node.attributes["heads"])
    turned = b.op("transpose", x=k, perm=[0, 3, 2, 1])
    queries, keys, values = _split(b, q, heads, 1), _split(b, turned, heads, 3), _split(b, v, heads, 1)
    mask = _later(b.fixed(q)[3]).T[None, :, None] if node.attributes["causal"] else None
    mixed = [_head(b, *each, mask) for each in zip(queries, keys, values, strict=True)]
    return mixed[0] if heads == 1 else b.op("concat", values=mixed, axis=1)


def _head(b: Builder, q: Var, k: Var, v: Var, mask: Array | None) -> Var:
    """One head: queries (B, c, 1, Q), keys (B, K, 1, c), values (B, c, 1, K)."""
    if b.form.attention == "split_einsum":
        return _product(b, q, k, v, mask)
    length = b.fixed(q)[3]
    if length <= _CHUNK:
        return _product(b, q, k, v, mask)
    sizes = [min(_CHUNK, length - at) for at in range(0, length, _CHUNK)]
    mixed = []
    for i, chunk in enumerate(b.op("split", x=q, split_sizes=sizes, axis=3)):
        hidden = None if mask is None else mask[..., i * _CHUNK : i * _CHUNK + sizes[i]]
        mixed.append(_product(b, chunk, k, v, hidden))
    return b.op("concat", values=mixed, axis=3)


def _product(b: Builder, q: Var, k: Var, v: Var, mask: Array | None) -> Var:
    scores = b.op("einsum", values=[k, q], equation=_PRODUCT)
    if mask is not None:
        scores = b.op("add", x=scores, y=b.numbers("causal", mask))
    weights = b.op("softmax", x=scores, axis=1)
    return b.op("einsum", values=[v, weights], equation=_PRODUCT)


def _split(b: Builder, x: Var, heads: int, axis: int) -> list[Var]:
    return [x] if heads == 1 else list(b.op("split", x=x, num_splits=heads, axis=axis))


def _later(length: int) -> Array:
    """(queries, keys): 0 up to the diagonal, ``_HIDDEN`` above it."""
    return np.triu(np.full((length, length), _HIDDEN, np.float32), 1)
