"""One layer of a network as a graph of its own, to be timed: with what the emitters say together with it."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from edgediff.export.emit.graph import Graph, Kind, Node, Value
from edgediff.export.emit.integers import Choice, Quantization, Span, observed
from edgediff.export.emit.onnx import Emitted, Profile, emit
from edgediff.export.emit.onnx_builder import Stored
from edgediff.export.emit.onnx_fused import ORT_CPU
from edgediff.export.emit.onnx_patterns import sole
from edgediff.export.emit.ops import Ops
from edgediff.export.emit.sizes import Extents
from edgediff.export.quantize.positions import layers_of, weight_of

_NAME = "layer"
_SPAN = Span(-4.0, 4.0)
_SEED = 0


class Shape(NamedTuple):
    """What decides how long a layer takes. ``beside`` names the operation that is emitted with it, if any."""

    op: str
    kind: Kind
    weight: tuple[int, ...]
    asymmetric: bool
    bias: bool
    beside: str
    extents: Extents  # of its input

    def __str__(self) -> str:
        weight, extents = ("x".join(map(str, each)) for each in (self.weight, self.extents))
        beside = f" with {self.beside}" if self.beside else ""
        return f"{self.op} {weight} @ {extents}{beside}"


def shape_of(graph: Graph, node: Node, extents: Mapping[int, Extents]) -> Shape:
    """The shape of a layer, where the values of its graph have these extents."""
    return Shape(
        node.op,
        node.inputs[0].kind,
        weight_of(node).shape,
        bool(node.attributes.get("asymmetric", False)),
        node.parameter("bias") is not None,
        _beside(graph, node),
        tuple(extents[node.inputs[0].id]),
    )


def _beside(graph: Graph, node: Node) -> str:
    before = graph.producer(node.inputs[0])
    after = [each.op for each in graph.consumers(node.output)]
    if node.op == "linear" and after == ["geglu"] and node.output.kind is Kind.TOKENS:
        return "geglu"
    if node.op != "conv":
        return ""
    if weight_of(node).shape[2:] == (1, 1):
        if after == ["to_tokens"]:
            return "to_tokens"
        return "to_image" if before is not None and before.op == "to_image" else ""
    return "upsample" if sole(graph, node.inputs[0], "upsample") is not None else ""


def work(shape: Shape) -> int:
    """Multiplications and additions of one pass."""
    places = 1
    for extent in shape.extents:
        places *= extent // 2 if shape.op == "downsample" else extent
    return 2 * int(np.prod(shape.weight)) * places


def cut(shape: Shape, most: int) -> tuple[Shape, float]:
    """The layer over fewer rows or tokens, so that its work is about ``most``; how much less that is.

    Time grows with the number of rows, and a row stays as long as it is.
    """
    rows, *rest = shape.extents
    kept = rows
    while kept > 8 and work(shape) * kept // rows > most:
        kept = ceil(kept / 2)
    kept += kept % 2  # doubling and halving want an even number
    return shape._replace(extents=(kept, *rest)), rows / kept


def record(shape: Shape, copies: int = 1) -> tuple[Graph, dict[str, tuple[int, ...]]]:
    """The layer as a graph, side by side with ``copies`` of itself; the shapes of the graph's inputs."""
    ops = Ops("layer")
    given: dict[str, tuple[int, ...]] = {}
    for i in range(copies):
        x = _given(ops, shape, f"x{i}", given)
        if shape.beside == "upsample":
            x = ops.upsample(x)
        with ops.scope(f"{i}"):
            y = _layer(ops, x, shape)
        if shape.beside == "to_tokens":
            y = ops.to_tokens(y)
        elif shape.beside == "geglu":
            y = ops.geglu(y)
        extents = {Kind.IMAGE: (f"height{i}", f"width{i}"), Kind.TOKENS: (f"length{i}",)}
        ops.output(f"y{i}", y, *extents.get(y.kind, ()))
    return ops.graph(), given


def _given(ops: Ops, shape: Shape, name: str, given: dict[str, tuple[int, ...]]) -> Value:
    """An input of the graph, of the extents that the layer is to be timed at."""
    channels, extents = shape.weight[1], shape.extents
    if shape.beside == "to_image":
        given[name] = (1, extents[0] * extents[1], channels)
        given[f"{name}_like"] = (1, channels, *extents)
        tokens = ops.input(name, Kind.TOKENS, channels, f"{name}_length")
        like = ops.input(f"{name}_like", Kind.IMAGE, channels, f"{name}_height", f"{name}_width")
        return ops.to_image(tokens, like)
    match shape.kind:
        case Kind.IMAGE:
            if shape.beside == "upsample":
                extents = tuple(each // 2 for each in extents)
            given[name] = (1, channels, *extents)
            return ops.input(name, shape.kind, channels, f"{name}_height", f"{name}_width")
        case Kind.TOKENS:
            given[name] = (1, *extents, channels)
            return ops.input(name, shape.kind, channels, f"{name}_length")
    given[name] = (1, channels)
    return ops.input(name, Kind.VECTOR, channels)


def _layer(ops: Ops, x: Value, shape: Shape) -> Value:
    out = shape.weight[0]
    if shape.op == "conv":
        return ops.conv(x, _NAME, out, shape.weight[2], shape.bias)
    if shape.op == "downsample":
        return ops.downsample(x, _NAME, out, shape.asymmetric, shape.bias)
    return ops.linear(x, _NAME, out, shape.bias)


def said(graph: Graph, choice: Choice, symmetric: bool = False, profile: Profile = ORT_CPU) -> Emitted:
    """A graph of :func:`record` in one form, its weights still to be filled in."""
    scopes = [node.scope for node in layers_of(graph)]
    choices = dict.fromkeys(scopes, choice)
    spans = {value.id: _SPAN for value in observed(graph, choices)}
    vnni = frozenset(scopes if symmetric else ())
    return emit(graph, profile=profile, quantization=Quantization(choices, spans, vnni))


def filled(emitted: Emitted) -> onnx.ModelProto:
    """A model with random weights inside it: how long a layer takes does not depend on them."""
    rng = np.random.default_rng(_SEED)
    model = onnx.ModelProto()
    model.CopyFrom(emitted.model)
    for each in emitted.stored:
        entry = model.graph.initializer.add()
        entry.name, entry.data_type = each.initializer, _TYPES[each.dtype]
        entry.dims.extend(each.shape)
        entry.raw_data = _numbers(each, rng).tobytes()
    return model


_TYPES = {
    "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8, "uint4": TensorProto.UINT4, "int32": TensorProto.INT32,
}  # fmt: skip


def _numbers(stored: Stored, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    count = int(np.prod(stored.shape))
    if stored.coding is not None and stored.piece == "scales":
        return np.full(count, 1e-3, np.float32)
    match stored.dtype:
        case "int8":
            return rng.integers(-127, 128, count, np.int8)
        case "uint8":
            return rng.integers(0, 256, count, np.uint8)
        case "uint4":
            return rng.integers(0, 256, (count + 1) // 2, np.uint8)
        case "int32":
            return np.zeros(count, np.int32)
    drawn = rng.standard_normal(count, np.float32) * np.float32(0.02)
    return drawn.astype(np.float16 if stored.dtype == "float16" else np.float32)
