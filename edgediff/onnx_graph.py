"""Walks the one graph of an ONNX file: tensors, then nodes in order, each made of what stands before it."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgediff import onnx_bombs as bombs
from edgediff import onnx_tensors as tensors
from edgediff.onnx_operators import ALLOWED, SCALES
from edgediff.onnx_tensors import Tensor, shown
from edgediff.protobuf import FIXED32, LENGTH, VARINT, Fault, Message, Span, signed, small, tag

MAX_NODES = 20_000
MAX_INITIALIZERS = 4096
MAX_TENSORS = 256  # inputs, or outputs, of the whole graph

DTYPES = {1: "float32", 10: "float16", 7: "int64", 6: "int32", 9: "bool"}

_NODE, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE = (tag(n, LENGTH) for n in (1, 5, 11, 12, 15))
# A name, a text, shapes that somebody inferred, ranges of quantised tensors, metadata.
_GRAPH_IGNORED = frozenset(tag(n, LENGTH) for n in (2, 10, 13, 14, 16))

_IN, _OUT, _NAME, _KIND, _ATTRIBUTE, _DOMAIN = (tag(n, LENGTH) for n in (1, 2, 3, 4, 5, 7))
# A text, the variant of a function, metadata, where devices are described.
_NODE_IGNORED = frozenset(tag(n, LENGTH) for n in (6, 8, 9, 10))

_TENSOR = tag(5, LENGTH)
_INTS, _FLOATS, _INT, _FLOAT = tag(8, LENGTH), tag(7, LENGTH), tag(3, VARINT), tag(2, FIXED32)
_ONE_INT, _ONE_FLOAT = tag(8, VARINT), tag(7, FIXED32)
# Name, text, type, and strings: one or many.
_PLAIN = frozenset(
    (_INTS, _FLOATS, _INT, _FLOAT, _ONE_INT, _ONE_FLOAT, tag(20, VARINT))
    + tuple(tag(n, LENGTH) for n in (1, 4, 9, 13))
)


@dataclass(frozen=True, slots=True)
class Interface:
    """An input or output as the graph states it; None is a dim that it leaves open."""

    name: str
    dtype: str
    dims: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """What the rules outside a graph ask about it."""

    operators: Counter[bytes]
    initializers: list[Tensor]
    inputs: tuple[Interface, ...]
    outputs: tuple[Interface, ...]


def read_graph(message: Message, start: int, end: int) -> Contents:
    """Return what a GraphProto holds, if every part of it is allowed.

    Raises:
        Fault: it is damaged, or something in it is not allowed.
    """
    spans: dict[int, list[Span]] = {_NODE: [], _INITIALIZER: [], _INPUT: [], _OUTPUT: []}
    for key, a, b in message.fields(start, end):
        if key in spans:
            spans[key].append((a, b))
        elif key not in _GRAPH_IGNORED:
            what = "sparse weights" if key == _SPARSE else f"the unknown field {key >> 3}"
            raise Fault(f"its graph holds {what}")
    for key, most, what in (
        (_NODE, MAX_NODES, "nodes"),
        (_INITIALIZER, MAX_INITIALIZERS, "initializers"),
        (_INPUT, MAX_INITIALIZERS + MAX_TENSORS, "inputs"),
        (_OUTPUT, MAX_TENSORS, "outputs"),
    ):
        if len(spans[key]) > most:
            raise Fault(f"{len(spans[key])} {what} are more than the {most} allowed")
    walk = _Walk(message)
    initializers = [walk.initializer(*span) for span in spans[_INITIALIZER]]
    inputs = [_value(message, *span) for span in spans[_INPUT]]
    for name, _ in inputs:
        if name not in walk.constants:  # files of IR version 3 list weights among the inputs
            walk.define(name)
    for span in spans[_NODE]:
        walk.node(*span)
    outputs = [_value(message, *span) for span in spans[_OUTPUT]]
    for name, _ in outputs:
        if name not in walk.defined:
            raise Fault(f"no node makes the output {shown(name)}")
    return Contents(
        walk.operators,
        initializers,
        tuple(_stated(name, value) for name, value in inputs if name not in walk.constants),
        tuple(_stated(name, value) for name, value in outputs),
    )


class _Walk:
    """What is defined so far. ``constants`` maps a name to the tensor that stands in the file."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.defined: set[bytes] = set()
        self.constants: dict[bytes, Tensor] = {}
        self.operators: Counter[bytes] = Counter()

    def define(self, name: bytes) -> None:
        if not name or name in self.defined:
            raise Fault(f"the tensor {shown(name)} is made twice, or has no name")
        self.defined.add(name)

    def initializer(self, start: int, end: int) -> Tensor:
        tensor = tensors.read(self.message, start, end)
        self.define(tensor.name)
        self.constants[tensor.name] = tensor
        return tensor

    def node(self, start: int, end: int) -> None:
        data = self.message.data
        inputs: list[bytes] = []
        outputs: list[bytes] = []
        attributes: list[Span] = []
        name = kind = domain = b""
        for key, a, b in self.message.fields(start, end):
            if key == _IN:
                inputs.append(data[a:b])
            elif key == _OUT:
                outputs.append(data[a:b])
            elif key == _ATTRIBUTE:
                attributes.append((a, b))
            elif key == _KIND:
                kind = data[a:b]
            elif key == _NAME:
                name = data[a:b]
            elif key == _DOMAIN:
                domain = data[a:b]
            elif key not in _NODE_IGNORED:
                raise Fault(f"the node {shown(name)} has the unknown field {key >> 3}")
        if kind not in ALLOWED.get(domain, ()):
            full = kind if not domain else domain + b"." + kind
            raise Fault(f"the node {shown(name)} is of the operator {shown(full)}, which is not allowed")
        self.operators[kind if domain in (b"", b"ai.onnx") else domain + b"." + kind] += 1
        for tensor in inputs:
            if tensor and tensor not in self.defined:
                raise Fault(f"the node {shown(name)} reads {shown(tensor)}, which nothing before it makes")
        for place in SCALES.get(kind, ()):
            if place >= len(inputs) or not inputs[place]:
                raise Fault(f"the node {shown(name)} ({kind.decode()}) has no scale")
        held = [found for span in attributes if (found := self._attribute(name, span)) is not None]
        for tensor in outputs:
            if tensor:
                self.define(tensor)
        if kind == b"Constant" and outputs and len(held) == 1:
            self.constants[outputs[0]] = held[0]
        elif kind == b"Identity" and inputs and inputs[0] in self.constants and outputs:
            self.constants[outputs[0]] = self.constants[inputs[0]]
        if kind in bombs.SIZED:
            asked = bombs.Node(
                inputs, self._numbers, lambda wanted: self._listed(attributes, wanted), self._elements
            )
            bombs.check(kind, asked, name)

    def _attribute(self, node: bytes, span: Span) -> Tensor | None:
        """Return the tensor that an attribute holds, after making sure that it holds nothing that can run."""
        held = None
        for key, a, b in self.message.fields(*span):
            if key == _TENSOR:
                if held is not None:
                    raise Fault(f"the node {shown(node)} has an attribute with two tensors")
                held = tensors.read(self.message, a, b)
                if held.region is not None:
                    raise Fault(f"the node {shown(node)} has a tensor beside the graph, where weights alone may be")
            elif key not in _PLAIN:
                raise Fault(
                    f"the node {shown(node)} has an attribute with a graph, a sparse tensor or a type "
                    f"(field {key >> 3})"
                )
        return held

    def _numbers(self, name: bytes) -> Sequence[float] | None:
        found = self.constants.get(name)
        return None if found is None else tensors.numbers(self.message, found)

    def _elements(self, name: bytes) -> int | None:
        found = self.constants.get(name)
        return None if found is None else found.elements

    def _listed(self, attributes: list[Span], wanted: bytes) -> Sequence[float] | None:
        """Return the numbers of an attribute; the largest of each place if it stands more than once."""
        found: list[float] = []
        for span in attributes:
            fields = list(self.message.fields(*span))
            if any(key == tag(1, LENGTH) and self.message.data[a:b] == wanted for key, a, b in fields):
                for key, a, b in fields:
                    if key == _INTS:
                        found += map(signed, self.message.numbers(a, b))
                    elif key == _ONE_INT:
                        found.append(signed(a))
                    elif key in (_FLOATS, _ONE_FLOAT):
                        raw = self.message.data[a:b]
                        found += struct.unpack(f"<{len(raw) // 4}f", raw[: len(raw) // 4 * 4])
        return found or None


def _value(message: Message, start: int, end: int) -> tuple[bytes, Span | None]:
    """Return the name of a ValueInfoProto and the span of its type."""
    name, kind = b"", None
    for key, a, b in message.fields(start, end):
        if key == tag(1, LENGTH):
            name = message.data[a:b]
        elif key == tag(2, LENGTH):
            kind = _only(kind, (a, b), name)
        elif key not in (tag(3, LENGTH), tag(4, LENGTH)):
            raise Fault(f"the input or output {shown(name)} has the unknown field {key >> 3}")
    return name, None if kind is None else _tensor_type(message, name, *kind)


def _tensor_type(message: Message, name: bytes, start: int, end: int) -> Span | None:
    found = None
    for key, a, b in message.fields(start, end):
        if key == tag(1, LENGTH):
            found = _only(found, (a, b), name)
        elif key != tag(6, LENGTH):
            raise Fault(f"the input or output {shown(name)} is no plain tensor")
    return found


def _only(before: Span | None, span: Span, name: bytes) -> Span:
    if before is not None:  # readers would join them
        raise Fault(f"the input or output {shown(name)} has two types")
    return span
