"""The form for ONNX Runtime's Core ML provider: extents are numbers and every operator is one it has.

That provider lacks Gather, Where, Expand and fused attention, and takes whole graphs only when nothing
depends on a shape at run time. A text encoder's look-up (Gather, GatherND) stays on the CPU.
"""

from __future__ import annotations

from edgediff.export.emit.graph import Node
from edgediff.export.emit.integers import IntegerForm
from edgediff.export.emit.onnx import Profile
from edgediff.export.emit.onnx_builder import Builder
from edgediff.export.emit.onnx_lowering import NEAREST


def _shape(b: Builder, tensor: str) -> tuple[int, ...]:
    known = b.known(tensor)
    if known is None:
        raise ValueError(f"{tensor} has no fixed extents")
    return known


def _group_norm(b: Builder, node: Node, x: list[str]) -> str:
    shape, groups = _shape(b, x[0]), int(node.attributes["groups"])
    batch, channels, height, width = shape
    # Four axes, as Core ML's instance_norm has them for pictures.
    grouped = b.node("Reshape", x[0], b.integers(batch, groups, channels // groups * height, width))
    ones, zeros = b.numbers(1.0, groups), b.numbers(0.0, groups)
    normal = b.node("InstanceNormalization", grouped, ones, zeros, epsilon=float(node.attributes["eps"]))
    shaped = b.node("Reshape", normal, b.integers(*shape))
    weight, bias = (b.weight(p, shape=(channels, 1, 1)) for p in node.parameters)
    return b.node("Add", b.node("Mul", shaped, weight), bias)


def _upsample_like(b: Builder, node: Node, x: list[str]) -> str:
    before, after = _shape(b, x[0]), _shape(b, x[1])
    if after[2:] == tuple(2 * extent for extent in before[2:]):
        return b.node("Resize", x[0], "", b.floats(1.0, 1.0, 2.0, 2.0), **NEAREST)
    return b.node("Resize", x[0], "", "", b.integers(*before[:2], *after[2:]), **NEAREST)


def _to_image(b: Builder, node: Node, x: list[str]) -> str:
    batch, _, height, width = _shape(b, x[1])
    flat = b.node("Transpose", x[0], perm=[0, 2, 1])
    return b.node("Reshape", flat, b.integers(batch, node.output.channels, height, width))


def _repeat_like(b: Builder, node: Node, x: list[str]) -> str:
    batch = _shape(b, x[1])[0]
    return x[0] if batch == 1 else b.node("Concat", *[x[0]] * batch, axis=0)


def _reverse(b: Builder, node: Node, x: list[str]) -> str:
    count = node.output.channels
    parts = b.nodes_out("Split", count, x[0], axis=1, num_outputs=count)
    return b.node("Concat", *reversed(parts), axis=1)


COREML_EP = Profile(
    "coreml-ep",
    lowerings={
        "group_norm": _group_norm,
        "upsample_like": _upsample_like,
        "to_image": _to_image,
        "repeat_like": _repeat_like,
        "reverse": _reverse,
    },
    fixed=True,
    # The provider has neither QuantizeLinear nor DequantizeLinear.
    integers=IntegerForm(computes=False, stores=False),
)
