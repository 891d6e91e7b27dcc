"""Layers of integers in ONNX Runtime's own operators, for its CPU provider.

* A convolution is a QLinearConv. With a weight zero point of 0 ONNX Runtime takes a kernel of vector
  instructions (VNNI), with any other the one of the matrix unit (AMX): the weights, stored around 0, are
  shifted by 1 at load. Which is faster depends on the layer (``Quantization.vnni``).
  A ReLU of what it makes is its quantizer, whose codes then begin at zero.
* A product is a MatMulIntegerToFloat, which also adds the bias; a 1x1 convolution between a picture and
  tokens is one too, and needs no quantizer after it.
* Integer weights beside float activations are a MatMulNBits. In 8 bits it may round each block of a token's
  activations to 8 bits while it runs, which costs about as much accuracy as the weights did (44 dB each, on
  normal numbers): exact activations took 1.3 to 30 times as long. In 4 bits exact ones are as fast.

What is computed from weights alone is computed once, at load. The shift takes two operators that stay in 8
bits: ONNX Runtime keeps what it computes at load until the last layer is done, and sums in 32 bits took nine
times the weights' own size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from edgediff.export.emit.graph import Graph, Node, Parameter, Value
from edgediff.export.emit.integers import BLOCKS, IntegerForm, Quantization, computes
from edgediff.export.emit.onnx_builder import Builder, Rewrite
from edgediff.export.emit.onnx_integers import Codes, enlarged, enlarging, limits_of, quantize, widen
from edgediff.export.emit.onnx_lowering import MICROSOFT, Lowering, bias_of, weight_of
from edgediff.export.emit.onnx_patterns import Gated, gated, sole

_ACCURACY = {8: 4, 4: 0}  # MatMulNBits computes products in int8, or in float


def direct(
    graph: Graph, quantization: Quantization, form: IntegerForm, lowerings: Mapping[str, Lowering]
) -> dict[int, Rewrite]:
    """The layers of integers, at the place of the first node of each pattern."""
    say = _Direct(quantization, form, lowerings)
    found: dict[int, Rewrite] = {}
    gates = {gate.linear.output.id: gate for gate in gated(graph)}
    for node in graph.nodes:
        if not computes(node, quantization.choices):
            blocks = node.op == "linear" and quantization.choices.get(node.scope, "float") != "float"
            if blocks:
                found[node.output.id] = _blocks(node, lowerings)
        elif node.op == "linear":
            gate = gates.get(node.output.id)
            found[node.output.id] = say.product(node) if gate is None else say.gate(gate)
        else:
            found |= _convolution(graph, node, say)
    return found


def _convolution(graph: Graph, node: Node, say: _Direct) -> dict[int, Rewrite]:
    resized, after = enlarging(graph, node), _alone(graph, node.output, "to_tokens")
    before = sole(graph, node.inputs[0], "to_image")
    if node.op == "conv" and node.attributes["kernel"] == 1:
        if after is not None:
            return {node.output.id: say.into_tokens(node, after)}
        if before is not None:
            return {before.output.id: say.from_tokens(before, node)}
    made = node.output
    relu = _alone(graph, made, "relu")
    span = None if relu is None else say.quantization.spans.get(relu.output.id)
    if relu is not None and span is not None and span.low >= 0.0:
        made = relu.output
    if resized is not None:
        return {resized.output.id: say.enlarged(resized, node, made)}
    return {node.output.id: say.convolution(node, made)}


def _alone(graph: Graph, value: Value, op: str) -> Node | None:
    """The node of kind ``op`` that alone reads a value."""
    readers = graph.consumers(value)
    seen = value.id in {port.value.id for port in graph.outputs}
    return readers[0] if len(readers) == 1 and not seen and readers[0].op == op else None


@dataclass(frozen=True, slots=True)
class _Direct:
    """What all these rewrites need to know."""

    quantization: Quantization
    form: IntegerForm
    lowerings: Mapping[str, Lowering]

    def codes(self, b: Builder, value: Value) -> Codes:
        return quantize(b, b.read(value), limits_of(value, self.quantization, self.form), self.form)

    def convolution(self, node: Node, made: Value) -> Rewrite:
        """``made``: what the node makes, or a ReLU of it, whose codes begin at zero."""

        def rewrite(b: Builder) -> None:
            self.convolved(b, node, self.codes(b, node.inputs[0]), made)

        return rewrite

    def enlarged(self, resized: Node, conv: Node, made: Value) -> Rewrite:
        """The codes are enlarged, at a quarter of the bytes."""

        def rewrite(b: Builder) -> None:
            x = [b.read(value) for value in resized.inputs]
            limits = limits_of(conv.inputs[0], self.quantization, self.form)
            small = quantize(b, x[0], limits, self.form)
            large = enlarged(b, resized, [small.tensor, *x[1:]], self.lowerings)
            b.absorb(resized.output)
            b.enter(conv.scope)
            self.convolved(b, conv, small._replace(tensor=large), made)

        return rewrite

    def convolved(self, b: Builder, node: Node, x: Codes, made: Value) -> None:
        weight, scales = self.kernel(b, weight_of(node))
        zero = np.int8(0)
        if not (self.form.narrow or node.scope in self.quantization.vnni):
            weight, zero = _shifted(b, weight), np.int8(-1)
        limits = limits_of(made, self.quantization, self.form)
        after = (b.constant(np.array(limits[0], np.float32)), b.constant(np.array(limits[1], np.uint8)))
        points = b.constant(np.full(node.output.channels, zero, np.int8))
        bias = node.parameter("bias")
        counted = [] if bias is None else [_counted(b, b.weight(bias), x.scale, scales)]
        codes = b.node("QLinearConv", *x, weight, scales, points, *after, *counted, **_window(node))
        if made != node.output:
            b.absorb(node.output)
        b.bind(made, widen(b, Codes(codes, *after)))

    def product(self, node: Node) -> Rewrite:
        def rewrite(b: Builder) -> None:
            x = self.codes(b, node.inputs[0])
            weight, scales = self.matrix(b, weight_of(node))
            b.bind(node.output, _product(b, x, weight, scales, bias_of(b, node)))

        return rewrite

    def gate(self, pattern: Gated) -> Rewrite:
        """Two products, over halves of the weight that are cut at load."""
        linear, gate = pattern

        def rewrite(b: Builder) -> None:
            x = self.codes(b, linear.inputs[0])
            weight, scales = self.matrix(b, weight_of(linear))
            weights = b.nodes_out("Split", 2, weight, axis=1, num_outputs=2)
            parts = [b.nodes_out("Split", 2, each, axis=0, num_outputs=2) for each in bias_of(b, linear)]
            factors = b.nodes_out("Split", 2, scales, axis=0, num_outputs=2)
            first, second = (
                _product(b, x, weights[i], factors[i], [bias[i] for bias in parts]) for i in (0, 1)
            )
            b.absorb(linear.output)
            b.bind(gate.output, b.node("Mul", first, b.node("Gelu", second, domain=MICROSOFT)))

        return rewrite

    def into_tokens(self, conv: Node, tokens: Node) -> Rewrite:
        """The codes of the picture are turned, a quarter of the bytes of what the convolution makes."""

        def rewrite(b: Builder) -> None:
            x = self.codes(b, conv.inputs[0])
            turned = replace(tokens, inputs=conv.inputs, output=replace(tokens.output, channels=x_channels))
            made = x._replace(tensor=self.lowerings["to_tokens"](b, turned, [x.tensor]))
            weight, scales = self.matrix(b, weight_of(conv))
            b.absorb(conv.output)
            b.bind(tokens.output, _product(b, made, weight, scales, bias_of(b, conv)))

        x_channels = conv.inputs[0].channels
        return rewrite

    def from_tokens(self, image: Node, conv: Node) -> Rewrite:
        def rewrite(b: Builder) -> None:
            limits = limits_of(conv.inputs[0], self.quantization, self.form)
            x = quantize(b, b.read(image.inputs[0]), limits, self.form)
            b.enter(conv.scope)
            weight, scales = self.matrix(b, weight_of(conv))
            made = _product(b, x, weight, scales, bias_of(b, conv))
            shaped = replace(image, inputs=(image.inputs[0], image.inputs[1]), output=conv.output)
            b.absorb(image.output)
            b.bind(conv.output, self.lowerings["to_image"](b, shaped, [made, b.read(image.inputs[1])]))

        return rewrite

    def kernel(self, b: Builder, parameter: Parameter) -> tuple[str, str]:
        """The codes of a convolution's weight and their scales."""
        codes, scales = (each.initializer for each in b.codes(parameter))
        return self._halved(b, codes, scales, parameter.shape[2]) if self.form.narrow else (codes, scales)

    def matrix(self, b: Builder, parameter: Parameter) -> tuple[str, str]:
        """The codes of a weight as (inputs, outputs), and their scales."""
        plain = len(parameter.shape) == 2
        codes, scales = (each.initializer for each in b.codes(parameter, transposed=plain))
        if not plain:
            flat = b.node("Reshape", codes, b.integers(*parameter.shape[:2]))
            codes = b.node("Transpose", flat, perm=[1, 0])
        if not self.form.narrow:
            return codes, scales
        rows, columns = parameter.shape[1], parameter.shape[0]
        width = 8 if columns % 8 == 0 else 1
        codes, scales = self._halved(b, b.node("Reshape", codes, b.integers(-1, width)), scales, width)
        return b.node("Reshape", codes, b.integers(rows, columns)), scales

    def _halved(self, b: Builder, codes: str, scales: str, width: int) -> tuple[str, str]:
        """The codes divided by 2, to the nearest: their product with a unit matrix, in units of 2.

        No operator for plain arithmetic takes 8-bit integers, and floats would take 13 times their memory.
        """
        unit = b.constant(np.eye(width, dtype=np.int8))
        one, two, zero = b.floats(1.0), b.floats(2.0), b.constant(np.array(0, np.int8))
        halved = b.node("QLinearMatMul", codes, one, zero, unit, one, zero, two, zero)
        return halved, b.node("Mul", scales, two)


