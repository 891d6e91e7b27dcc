"""How each operation is said in ONNX. Images are (B, C, H, W), tokens (B, S, C), vectors (B, C) or (1, C).

Only standard operators, in the forms that are fast on ONNX Runtime's CPU provider: group normalisation
through InstanceNormalization, SiLU as x * Sigmoid(x), GELU through Erf (both are fused at load).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from onnx import TensorProto

from edgediff.export.emit.graph import Kind, Node, Parameter
from edgediff.export.emit.onnx_builder import Builder

Lowering = Callable[[Builder, Node, list[str]], str]

# The operator set of what ONNX Runtime contributes.
MICROSOFT = "com.microsoft"
# Added to the scores of hidden tokens: exp() of it is 0 in float32, and float16 can hold it.
_HIDDEN = -10000.0


def weight_of(node: Node) -> Parameter:
    found = node.parameter("weight")
    if found is None:
        raise ValueError(f"{node.op} without a weight")
    return found


def bias_of(b: Builder, node: Node) -> list[str]:
    found = node.parameter("bias")
    return [] if found is None else [b.weight(found)]


def _conv(b: Builder, node: Node, x: list[str]) -> str:
    kernel = int(node.attributes["kernel"])
    weight = b.weight(weight_of(node))
    return b.node(
        "Conv",
        x[0],
        weight,
        *bias_of(b, node),
        kernel_shape=[kernel] * 2,
        pads=[kernel // 2] * 4,
        strides=[1, 1],
    )


def _downsample(b: Builder, node: Node, x: list[str]) -> str:
    before = 0 if node.attributes["asymmetric"] else 1
    weight = b.weight(weight_of(node))
    pads = [before, before, 1, 1]
    return b.node("Conv", x[0], weight, *bias_of(b, node), kernel_shape=[3, 3], pads=pads, strides=[2, 2])


def _linear(b: Builder, node: Node, x: list[str]) -> str:
    weight = b.weight(weight_of(node), transposed=True)
    bias = bias_of(b, node)
    if node.output.kind is Kind.VECTOR:
        return b.node("Gemm", x[0], weight, *bias)
    product = b.node("MatMul", x[0], weight)
    return b.node("Add", product, *bias) if bias else product


def _group_norm(b: Builder, node: Node, x: list[str]) -> str:
    groups, channels = int(node.attributes["groups"]), node.output.channels
    grouped = b.node("Reshape", x[0], b.integers(0, groups, -1))
    ones, zeros = b.numbers(1.0, groups), b.numbers(0.0, groups)
    normal = b.node("InstanceNormalization", grouped, ones, zeros, epsilon=float(node.attributes["eps"]))
    shaped = b.node("Reshape", normal, b.shape(x[0]))
    weight, bias = (b.weight(p, shape=(channels, 1, 1)) for p in node.parameters)
    return b.node("Add", b.node("Mul", shaped, weight), bias)


def _layer_norm(b: Builder, node: Node, x: list[str]) -> str:
    weight = b.weight(weight_of(node))
    return b.node(
        "LayerNormalization", x[0], weight, *bias_of(b, node), axis=-1, epsilon=float(node.attributes["eps"])
    )


def _embedding(b: Builder, node: Node, x: list[str]) -> str:
    if weight_of(node).name in b.codings:
        codes, scales = (each.initializer for each in b.codes(weight_of(node)))
        chosen = b.node("Cast", b.node("Gather", codes, x[0], axis=0), to=TensorProto.FLOAT)
        factors = b.node("Unsqueeze", b.node("Gather", scales, x[0], axis=0), b.integers(-1))
        wide = b.node("Mul", chosen, factors)
        return b.node("Cast", wide, to=b.type) if b.half else wide
    table = b.store(weight_of(node))
    rows = b.node("Gather", table.initializer, x[0], axis=0)
    # Widening the rows rather than the table keeps the table small in memory.
    return rows if table.dtype == ("float16" if b.half else "float32") else b.node("Cast", rows, to=b.type)


def _positions(b: Builder, node: Node, x: list[str]) -> str:
    return b.node("Slice", b.weight(weight_of(node)), b.integers(0), b.extent(x[0], 1, 2), b.integers(0))


def attention_unfused(b: Builder, node: Node, x: list[str]) -> str:
    """MatMul, Softmax, MatMul. The scale and the transpositions are fused into the products at load."""
    q, k, v = x
    heads = int(node.attributes["heads"])
    width = node.inputs[0].channels // heads
    if heads == 1:
        k = b.node("Transpose", k, perm=[0, 2, 1])
    else:
        q, k = (b.node("Reshape", each, b.integers(0, 0, heads, width)) for each in (q, k))
        v = b.node("Reshape", v, b.integers(0, 0, heads, node.output.channels // heads))
        q, v = (b.node("Transpose", each, perm=[0, 2, 1, 3]) for each in (q, v))
        k = b.node("Transpose", k, perm=[0, 2, 3, 1])
    scores = b.node("MatMul", b.node("Mul", q, b.number(1.0 / math.sqrt(width))), k)
    if node.attributes["causal"]:
        scores = b.node("Add", scores, b.once(("causal",), lambda: _causal(b, x[0])))
    mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), v)
    if heads == 1:
        return mixed
    merged = b.node("Transpose", mixed, perm=[0, 2, 1, 3])
    return b.node("Reshape", merged, b.integers(0, 0, node.output.channels))


def _causal(b: Builder, tokens: str) -> str:
    """(S, S): 0 up to the diagonal, ``_HIDDEN`` above it. One mask serves all layers."""
    known = b.known(tokens)
    if known is not None:
        return b.constant(np.triu(np.full((known[1], known[1]), _HIDDEN, np.float32), 1))
    zero, one = (b.constant(np.array(number, np.int64)) for number in (0, 1))
    places = b.node("Range", zero, b.node("Squeeze", b.extent(tokens, 1, 2)), one)
    later = b.node("Less", b.node("Unsqueeze", places, b.integers(1)), places)
    return b.node("Mul", b.node("Cast", later, to=b.type), b.number(_HIDDEN))


def _unary(kind: str) -> Lowering:
    return lambda b, node, x: b.node(kind, x[0])


def _silu(b: Builder, node: Node, x: list[str]) -> str:
    return b.node("Mul", x[0], b.node("Sigmoid", x[0]))


def _gelu(b: Builder, node: Node, x: list[str]) -> str:
    return gelu_of(b, x[0])


def gelu_of(b: Builder, x: str) -> str:
    error = b.node("Erf", b.node("Div", x, b.number(math.sqrt(2.0))))
    return b.node("Mul", b.node("Mul", x, b.node("Add", error, b.number(1.0))), b.number(0.5))


def _quick_gelu(b: Builder, node: Node, x: list[str]) -> str:
    return b.node("Mul", x[0], b.node("Sigmoid", b.node("Mul", x[0], b.number(1.702))))


def _geglu(b: Builder, node: Node, x: list[str]) -> str:
    axis = 1 if node.output.kind is Kind.IMAGE else -1
    value, gate = b.nodes_out("Split", 2, x[0], axis=axis, num_outputs=2)
    return b.node("Mul", value, gelu_of(b, gate))


def _elementwise(kind: str) -> Lowering:
    def lower(b: Builder, node: Node, x: list[str]) -> str:
        first, second = node.inputs
        if second.kind is first.kind:
            return b.node(kind, *x)
        return b.node(kind, x[0], _spread(b, x[1], first.kind))

    return lower


def _spread(b: Builder, vector: str, kind: Kind) -> str:
    """A vector as it combines with every place of a value of that kind."""
    axes = (2, 3) if kind is Kind.IMAGE else (1,)
    return b.node("Unsqueeze", vector, b.integers(*axes))


def _scale(b: Builder, node: Node, x: list[str]) -> str:
    return b.node("Mul", *x)


def _modulate(b: Builder, node: Node, x: list[str]) -> str:
    halves = b.nodes_out("Split", 2, x[1], axis=-1, num_outputs=2)
    factor, shift = (_spread(b, half, node.output.kind) for half in halves)
    return b.node("Add", b.node("Mul", x[0], b.node("Add", factor, b.number(1.0))), shift)


def _affine(b: Builder, node: Node, x: list[str]) -> str:
    factor, shift = float(node.attributes["factor"]), float(node.attributes["shift"])
    scaled = x[0] if factor == 1.0 else b.node("Mul", x[0], b.number(factor))
    return scaled if shift == 0.0 else b.node("Add", scaled, b.number(shift))


def _concat(b: Builder, node: Node, x: list[str]) -> str:
    return b.node("Concat", *x, axis=1 if node.output.kind is Kind.IMAGE else -1)


def _reverse(b: Builder, node: Node, x: list[str]) -> str:
    return b.node("Gather", x[0], b.integers(*reversed(range(node.output.channels))), axis=1)


NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def _upsample(b: Builder, node: Node, x: list[str]) -> str:
    return b.node("Resize", x[0], "", b.floats(1.0, 1.0, 2.0, 2.0), **NEAREST)


def _upsample_like(b: Builder, node: Node, x: list[str]) -> str:
    size = b.extent(x[1], 2, 4)
    return b.node("Resize", x[0], "", "", size, axes=[2, 3], **NEAREST)


def _to_tokens(b: Builder, node: Node, x: list[str]) -> str:
    flat = b.node("Reshape", x[0], b.integers(0, node.output.channels, -1))
    return b.node("Transpose", flat, perm=[0, 2, 1])


def _to_image(b: Builder, node: Node, x: list[str]) -> str:
    flat = b.node("Transpose", x[0], perm=[0, 2, 1])
    if node.inputs[1].channels == node.output.channels:
        return b.node("Reshape", flat, b.shape(x[1]))
    head = b.integers(0, node.output.channels)
    return b.node("Reshape", flat, b.node("Concat", head, b.extent(x[1], 2, 4), axis=0))


def _repeat_like(b: Builder, node: Node, x: list[str]) -> str:
    shape = b.node("Concat", b.extent(x[1], 0, 1), b.integers(1), axis=0)
    return b.node("Expand", x[0], shape)


def _timestep_embedding(b: Builder, node: Node, x: list[str]) -> str:
    numbers = node.inputs[0].channels
    half = node.output.channels // numbers // 2
    single = node.inputs[0].kind is Kind.TIME
    powers = np.arange(half, dtype=np.float32) * np.float32(-math.log(10000.0))
    powers = powers / np.float32(half - float(node.attributes["shift"]))
    frequencies = np.exp(powers.astype(np.float64)).astype(np.float32)[None]
    angles = b.node("Mul", b.node("Unsqueeze", x[0], b.integers(1 if single else 2)), b.constant(frequencies))
    parts = [b.node("Cos", angles), b.node("Sin", angles)]
    wave = b.node("Concat", *(parts if node.attributes["cosine_first"] else parts[::-1]), axis=-1)
    return wave if single else b.node("Reshape", wave, b.integers(0, node.output.channels))


def _pool_first(b: Builder, node: Node, x: list[str]) -> str:
    found = b.node("Equal", x[1], b.constant(np.array(int(node.attributes["token"]), np.int64)))
    return _pick(b, x[0], found)


def _pool_largest(b: Builder, node: Node, x: list[str]) -> str:
    return _pick(b, *x)


def _pick(b: Builder, tokens: str, scores: str) -> str:
    """The token at the first place of the largest score."""
    place = b.node("ArgMax", b.node("Cast", scores, to=TensorProto.INT32), axis=1, keepdims=1)
    return b.node("GatherND", tokens, place, batch_dims=1)


LOWERINGS: Mapping[str, Lowering] = {
    "conv": _conv,
    "downsample": _downsample,
    "linear": _linear,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "embedding": _embedding,
    "positions": _positions,
    "attention": attention_unfused,
    "relu": _unary("Relu"),
    "tanh": _unary("Tanh"),
    "silu": _silu,
    "gelu": _gelu,
    "quick_gelu": _quick_gelu,
    "geglu": _geglu,
    "add": _elementwise("Add"),
    "multiply": _elementwise("Mul"),
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
