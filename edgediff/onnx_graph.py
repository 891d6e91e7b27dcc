"""Walks the one graph of an ONNX file: tensors, then nodes in order, each made of what stands before it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edgediff import onnx_bombs as bombs
from edgediff import onnx_tensors as tensors
from edgediff.onnx_operators import ALLOWED, SCALES
from edgediff.onnx_tensors import Tensor, shown
from edgediff.onnx_values import Value, read_value
from edgediff.protobuf import FIXED32, LENGTH, VARINT, Fault, Message, Span, signed, tag

MAX_NODES = 20_000
MAX_INITIALIZERS = 4096
MAX_VALUES = 256  # inputs, or outputs, of the whole graph

_NODE, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE = (tag(n, LENGTH) for n in (1, 5, 11, 12, 15))
_PARTS = {_NODE: "nodes", _INITIALIZER: "initializers", _INPUT: "inputs", _OUTPUT: "outputs"}
_LIMITS = {
    _NODE: MAX_NODES,
    _INITIALIZER: MAX_INITIALIZERS,
    _INPUT: MAX_VALUES + MAX_INITIALIZERS,
    _OUTPUT: MAX_VALUES,
}
# A name, a text, shapes that somebody inferred, ranges of quantised tensors, metadata.
_GRAPH_IGNORED = frozenset(tag(n, LENGTH) for n in (2, 10, 13, 14, 16))

_IN, _OUT, _NAME, _KIND, _ATTRIBUTE, _DOMAIN = (tag(n, LENGTH) for n in (1, 2, 3, 4, 5, 7))
# A text, the variant of a function, metadata, where devices are described.
_NODE_IGNORED = frozenset(tag(n, LENGTH) for n in (6, 8, 9, 10))

_FIRST, _TENSOR = tag(1, LENGTH), tag(5, LENGTH)
_INTS, _FLOATS, _INT, _FLOAT = tag(8, LENGTH), tag(7, LENGTH), tag(3, VARINT), tag(2, FIXED32)
_ONE_INT, _ONE_FLOAT = tag(8, VARINT), tag(7, FIXED32)
# Name, text, type, and strings: one or many.
_PLAIN = frozenset((_INTS, _FLOATS, _INT, _FLOAT, _ONE_INT, _ONE_FLOAT, tag(20, VARINT))) | frozenset(
    tag(n, LENGTH) for n in (1, 4, 9, 13)
)


class Contents(NamedTuple):
    """What the rules outside a graph ask about it."""

    operators: Mapping[bytes, int]
    initializers: list[Tensor]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def read_graph(message: Message, start: int, end: int) -> Contents:
    """Return what a GraphProto holds, if every part of it is allowed.

    Raises:
        Fault: it is damaged, or something in it is not allowed.
    """
    spans: dict[int, list[Span]] = {key: [] for key in _LIMITS}
    for key, a, b in message.fields(start, end):
        if key in spans:
            spans[key].append((a, b))
            if len(spans[key]) > _LIMITS[key]:
                raise Fault(f"it has more than the {_LIMITS[key]} {_PARTS[key]} allowed")
        elif key not in _GRAPH_IGNORED:
            what = "sparse weights" if key == _SPARSE else f"the unknown field {key >> 3}"
            raise Fault(f"its graph holds {what}")
    walk = _Walk(message)
    initializers = [walk.initializer(*span) for span in spans[_INITIALIZER]]
    inputs = [read_value(message, *span) for span in spans[_INPUT]]
    inputs = [value for value in inputs if value.name not in walk.constants]  # old files list weights there
    for value in inputs:
        walk.define(value.name)
    for span in spans[_NODE]:
        walk.node(*span)
    outputs = [read_value(message, *span) for span in spans[_OUTPUT]]
    for value in outputs:
        if value.name not in walk.defined:
            raise Fault(f"no node makes the output {shown(value.name)}")
    return Contents(walk.operators, initializers, tuple(inputs), tuple(outputs))


class _Walk:
    """What is defined so far. ``constants`` maps a name to the tensor that stands in the file, ``lists`` to
    numbers that a node holds."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.defined: set[bytes] = set()
        self.constants: dict[bytes, Tensor] = {}
        self.lists: dict[bytes, Sequence[float]] = {}
        self.operators: dict[bytes, int] = {}

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
        full = kind if domain in (b"", b"ai.onnx") else domain + b"." + kind
        self.operators[full] = self.operators.get(full, 0) + 1
        defined = self.defined
        for tensor in inputs:
            if tensor not in defined and tensor:
                raise Fault(f"the node {shown(name)} reads {shown(tensor)}, which nothing before it makes")
        if kind in SCALES and not all(place < len(inputs) and inputs[place] for place in SCALES[kind]):
            raise Fault(f"the node {shown(name)} ({kind.decode()}) has no scale")
        held = [found for span in attributes if (found := self._attribute(name, span)) is not None]
        for tensor in outputs:
            if tensor:
                self.define(tensor)
        if kind in (b"Constant", b"Identity"):
            self._remember(name, kind, inputs, outputs, attributes, held)
        elif kind in bombs.SIZED:
            asked = bombs.Node(
                inputs, self._numbers, lambda wanted: self._listed(attributes, wanted), self._elements
            )
            bombs.check(kind, asked, name)

    def _remember(
        self,
        name: bytes,
        kind: bytes,
        inputs: list[bytes],
        outputs: list[bytes],
        attributes: list[Span],
        held: list[Tensor],
    ) -> None:
        """Keep what a node states or passes on, for the rules that ask for numbers."""
        one, other = (len(attributes), len(inputs)) if kind == b"Constant" else (len(inputs), len(attributes))
        if one != 1 or other != 0 or len(outputs) != 1:
            raise Fault(f"the node {shown(name)} ({kind.decode()}) states more or less than one tensor")
        if kind == b"Identity":
            if inputs[0] in self.constants:
                self.constants[outputs[0]] = self.constants[inputs[0]]
            elif inputs[0] in self.lists:
                self.lists[outputs[0]] = self.lists[inputs[0]]
        elif held:
            self.constants[outputs[0]] = held[0]
        else:
            self.lists[outputs[0]] = self._listed(attributes, None) or ()

    def _attribute(self, node: bytes, span: Span) -> Tensor | None:
        """Return the tensor that an attribute holds, after making sure that it holds nothing that can run."""
        held = None
        for key, a, b in self.message.fields(*span):
            if key == _TENSOR:
                if held is not None:
                    raise Fault(f"the node {shown(node)} has an attribute with two tensors")
                held = tensors.read(self.message, a, b)
                if held.region is not None:
                    raise Fault(
                        f"the node {shown(node)} has a tensor beside the graph, where weights alone may be"
                    )
            elif key not in _PLAIN:
                raise Fault(
                    f"the node {shown(node)} has an attribute with a graph, a sparse tensor or a type "
                    f"(field {key >> 3})"
                )
        return held

    def _numbers(self, name: bytes) -> Sequence[float] | None:
        found = self.constants.get(name)
        return self.lists.get(name) if found is None else tensors.numbers(self.message, found)

    def _elements(self, name: bytes) -> int | None:
        if name in self.lists:
            return len(self.lists[name])
        found = self.constants.get(name)
        return None if found is None else found.elements

    def _listed(self, attributes: list[Span], wanted: bytes | None) -> Sequence[float] | None:
        """Return the numbers of the attribute ``wanted``, or of the only one."""
        found: list[float] = []
        named = 0
        for span in attributes:
            fields = list(self.message.fields(*span))
            names = [self.message.data[a:b] for key, a, b in fields if key == _FIRST]
            if wanted is not None and wanted not in names:
                continue
            named += 1
            for key, a, b in fields:
                if key == _INTS:
                    found += map(signed, self.message.numbers(a, b))
                elif key in (_ONE_INT, _INT):
                    found.append(signed(a))
                elif key in (_FLOATS, _ONE_FLOAT, _FLOAT):
                    raw = self.message.data[a:b]
                    found += struct.unpack(f"<{len(raw) // 4}f", raw[: len(raw) // 4 * 4])
        if named > 1:
            raise Fault("a node has an attribute twice")
        return found or None
