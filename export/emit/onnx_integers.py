"""Layers that compute with integers, in standard ONNX: pairs of QuantizeLinear and DequantizeLinear.

A runtime that knows the pattern computes what lies between two pairs with integers; others compute in float
with rounded numbers, and get the same result. A convolution has a pair on both sides, a product on its input
alone: that is what ONNX Runtime's CPU provider fuses. What several layers read is quantized once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from onnx import NodeProto

from edgediff.errors import UnsupportedError
from edgediff.export.emit.graph import Graph, Node, Value
from edgediff.export.emit.integers import (
    LAYERS,
    Coding,
    IntegerForm,
    Quantization,
    coding_of,
    computes,
)
from edgediff.export.emit.onnx_builder import Builder, Rewrite
from edgediff.export.emit.onnx_lowering import NEAREST, Lowering, weight_of
from edgediff.export.emit.onnx_patterns import sole


class Codes(NamedTuple):
    """A tensor of 8-bit codes with its scale and its zero point, two constants of the graph."""

    tensor: str
    scale: str
    zero: str


def codings_of(graph: Graph, quantization: Quantization) -> dict[str, Coding]:
    """How the weights that are integers are stored, by the parameter's name."""
    found: dict[str, Coding] = {}
    for node in graph.nodes:
        coding = coding_of(node, quantization.choices.get(node.scope, "float"))
        if coding is not None:
            found[weight_of(node).name] = coding
    return found


def held(graph: Graph, quantization: Quantization) -> list[Value]:
    """The values that the fused forms of float layers must not absorb: those beside a layer of integers."""
    layers = [node for node in graph.nodes if _chosen(node, quantization)]
    return [value for node in layers for value in (node.output, *node.inputs)]


def offered(graph: Graph, quantization: Quantization, form: IntegerForm, profile: str) -> None:
    """Refuse what a profile has no form for.

    Raises:
        UnsupportedError: a layer is to be said with integers, in a profile that lacks them.
    """
    for node in graph.nodes:
        if not _chosen(node, quantization):
            continue
        computed = computes(node, quantization.choices)
        if not form.stores or (computed and not form.computes):
            what = "computes with integers" if computed else "has integer weights"
            raise UnsupportedError(
                f"profile {profile}: {graph.name} {what} in layer {node.scope} and others, for which this "
                f"profile has no form. Leave the profile out, or export without --quantize for it."
            )


def _chosen(node: Node, quantization: Quantization) -> bool:
    return node.op in LAYERS and quantization.choices.get(node.scope, "float") != "float"


def limits_of(value: Value, quantization: Quantization, form: IntegerForm) -> tuple[float, int]:
    """The scale and zero point of a value's codes.

    Raises:
        ValueError: nothing is known of the value.
    """
    span = quantization.spans.get(value.id)
    if span is None:
        raise ValueError(f"{value} is to be quantized and its span is not known")
    return span.signed() if form.signed else span.unsigned()


def quantize(b: Builder, tensor: str, limits: tuple[float, int], form: IntegerForm) -> Codes:
    """The codes of a float tensor, made once for all who read it."""
    scale = b.constant(np.array(limits[0], np.float32))
    zero = b.constant(np.array(limits[1], np.int8 if form.signed else np.uint8))
    made = b.once(("quantized", tensor, scale, zero), lambda: b.node("QuantizeLinear", tensor, scale, zero))
    return Codes(made, scale, zero)


def widen(b: Builder, codes: Codes) -> str:
    """The float tensor that codes stand for; one for each reader, since shared ones are not fused.

    Who quantizes it again, with the same scale and zero point, gets the codes.
    """
    made = b.node("DequantizeLinear", *codes)
    b.once(("quantized", made, codes.scale, codes.zero), lambda: codes.tensor)
    return made


def pairs(
    graph: Graph, quantization: Quantization, form: IntegerForm, lowerings: Mapping[str, Lowering]
) -> dict[int, Rewrite]:
    """The layers that compute with integers, by the id of their output."""
    found: dict[int, Rewrite] = {}
    for node in graph.nodes:
        if computes(node, quantization.choices):
            found[node.output.id] = _layer(node, quantization, form, lowerings)
            resized = enlarging(graph, node)
            if resized is not None:
                limits = limits_of(node.inputs[0], quantization, form)
                found[resized.output.id] = _enlarged(resized, limits, form, lowerings)
    return found


def enlarging(graph: Graph, conv: Node) -> Node | None:
    """What enlarges a picture for this convolution alone: it may as well enlarge the codes."""
    if conv.op != "conv":
        return None
    before = conv.inputs[0]
    return sole(graph, before, "upsample") or sole(graph, before, "upsample_like")


def enlarged(b: Builder, node: Node, x: list[str], lowerings: Mapping[str, Lowering]) -> str:
    """The picture enlarged, by all four sizes: ONNX Runtime loses two of two when it moves the channels."""
    if node.op == "upsample":
        return lowerings[node.op](b, node, x)
    size = b.node("Concat", b.extent(x[0], 0, 2), b.extent(x[1], 2, 4), axis=0)
    return b.node("Resize", x[0], "", "", size, **NEAREST)


def _layer(
    node: Node, quantization: Quantization, form: IntegerForm, lowerings: Mapping[str, Lowering]
) -> Rewrite:
    def rewrite(b: Builder) -> None:
        value = node.inputs[0]
        codes = quantize(b, _apart(b, b.read(value)), limits_of(value, quantization, form), form)
        made = lowerings[node.op](b, node, [widen(b, codes)])
        if node.op != "linear" and form.closed:
            made = _apart(b, widen(b, quantize(b, made, limits_of(node.output, quantization, form), form)))
        b.bind(node.output, made)

    return rewrite


def _enlarged(
    resized: Node, limits: tuple[float, int], form: IntegerForm, lowerings: Mapping[str, Lowering]
) -> Rewrite:
    """Quantized before it is enlarged; the pair after it is the convolution's."""

    def rewrite(b: Builder) -> None:
        x = [b.read(value) for value in resized.inputs]
        small = _apart(b, widen(b, quantize(b, _apart(b, x[0]), limits, form)))
        b.bind(resized.output, enlarged(b, resized, [small, *x[1:]], lowerings))

    return rewrite


def _apart(b: Builder, tensor: str) -> str:
    """The tensor behind an operator that no runtime moves a quantizer across.

    4-bit weights need operator set 21. In it ONNX Runtime's CPU provider on x86 moves signed pairs past a
    Reshape or a Transpose, gives the moved one two types, and refuses the graph. A sum of one term stops it.
    """
    if all(coding.bits == 8 for coding in b.codings.values()):
        return tensor
    return b.once(("apart", tensor), lambda: b.node("Sum", tensor))


def without_unread(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes without those that widen codes for nobody: ONNX Runtime would run them."""
    used = {name for node in nodes for name in node.input} | set(outputs)
    return [node for node in nodes if node.op_type != "DequantizeLinear" or node.output[0] in used]
