"""The form for ONNX Runtime's CUDA provider: images are (B, H, W, C) and half precision is computed in half.

GroupNorm, SkipGroupNorm, BiasSplitGelu and NhwcConv exist on that provider alone, for the widths below; what
they do not cover stays standard. Norms and softmax accumulate in float32 inside their operators, and the
timestep's angles are float32 nodes. Convolution kernels are turned at load: the weights file is the shared
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from onnx import TensorProto

from edgediff.export.emit.graph import Graph, Kind, Node, Value
from edgediff.export.emit.integers import IntegerForm
from edgediff.export.emit.onnx import Profile
from edgediff.export.emit.onnx_builder import Builder, Rewrite
from edgediff.export.emit.onnx_fused import attention
from edgediff.export.emit.onnx_lowering import LOWERINGS, MICROSOFT, NEAREST, Lowering, bias_of, weight_of
from edgediff.export.emit.onnx_patterns import Gated, SkipNorm, gated, skip_norms
from edgediff.export.emit.reduce_onnx import lowerings

_GATED = (1280, 2560, 5120)  # half widths that BiasSplitGelu has kernels for
_GROUPS = 32
_NORMED = (128, 256, 512)  # channels that GroupNorm has kernels for, besides multiples of 320
_TO_FIRST, _TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


class Normed(NamedTuple):
    """A group norm with the activation after it and the sum before it, where they are only its own."""

    norm: Node
    silu: Node | None
    total: Node | None


def _convolution(pads: list[int], strides: int) -> Lowering:
    def lower(b: Builder, node: Node, x: list[str]) -> str:
        weight = weight_of(node)
        turned = b.once(
            ("turned", weight.name, b.half), lambda: b.node("Transpose", b.weight(weight), perm=_TO_LAST)
        )
        kernel = weight.shape[2]
        return b.node(
            "NhwcConv",
            x[0],
            turned,
            *bias_of(b, node),
            kernel_shape=[kernel] * 2,
            pads=pads or [kernel // 2] * 4,
            strides=[strides] * 2,
            domain=MICROSOFT,
        )

    return lower


def _downsample(b: Builder, node: Node, x: list[str]) -> str:
    if node.attributes["asymmetric"]:  # not among what NhwcConv was seen to take
        return _channels_first("downsample")(b, node, x)
    return _convolution([1, 1, 1, 1], 2)(b, node, x)


def _channels_first(op: str) -> Lowering:
    """The portable form between two transpositions."""

    def lower(b: Builder, node: Node, x: list[str]) -> str:
        before = [
            b.node("Transpose", tensor, perm=_TO_FIRST) if value.kind is Kind.IMAGE else tensor
            for tensor, value in zip(x, node.inputs, strict=True)
        ]
        return b.node("Transpose", LOWERINGS[op](b, node, before), perm=_TO_LAST)

    return lower


def _covered(node: Node) -> bool:
    channels = node.output.channels
    return node.attributes["groups"] == _GROUPS and (channels % 320 == 0 or channels in _NORMED)


def _group_norm(b: Builder, node: Node, x: list[str]) -> str:
    """What GroupNorm has no kernel for, in float32."""
    if not b.half:
        return _channels_first("group_norm")(b, node, x)
    wide = b.node("Cast", x[0], to=TensorProto.FLOAT)
    b.half = False
    normal = _channels_first("group_norm")(b, node, [wide])
    b.half = True
    return b.node("Cast", normal, to=b.type)


def _with_vector(op: str, kind: str) -> Lowering:
    def lower(b: Builder, node: Node, x: list[str]) -> str:
        image, vector = (value.kind for value in node.inputs)
        if image is Kind.IMAGE and vector is Kind.VECTOR:
            return b.node(kind, x[0], b.node("Unsqueeze", x[1], b.integers(1, 2)))
        return LOWERINGS[op](b, node, x)

    return lower


def _on_images(op: str) -> Lowering:
    """The portable form where no image is touched, and between transpositions where one is."""

    def lower(b: Builder, node: Node, x: list[str]) -> str:
        form = _channels_first(op) if node.output.kind is Kind.IMAGE else LOWERINGS[op]
        return form(b, node, x)

    return lower


def _concat(b: Builder, node: Node, x: list[str]) -> str:
    return b.node("Concat", *x, axis=-1)


def _upsample(b: Builder, node: Node, x: list[str]) -> str:
    return b.node("Resize", x[0], "", b.floats(1.0, 2.0, 2.0, 1.0), **NEAREST)


def _upsample_like(b: Builder, node: Node, x: list[str]) -> str:
    ends = (b.extent(x[0], 0, 1), b.extent(x[1], 1, 3), b.integers(node.output.channels))
    return b.node("Resize", x[0], "", "", b.node("Concat", *ends, axis=0), **NEAREST)


def _to_tokens(b: Builder, node: Node, x: list[str]) -> str:
    return b.node("Reshape", x[0], b.integers(0, -1, node.output.channels))


def _to_image(b: Builder, node: Node, x: list[str]) -> str:
    ends = (b.extent(x[1], 0, 3), b.integers(node.output.channels))
    return b.node("Reshape", x[0], b.node("Concat", *ends, axis=0))


def plan(graph: Graph) -> Mapping[int, Rewrite]:
    """Fused forms, at the place of the first node of each pattern."""
    found: dict[int, Rewrite] = {}
    for gate in gated(graph):
        bias = gate.linear.parameter("bias")
        if bias is not None and gate.gate.output.channels in _GATED:
            found[gate.linear.output.id] = _without_bias(gate.linear)
            found[gate.gate.output.id] = _split_gelu(gate)
    for skip in skip_norms(graph, "layer_norm"):
        found[skip.total.output.id] = _skip_norm(skip)
        if skip.linear is not None:
            found[skip.linear.output.id] = _without_bias(skip.linear)
    sums = {skip.norm.output.id: skip.total for skip in skip_norms(graph, "group_norm")}
    for node in graph.nodes:
        if node.op == "group_norm" and _covered(node):
            total = sums.get(node.output.id)
            first = node if total is None else total
            found[first.output.id] = _norm(Normed(node, _activation(graph, node.output), total))
    return found


def _activation(graph: Graph, value: Value) -> Node | None:
    readers = graph.consumers(value)
    alone = len(readers) == 1 and value.id not in {port.value.id for port in graph.outputs}
    return readers[0] if alone and readers[0].op == "silu" else None


def _without_bias(linear: Node) -> Rewrite:
    """The product alone; a later node adds the bias."""

    def rewrite(b: Builder) -> None:
        weight = b.weight(weight_of(linear), transposed=True)
        b.bind(linear.output, b.node("MatMul", b.read(linear.inputs[0]), weight))

    return rewrite


def _skip_norm(pattern: SkipNorm) -> Rewrite:
    """SkipLayerNormalization gives the norm and, as its fourth output, the sum."""

    def rewrite(b: Builder) -> None:
        norm, total, linear, skip = pattern
        term = next(v for v in total.inputs if v is not skip) if linear is None else linear.output
        bias = [] if linear is None else bias_of(b, linear)
        b.enter(norm.scope)
        normal, _, _, summed = b.nodes_out(
            "SkipLayerNormalization",
            4,
            b.read(term),
            b.read(skip),
            *(b.weight(p) for p in norm.parameters),
            *bias,
            unused=(1, 2),
            epsilon=float(norm.attributes["eps"]),
            domain=MICROSOFT,
        )
        b.bind(total.output, summed)
        b.bind(norm.output, normal)

    return rewrite


def _split_gelu(pattern: Gated) -> Rewrite:
    def rewrite(b: Builder) -> None:
        linear, gate = pattern
        product = b.read(linear.output)
        b.bind(gate.output, b.node("BiasSplitGelu", product, *bias_of(b, linear), domain=MICROSOFT))

    return rewrite


def _norm(pattern: Normed) -> Rewrite:
    norm, silu, total = pattern

    def rewrite(b: Builder) -> None:
        b.enter(norm.scope)
        # The operator takes factor and shift in float32, whatever it computes in.
        scales = [b.store(p).initializer for p in norm.parameters]
        how: dict[str, Any] = {
            "groups": int(norm.attributes["groups"]),
            "epsilon": float(norm.attributes["eps"]),
            "activation": int(silu is not None),
            "channels_last": 1,
            "domain": MICROSOFT,
        }
        if total is None:
            normal = b.node("GroupNorm", b.read(norm.inputs[0]), *scales, **how)
        else:
            x, skip = (b.read(value) for value in total.inputs)
            normal, summed = b.nodes_out("SkipGroupNorm", 2, x, *scales, skip, **how)
            b.bind(total.output, summed)
        if silu is None:
            b.bind(norm.output, normal)
        else:
            b.absorb(norm.output)
            b.bind(silu.output, normal)

    return rewrite


ORT_CUDA = Profile(
    "ort-cuda",
    lowerings={
        "attention": attention,
        "conv": _convolution([], 1),
        "downsample": _downsample,
        "group_norm": _group_norm,
        "add": _with_vector("add", "Add"),
        "multiply": _with_vector("multiply", "Mul"),
        "modulate": _on_images("modulate"),
        "geglu": _on_images("geglu"),
        "reverse": _on_images("reverse"),
        "concat": _concat,
        "upsample": _upsample,
        "upsample_like": _upsample_like,
        "to_tokens": _to_tokens,
        "to_image": _to_image,
        **lowerings(first=1),
    },
    domains=((MICROSOFT, 1),),
    plan=plan,
    half=True,
    channels_last=True,
    # The provider does not speed up integer activations: it was not seen to fuse the pairs.
    integers=IntegerForm(computes=False),
)
