"""How each operation is said in MIL. Images are (B, C, H, W), tokens (B, C, 1, S), vectors (B, C, 1, 1).

These are the forms that stay on the Neural Engine: four axes with the channels second, a linear layer as a
convolution of one place, normalisations in one operation each. Core ML computes the means and squares inside
such an operation with more digits than its values have; written out in float16, the square of an activation
above 255 would overflow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from edgediff.export.emit.graph import Kind, Node
from edgediff.export.emit.mil_attention import attention
from edgediff.export.emit.mil_builder import Builder, Var
from edgediff.export.emit.onnx_lowering import weight_of

Lowering = Callable[[Builder, Node, list[Var]], Var]


def _convolution(b: Builder, node: Node, x: Var, pad: list[int], stride: int = 1) -> Var:
    weight, bias = weight_of(node), node.parameter("bias")
    shape = (*weight.shape, 1, 1)[:4]
    x, kernel = b.layer(x, weight, *shape)
    added = {} if bias is None else {"bias": b.weight(bias, *bias.shape)}
    padding = {"pad_type": "custom", "pad": pad} if any(pad) else {"pad_type": "valid"}
    return b.op("conv", x=x, weight=kernel, strides=[stride, stride], **padding, **added)


def _conv(b: Builder, node: Node, x: list[Var]) -> Var:
    return _convolution(b, node, x[0], [int(node.attributes["kernel"]) // 2] * 4)


def _downsample(b: Builder, node: Node, x: list[Var]) -> Var:
    before = 0 if node.attributes["asymmetric"] else 1
    return _convolution(b, node, x[0], [before, 1, before, 1], 2)


def _linear(b: Builder, node: Node, x: list[Var]) -> Var:
    return _convolution(b, node, x[0], [0] * 4)


def _group_norm(b: Builder, node: Node, x: list[Var]) -> Var:
    groups, channels = int(node.attributes["groups"]), node.output.channels
    batch, _, height, width = b.extents(node.inputs[0])
    # Rows of a group's channels one under the other: a single long row would pass what an axis may have.
    rows = channels // groups * height if isinstance(height, int) else -1
    grouped = b.reshape(x[0], batch, groups, rows, width)
    normal = b.op("instance_norm", x=grouped, epsilon=b.epsilon(float(node.attributes["eps"])))
    weight, bias = (b.weight(p, channels) for p in node.parameters)
    zeros = b.numbers("zeros", np.zeros(channels))
    ones = b.numbers("ones", np.ones(channels))
    shaped = b.reshape(normal, batch, channels, height, width)
    # The factors and terms of channels are one operation of the hardware, which this one names.
    return b.op(
        "batch_norm", x=shaped, mean=zeros, variance=ones, gamma=weight, beta=bias, epsilon=b.number(0.0)
    )


def _layer_norm(b: Builder, node: Node, x: list[Var]) -> Var:
    weight, bias = (b.weight(p, node.output.channels) for p in node.parameters)
    return b.op(
        "layer_norm",
        x=x[0],
        axes=[1],
        gamma=weight,
        beta=bias,
        epsilon=b.epsilon(float(node.attributes["eps"])),
    )


def _embedding(b: Builder, node: Node, x: list[Var]) -> Var:
    table = weight_of(node)
    rows = b.op("gather", x=b.weight(table, *table.shape), indices=x[0], axis=0)
    if node.output.kind is Kind.VECTOR:
        return b.reshape(rows, -1, node.output.channels, 1, 1)
    return channels_first(b, rows)


def channels_first(b: Builder, tokens: Var) -> Var:
    """Tokens (B, S, C) as (B, C, 1, S)."""
    return b.op("expand_dims", x=b.op("transpose", x=tokens, perm=[0, 2, 1]), axes=[2])


def channels_last(b: Builder, tokens: Var) -> Var:
    """Tokens (B, C, 1, S) as (B, S, C)."""
    return b.op("transpose", x=b.op("squeeze", x=tokens, axes=[2]), perm=[0, 2, 1])


def _positions(b: Builder, node: Node, x: list[Var]) -> Var:
    table, length = weight_of(node), b.fixed(x[0])[3]
    return b.rows(table, length)


def _unary(kind: str) -> Lowering:
    return lambda b, node, x: b.op(kind, x=x[0])


def _gelu(b: Builder, node: Node, x: list[Var]) -> Var:
    return b.op("gelu", x=x[0], mode="EXACT")


def _quick_gelu(b: Builder, node: Node, x: list[Var]) -> Var:
    scaled = b.op("mul", x=x[0], y=b.number(1.702))
    return b.op("mul", x=x[0], y=b.op("sigmoid", x=scaled))


def _geglu(b: Builder, node: Node, x: list[Var]) -> Var:
    value, gate = b.op("split", x=x[0], num_splits=2, axis=1)
    return b.op("mul", x=value, y=b.op("gelu", x=gate, mode="EXACT"))


def _elementwise(kind: str) -> Lowering:
    return lambda b, node, x: b.op(kind, x=x[0], y=x[1])


def _affine(b: Builder, node: Node, x: list[Var]) -> Var:
    factor, shift = float(node.attributes["factor"]), float(node.attributes["shift"])
    scaled = x[0] if factor == 1.0 else b.op("mul", x=x[0], y=b.number(factor))
    return scaled if shift == 0.0 else b.op("add", x=scaled, y=b.number(shift))


def _scale(b: Builder, node: Node, x: list[Var]) -> Var:
    number = b.reshape(x[1], -1, 1, 1, 1) if node.inputs[0].kind is not Kind.TIME else x[1]
    return b.op("mul", x=x[0], y=number)


def _modulate(b: Builder, node: Node, x: list[Var]) -> Var:
    factor, shift = b.op("split", x=x[1], num_splits=2, axis=1)
    raised = b.op("add", x=factor, y=b.number(1.0))
    return b.op("add", x=b.op("mul", x=x[0], y=raised), y=shift)


def _concat(b: Builder, node: Node, x: list[Var]) -> Var:
    return b.op("concat", values=x, axis=1)


def _reverse(b: Builder, node: Node, x: list[Var]) -> Var:
    parts = b.op("split", x=x[0], num_splits=node.output.channels, axis=1)
    return b.op("concat", values=list(reversed(parts)), axis=1)


def _upsample(b: Builder, node: Node, x: list[Var]) -> Var:
    return b.op("upsample_nearest_neighbor", x=x[0], scale_factor_height=2, scale_factor_width=2)


def _upsample_like(b: Builder, node: Node, x: list[Var]) -> Var:
    first, second = (b.places(value) for value in node.inputs)
    if all(new == tuple(2 * extent for extent in old) for old, new in zip(first, second, strict=True)):
        return _upsample(b, node, x)
    before, after = b.fixed(x[0])[2:], b.fixed(x[1])[2:]
    if all(0 <= 2 * old - new <= 1 for old, new in zip(before, after, strict=True)):
        # Twice as many and one less are the same rows as a nearest neighbour of the very size.
        return b.op("slice_by_size", x=_upsample(b, node, x), begin=[0, 0, 0, 0], size=[-1, -1, *after])
    found = x[0]
    for axis, (old, new) in enumerate(zip(before, after, strict=True), 2):
        nearest = (np.arange(new) * old // new).astype(np.int32)
        found = b.op("gather", x=found, indices=nearest, axis=axis)
    return found


def _to_tokens(b: Builder, node: Node, x: list[Var]) -> Var:
    batch, channels, *_ = b.extents(node.inputs[0])
    return b.reshape(x[0], batch, channels, 1, -1)


def _to_image(b: Builder, node: Node, x: list[Var]) -> Var:
    batch, _, height, width = b.extents(node.inputs[1])
    return b.reshape(x[0], batch, node.output.channels, height, width)


def _repeat_like(b: Builder, node: Node, x: list[Var]) -> Var:
    wanted, found = b.fixed(x[1])[0], b.fixed(x[0])[0]
    return x[0] if wanted == found else b.op("concat", values=[x[0]] * wanted, axis=0)


def _timestep_embedding(b: Builder, node: Node, x: list[Var]) -> Var:
    count = node.inputs[0].channels
    half = node.output.channels // count // 2
    powers = np.arange(half, dtype=np.float32) * np.float32(-math.log(10000.0))
    powers = powers / np.float32(half - float(node.attributes["shift"]))
    frequencies = np.exp(powers.astype(np.float64)).astype(np.float32)
    # One row of waves for each number, all rows one after the other at the end.
    numbers = b.reshape(x[0], -1, count, 1, 1)
    angles = b.op("mul", x=numbers, y=frequencies.reshape(1, 1, half, 1))
    parts = [b.op("cos", x=angles), b.op("sin", x=angles)]
    waves = b.op("concat", values=parts if node.attributes["cosine_first"] else parts[::-1], axis=2)
    return b.reshape(waves, -1, node.output.channels, 1, 1)


def _pool_first(b: Builder, node: Node, x: list[Var]) -> Var:
    found = b.op("equal", x=x[1], y=np.int32(int(node.attributes["token"])))
    return _pick(b, x[0], b.op("cast", x=found, dtype="int32"))


def _pool_largest(b: Builder, node: Node, x: list[Var]) -> Var:
    return _pick(b, x[0], x[1])


def _pick(b: Builder, tokens: Var, scores: Var) -> Var:
    """The token at the first place of the largest score, in each row of the batch."""
    batch, length = b.fixed(scores)
    # Which of several largest numbers is found is nowhere promised: this way there is one.
    ranks = b.op("mul", x=scores, y=np.int32(length))
    ranks = b.op("add", x=ranks, y=np.arange(length, dtype=np.int32)[None, ::-1])
    places = b.op("reduce_argmax", x=ranks, axis=1, keep_dims=False)
    if batch == 1:
        return b.op("gather", x=tokens, indices=places, axis=3)
    rows = b.op("split", x=tokens, num_splits=batch, axis=0)
    each = b.op("split", x=places, num_splits=batch, axis=0)
    picked = [b.op("gather", x=row, indices=place, axis=3) for row, place in zip(rows, each, strict=True)]
    return b.op("concat", values=picked, axis=0)


LOWERINGS: Mapping[str, Lowering] = {
    "conv": _conv,
    "downsample": _downsample,
    "linear": _linear,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "embedding": _embedding,
    "positions": _positions,
    "attention": attention,
    "relu": _unary("relu"),
    "tanh": _unary("tanh"),
    "silu": _unary("silu"),
    "gelu": _gelu,
    "quick_gelu": _quick_gelu,
    "geglu": _geglu,
    "add": _elementwise("add"),
    "multiply": _elementwise("mul"),
    "affine": _affine,
    "scale": _scale,
    "modulate": _modulate,
    "concat": _concat,
    "reverse": _reverse,
    "upsample": _upsample,
    "upsample_like": _upsample_like,
    "to_tokens": _to_tokens,
    "to_image": _to_image,
    "repeat_like": _repeat_like,
    "timestep_embedding": _timestep_embedding,
    "pool_first": _pool_first,
    "pool_largest": _pool_largest,
}
