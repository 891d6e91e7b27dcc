"""The form for ONNX Runtime's CPU provider. Each replacement was measured there (``benchmarks/graphs.py``).

* Attention without a score matrix in memory: MultiHeadAttention.
* A group norm's factor and shift in one pass: BatchNormalization of mean 0 and variance 1.
* A gated activation from two products, over halves of the weight that are cut at load: no split of the
  largest activation.
* A 3x3 convolution after doubling by nearest neighbours reads each pixel several times; as four 2x2
  convolutions, one per corner, with kernels that are summed at load, it takes 4/9 of the work.

Measured and left out: SkipLayerNormalization (the whole pass 0.95 times as fast), one product for queries,
keys and values (0.90 times as fast as three), Gemm for a product with bias (0.76 to 1.03 times).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgediff.export.emit.graph import Graph, Node, Parameter
from edgediff.export.emit.integers import IntegerForm
from edgediff.export.emit.onnx import Profile
from edgediff.export.emit.onnx_builder import Builder, Rewrite
from edgediff.export.emit.onnx_lowering import MICROSOFT, bias_of, weight_of
from edgediff.export.emit.onnx_patterns import Gated, doubled, gated

# Which of a kernel's three taps fall on the same pixel of the picture before doubling, by output parity.
_TAPS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))


def attention(b: Builder, node: Node, x: list[str]) -> str:
    """All heads at once, in blocks that stay in the cache."""
    return b.node(
        "MultiHeadAttention",
        *x,
        num_heads=int(node.attributes["heads"]),
        unidirectional=int(bool(node.attributes["causal"])),
        domain=MICROSOFT,
    )


def group_norm(b: Builder, node: Node, x: list[str]) -> str:
    """The statistics by InstanceNormalization, factor and shift by BatchNormalization."""
    groups, channels = int(node.attributes["groups"]), node.output.channels
    grouped = b.node("Reshape", x[0], b.integers(0, groups, -1))
    ones, zeros = b.numbers(1.0, groups), b.numbers(0.0, groups)
    normal = b.node("InstanceNormalization", grouped, ones, zeros, epsilon=float(node.attributes["eps"]))
    shaped = b.node("Reshape", normal, b.shape(x[0]))
    weight, bias = (b.weight(p) for p in node.parameters)
    mean, variance = b.numbers(0.0, channels), b.numbers(1.0, channels)
    return b.node("BatchNormalization", shaped, weight, bias, mean, variance, epsilon=0.0)


def plan(graph: Graph) -> Mapping[int, Rewrite]:
    """What is said in one go, at the place of the first node of each pattern."""
    found: dict[int, Rewrite] = {}
    for gate in gated(graph):
        found[gate.linear.output.id] = _gated(gate)
    for doubling, conv in doubled(graph):
        found[doubling.output.id] = _doubled(doubling, conv)
    return found


def _gated(pattern: Gated) -> Rewrite:
    linear, gate = pattern

    def rewrite(b: Builder) -> None:
        x = b.read(linear.inputs[0])
        weights = _halves(b, weight_of(linear), axis=1)
        products = [b.node("MatMul", x, weight) for weight in weights]
        bias = linear.parameter("bias")
        if bias is None:
            value, opened = products[0], b.node("Gelu", products[1], domain=MICROSOFT)
        else:
            first, second = _halves(b, bias, axis=0)
            value = b.node("Add", products[0], first)
            opened = b.node("BiasGelu", products[1], second, domain=MICROSOFT)
        b.absorb(linear.output)
        b.bind(gate.output, b.node("Mul", value, opened))

    return rewrite


def _halves(b: Builder, parameter: Parameter, axis: int) -> list[str]:
    whole = b.weight(parameter, transposed=len(parameter.shape) > 1)
    return b.nodes_out("Split", 2, whole, axis=axis, num_outputs=2)


def _doubled(doubling: Node, conv: Node) -> Rewrite:
    def rewrite(b: Builder) -> None:
        b.enter(conv.scope)
        x, weight, bias = b.read(doubling.inputs[0]), b.weight(weight_of(conv)), bias_of(b, conv)
        out, before = conv.output.channels, conv.inputs[0].channels
        flat = b.node("Reshape", weight, b.integers(out, before, 9))
        corners = []
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            taps = np.kron(np.array(_TAPS[down]), np.array(_TAPS[right])).T
            summed = b.node("MatMul", flat, b.constant(taps.astype(np.float16 if b.half else np.float32)))
            kernel = b.node("Reshape", summed, b.integers(out, before, 2, 2))
            pads = [1 - down, 1 - right, down, right]
            corners.append(b.node("Conv", x, kernel, *bias, kernel_shape=[2, 2], pads=pads, strides=[1, 1]))
        woven = b.node("DepthToSpace", b.node("Concat", *corners, axis=1), blocksize=2, mode="DCR")
        b.absorb(doubling.output)
        b.bind(conv.output, woven)

    return rewrite


ORT_CPU = Profile(
    "ort-cpu",
    lowerings={"attention": attention, "group_norm": group_norm},
    domains=((MICROSOFT, 1),),
    plan=plan,
    integers=IntegerForm(signed=False, direct=True),
)
# For x86 processors without VNNI, whose 8-bit products saturate.
ORT_CPU_AVX2 = replace(
    ORT_CPU, name="ort-cpu-avx2", integers=IntegerForm(signed=False, direct=True, narrow=True)
)
