"""The form for OpenVINO, through its plug-in provider for ONNX Runtime; measured by
``benchmarks/openvino_int8.py``.

* Its plug-in for processors splits the last axis of a tensor with a reference kernel, one number at a time. A
  gated activation therefore reads two products, over halves of the weight that are cut at load.
* Heads narrower than the matrix unit's steps get zeros up to them (``onnx_openvino_attention``): the five
  kernels over 4096 tokens took 0.81 times as long, an int8 pass of Stable Diffusion 1.5 0.93 times.
* It computes a convolution in int8 whether or not its result is quantized. Left open, the result goes to what
  reads it without one more rounding.

Measured on blocks of Stable Diffusion's size and left out, with changes within what repeats differ by:
GroupNormalization and Gelu as operators of their own, slices in place of that split, attention as one
operator.
"""

from __future__ import annotations

from dataclasses import replace

from onnx import NodeProto

from edgediff.export.emit.graph import Kind, Node
from edgediff.export.emit.integers import IntegerForm
from edgediff.export.emit.onnx import PORTABLE
from edgediff.export.emit.onnx_builder import Builder
from edgediff.export.emit.onnx_lowering import LOWERINGS, gelu_of
from edgediff.export.emit.onnx_openvino_attention import attention


def _geglu(b: Builder, node: Node, x: list[str]) -> str:
    """The product that made both halves is said again for each; the whole one, unread, is left out."""
    total = _maker(b, x[0], "Add")
    product = _maker(b, total.input[0] if total is not None else x[0], "MatMul")
    weights = _weights(b, product.input[1]) if product is not None else []
    if node.output.kind is not Kind.TOKENS or product is None or not weights:
        return LOWERINGS["geglu"](b, node, x)
    halves = [b.node("MatMul", product.input[0], each) for each in weights]
    if total is not None:
        biases = _cut(b, total.input[1], 0)
        halves = [b.node("Add", half, bias) for half, bias in zip(halves, biases, strict=True)]
    return b.node("Mul", halves[0], gelu_of(b, halves[1]))


def _weights(b: Builder, weight: str) -> list[str]:
    """Halves of a weight along its columns; of codes, halves of these with their scales. Nothing for weights
    in blocks, which are stored the other way round."""
    if weight in b.stored or _maker(b, weight, "Cast") is not None:
        return _cut(b, weight, 1)
    coded = _maker(b, weight, "DequantizeLinear")
    if coded is None or any(each.name != "axis" for each in coded.attribute):
        return []
    codes, scales = _cut(b, coded.input[0], 1), _cut(b, coded.input[1], 0)
    return [b.node("DequantizeLinear", *pair, axis=1) for pair in zip(codes, scales, strict=True)]


def _cut(b: Builder, tensor: str, axis: int) -> list[str]:
    return b.nodes_out("Split", 2, tensor, axis=axis, num_outputs=2)


def _maker(b: Builder, tensor: str, kind: str) -> NodeProto | None:
    """The node of that kind that makes a tensor."""
    found = next((node for node in reversed(b.nodes) if tensor in node.output), None)
    return found if found is not None and found.op_type == kind else None


OPENVINO = replace(
    PORTABLE,
    name="openvino",
    lowerings={"geglu": _geglu, "attention": attention},
    integers=IntegerForm(closed=False),
)