def _shifted(b: Builder, codes: str) -> str:
    """The codes less 1: all bits of -c inverted are c - 1."""
    return b.node("BitwiseNot", b.node("Neg", codes))


def _counted(b: Builder, bias: str, scale: str, scales: str) -> str:
    """A bias in units of the products it is added to."""
    units = b.node("Div", b.node("Div", bias, scale), scales)
    return b.node("Cast", b.node("Round", units), to=TensorProto.INT32)


def _window(node: Node) -> dict[str, list[int]]:
    if node.op == "downsample":
        before = 0 if node.attributes["asymmetric"] else 1
        return {"kernel_shape": [3, 3], "pads": [before, before, 1, 1], "strides": [2, 2]}
    kernel = int(node.attributes["kernel"])
    return {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [1, 1]}


def _product(b: Builder, x: Codes, weight: str, scales: str, bias: list[str]) -> str:
    inputs = (x.tensor, weight, x.scale, scales, x.zero, "", *bias)
    return b.node("MatMulIntegerToFloat", *inputs[: len(inputs) if bias else -1], domain=MICROSOFT)


def _blocks(node: Node, lowerings: Mapping[str, Lowering]) -> Rewrite:
    """Float activations and a weight in blocks."""

    def rewrite(b: Builder) -> None:
        weight = weight_of(node)
        coding = b.codings[weight.name]
        if coding.block not in BLOCKS:
            b.bind(node.output, lowerings["linear"](b, node, [b.read(node.inputs[0])]))
            return
        codes, scales = (each.initializer for each in b.codes(weight, packed=True))
        bias = bias_of(b, node)
        made = b.node(
            "MatMulNBits",
            b.read(node.inputs[0]),
            codes,
            scales,
            *(["", "", *bias] if bias else []),
            K=weight.shape[1],
            N=weight.shape[0],
            bits=coding.bits,
            block_size=coding.block,
            accuracy_level=_ACCURACY[coding.bits],
            domain=MICROSOFT,
        )
        b.bind(node.output, made)

    return rewrite
