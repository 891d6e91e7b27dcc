"""Floating-point operations of a node, from the shapes that ONNX Runtime's profile tells of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Where the weight of a convolution stands among the inputs.
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "NhwcFusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = frozenset({
    "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul",
    "DynamicQuantizeMatMul", "QGemm", "MatMulNBits", "GemmFastGelu",
})  # fmt: skip
_ATTENTIONS = frozenset({"MultiHeadAttention"})

Shape = tuple[int, ...]


def flops(arguments: Mapping[str, Any]) -> int | None:
    """Return the operations of a node's event, a multiply-add counting as two; None for kinds of nodes that
    are not counted (elementwise ones, and whole graphs that a compiler took).

    Convolution: 2 Cin/groups k k for each result; product: 2 K; attention: 4 S_query S_key C.
    """
    kind = arguments.get("op_name")
    given, made = shapes(arguments.get("input_type_shape")), shapes(arguments.get("output_type_shape"))
    if not given or not made:
        return None
    if kind in _CONVOLUTIONS:
        at = _CONVOLUTIONS[kind]
        return 2 * math.prod(made[0]) * math.prod(given[at][1:]) if len(given) > at else None
    if kind in _PRODUCTS:
        return 2 * math.prod(made[0]) * given[0][-1] if given[0] else None
    if kind in _ATTENTIONS and len(given) > 1 and len(given[0]) == len(given[1]) == 3:
        batch, queries, channels = given[0]
        return 4 * batch * queries * given[1][1] * channels
    return None


def shapes(told: Any) -> list[Shape]:
    """Return the shapes in a list of ``{type: shape}``."""
    if not isinstance(told, Sequence) or isinstance(told, str):
        return []
    return [tuple(shape) for each in told if isinstance(each, Mapping) for shape in each.values()]


def written(told: Any) -> str:
    """Return such a list in a line, as ``float 1x320x64x64, int8 320x320``."""
    if not isinstance(told, Sequence) or isinstance(told, str):
        return ""
    pairs = [(name, shape) for each in told if isinstance(each, Mapping) for name, shape in each.items()]
    return ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in pairs)
