"""Self-attention for OpenVINO's plug-in for processors: heads as wide as its matrix unit wants them.

Products of queries and keys run over the channels of a head, which AMX takes 32 at a time in bf16. With the
40 channels of Stable Diffusion's finest level the kernel has to treat the rest apart; zeros up to 64 give the
same scores. They are put into the weights of the projections when the graph is loaded, so that no activation
is copied.
"""

from __future__ import annotations

import math

from onnx import NodeProto

from edgediff.export.emit.graph import Node
from edgediff.export.emit.onnx_builder import Builder
from edgediff.export.emit.onnx_lowering import LOWERINGS

_WIDTH = 64


def attention(b: Builder, node: Node, x: list[str]) -> str:
    """The portable form over wider queries and keys, where heads are narrower than the unit and both were
    made of activations; keys of a text are few, and stay."""
    heads = int(node.attributes["heads"])
    width, depth = (node.inputs[i].channels // heads for i in (0, 2))
    if heads == 1 or node.attributes["causal"] or not width < _WIDTH or width % 32 == 0:
        return LOWERINGS["attention"](b, node, x)
    products = [_product(b, each) for each in x[:2]]
    if any(each is None or maker(b, each[0].input[0]) is None for each in products):
        return LOWERINGS["attention"](b, node, x)
    wide = [_widened(b, each, heads, width) for each in products if each is not None]
    q, k = (b.node("Transpose", each, perm=[0, 2, 1, 3]) for each in wide)
    v = b.node("Transpose", b.node("Reshape", x[2], b.integers(0, 0, heads, depth)), perm=[0, 2, 1, 3])
    scaled = b.node("Mul", q, b.number(1.0 / math.sqrt(width)))
    scores = b.node("MatMul", scaled, b.node("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), v)
    return b.node(
        "Reshape", b.node("Transpose", mixed, perm=[0, 2, 1, 3]), b.integers(0, 0, node.output.channels)
    )


def _product(b: Builder, tensor: str) -> tuple[NodeProto, NodeProto | None] | None:
    """The product that made a tensor, and what cut it into windows; None where a bias was added."""
    windows = maker(b, tensor)
    if windows is not None and windows.op_type == "Reshape":
        product = maker(b, windows.input[0])
    else:
        windows, product = None, windows
    if product is None or product.op_type != "MatMul" or not _known(b, product.input[1]):
        return None
    return product, windows


def _known(b: Builder, weight: str) -> bool:
    """Whether a weight is stored as it is multiplied, or as codes of whole channels."""
    if weight in b.stored:
        return True
    made = maker(b, weight)
    if made is None:
        return False
    if made.op_type == "DequantizeLinear":
        return all(each.name == "axis" for each in made.attribute)
    return made.op_type == "Cast" and made.input[0] in b.stored


def _widened(b: Builder, made: tuple[NodeProto, NodeProto | None], heads: int, width: int) -> str:
    """(B, S, heads, wide): the product over a weight with zeros after the channels of each head."""
    product, windows = made
    weight = product.input[1]
    coded = maker(b, weight)
    if coded is not None and coded.op_type == "DequantizeLinear":
        # A scale of 0 would be divided by where scales are moved past a product.
        scales = _padded(b, coded.input[1], heads, width, 1, b.floats(1.0))
        wide = b.node("DequantizeLinear", _padded(b, coded.input[0], heads, width, 2), scales, axis=1)
    else:
        wide = _padded(b, weight, heads, width, 2)
    found = b.node("MatMul", product.input[0], wide)
    if windows is None:
        return b.node("Reshape", found, b.integers(0, 0, heads, _WIDTH))
    shape = maker(b, windows.input[1])
    if shape is None:
        raise ValueError(f"{windows.name}: its shape is no longer made where it was")
    rows, places = shape.input[:2]
    return b.node("Reshape", found, b.node("Concat", rows, places, b.integers(heads, _WIDTH), axis=0))


def _padded(b: Builder, tensor: str, heads: int, width: int, rank: int, *fill: str) -> str:
    """Zeros, or what fills, after the channels of each head, along the last of one or two axes."""
    lead = [0] * (rank - 1)
    apart = b.node("Reshape", tensor, b.integers(*lead, heads, width))
    pads = b.integers(*lead, 0, 0, *lead, 0, _WIDTH - width)
    return b.node("Reshape", b.node("Pad", apart, pads, *fill), b.integers(*lead, heads * _WIDTH))


def maker(b: Builder, tensor: str) -> NodeProto | None:
    """The node that makes a tensor."""
    return next((node for node in reversed(b.nodes) if tensor in node.output), None)
