"""Cuts an ONNX graph into stretches that run one after the other, each a graph of its own.

Nothing is decoded and encoded again: a stretch is made of the very bytes of the nodes and weights that it
holds. What depends on weights alone is computed in each stretch that reads it, so it never crosses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from edgediff import onnx_tensors as tensors
from edgediff.bundle import TensorSpec
from edgediff.errors import BundleError
from edgediff.memory import ports
from edgediff.protobuf import LENGTH, VARINT, Buffer, Fault, Message, Span, tag

_UINT8 = 2
_MODEL_GRAPH = tag(7, LENGTH)
_NODE, _INITIALIZER, _INPUT, _OUTPUT = (tag(n, LENGTH) for n in (1, 5, 11, 12))
_IN, _OUT, _KIND = (tag(n, LENGTH) for n in (1, 2, 4))
_KEPT = frozenset((tag(1, VARINT), tag(8, LENGTH), tag(5, VARINT)))  # IR version, operators, model version
_NEAR = 0.35  # how far from its place a cut may move to a better one, in shares of a stretch
# What ends a block: a rewriting of the graph that spans such a node and the next is rare.
_ENDS = frozenset((b"Add",))
_UNPACKING = frozenset((b"DequantizeLinear", b"MatMulNBits"))
_CONVOLUTIONS = frozenset((b"Conv", b"QLinearConv", b"FusedConv"))
ELEMENT_TYPES = {
    "tensor(float)": 1, "tensor(uint8)": 2, "tensor(int8)": 3, "tensor(int32)": 6, "tensor(int64)": 7,
    "tensor(bool)": 9, "tensor(float16)": 10,
}  # fmt: skip
"""ONNX's numbers of the types that may cross from stretch to stretch, by the names ONNX Runtime has."""


class _Node(NamedTuple):
    span: Span
    kind: bytes
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Nodes that run together. ``reads`` are values made outside, ``makes`` those that something after it
    reads (or the caller does), ``weight_bytes`` the stored size of its weights, ``bytes_of`` the same by
    their type (ONNX's number), and ``widened`` the elements of the largest one that each run
    unpacks."""

    nodes: tuple[int, ...]
    weights: tuple[str, ...]
    weight_bytes: int
    bytes_of: Mapping[int, int]
    widened: int
    reads: tuple[str, ...]
    makes: tuple[str, ...]


class Cut:
    """A graph and its stretches.

    Args:
        data: the bytes of an ONNX file that was scanned.
        most: the stored bytes of weights that a stretch may have; a single node may have more. 0 does not
            cut.

    Raises:
        BundleError: the bytes are no graph.
    """

    def __init__(self, data: Buffer, most: int = 0) -> None:
        self._message = Message(data)
        try:
            self._read()
            named = (n for node in self._nodes for n in (*node.inputs, *node.outputs))
            for name in (*named, *self._inputs, *self._outputs):
                name.decode()
        except (Fault, UnicodeDecodeError) as fault:
            raise BundleError(
                f"a graph that is to run in stretches: {fault}; get the file again, or export it again."
            ) from fault
        self._fixed = self._from_weights()
        moving = [i for i, node in enumerate(self._nodes) if not self._is_fixed(node)]
        cuts = self._places(moving, most) if most else []
        bounds = [0, *cuts, len(moving)]
        groups = [moving[a:b] for a, b in pairwise(bounds)]
        self.stretches = self._described(groups)

    @property
    def weight_bytes(self) -> int:
        """The stored size of all weights."""
        return sum(self._sizes.values())

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the whole graph's outputs, in order."""
        return tuple(name.decode() for name in self._outputs)

    @property
    def kinds(self) -> frozenset[str]:
        """The operators of its nodes."""
        return frozenset(node.kind.decode() for node in self._nodes)

    @property
    def channels(self) -> tuple[int, int]:
        """Channels that the first convolution gives and that the last one takes; 0 where there are none."""
        found = [
            next((t.dims for t in (self._resolved(n) for n in node.inputs) if t and len(t.dims) == 4), ())
            for node in self._nodes
            if node.kind in _CONVOLUTIONS
        ]
        shapes = [dims for dims in found if dims]
        return (shapes[0][0], shapes[-1][1]) if shapes else (0, 0)

    def _resolved(self, name: bytes) -> tensors.Tensor | None:
        """The weight that a name stands for, through the nodes that unpack or widen it."""
        while name in self._fixed and self._nodes[self._fixed[name]].inputs:
            name = self._nodes[self._fixed[name]].inputs[0]
        return self._tensors.get(name)

    @property
    def dims(self) -> frozenset[str]:
        """The names of the dims of the graph's inputs."""
        found = (ports.names_of(self._message, *span) for span in self._inputs.values())
        return frozenset(name for names in found for name in names if name)

    def ports(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of the whole, as the file states them; dims that it leaves open are ``?``."""
        both = (self._inputs.values(), self._outputs.values())
        return ports.specs(self._message, both[0]), ports.specs(self._message, both[1])

    def model(self, stretch: Stretch, types: Mapping[str, tuple[int, Sequence[int | str]]]) -> bytes:
        """Return a stretch as an ONNX file; its weights lie where the whole's do.

        ``types`` has element type and dims of what it reads from earlier stretches; a dim that is not known
        is an empty text.
        """
        data = self._message.data
        body = [ports.field(1, data[slice(*self._nodes[i].span)]) for i in stretch.nodes]
        body.append(ports.field(2, b"stretch"))
        body += [ports.field(5, data[slice(*self._weights[name.encode()])]) for name in stretch.weights]
        for name in stretch.reads:
            own = self._inputs.get(name.encode())
            body.append(
                ports.field(11, data[slice(*own)] if own is not None else ports.written(name, *types[name]))
            )
        for name in stretch.makes:
            own = self._outputs.get(name.encode())
            body.append(
                ports.field(12, data[slice(*own)] if own is not None else ports.field(1, name.encode()))
            )
        return b"".join((*self._header, ports.field(7, b"".join(body))))

    def _read(self) -> None:
        message = self._message
        graph: Span | None = None
        for key, a, b in message.fields(0, len(message.data)):
            if key == _MODEL_GRAPH:
                graph = (a, b)
        self._header = ports.header(message, _KEPT)
        if graph is None:
            raise Fault("there is no graph in it")
        self._nodes: list[_Node] = []
        self._weights: dict[bytes, Span] = {}
        self._sizes: dict[bytes, int] = {}
        self._tensors: dict[bytes, tensors.Tensor] = {}
        self._inputs: dict[bytes, Span] = {}
        self._outputs: dict[bytes, Span] = {}
        for key, a, b in message.fields(*graph):
            if key == _NODE:
                self._nodes.append(self._node(a, b))
            elif key == _INITIALIZER:
                tensor = tensors.read(message, a, b)
                self._weights[tensor.name] = (a, b)
                self._tensors[tensor.name] = tensor
                self._sizes[tensor.name] = (tensor.elements * tensors.BITS[tensor.kind] + 7) // 8
            elif key == _INPUT:
                self._inputs[self._name(a, b)] = (a, b)
            elif key == _OUTPUT:
                self._outputs[self._name(a, b)] = (a, b)
        for name in self._weights.keys() & self._inputs.keys():  # old files list weights there
            del self._inputs[name]

    def _node(self, start: int, end: int) -> _Node:
        data, kind = self._message.data, b""
        inputs: list[bytes] = []
        outputs: list[bytes] = []
        for key, a, b in self._message.fields(start, end):
            if key == _IN:
                inputs.append(data[a:b])
            elif key == _OUT:
                outputs.append(data[a:b])
            elif key == _KIND:
                kind = data[a:b]
        return _Node((start, end), kind, tuple(filter(None, inputs)), tuple(filter(None, outputs)))

    def _name(self, start: int, end: int) -> bytes:
        for key, a, b in self._message.fields(start, end):
            if key == _IN:
                return self._message.data[a:b]
        raise Fault("an input or output has no name")

    def _from_weights(self) -> dict[bytes, int]:
        """The nodes that depend on no input of the graph, by each of their outputs."""
        found: dict[bytes, int] = {}
        for i, node in enumerate(self._nodes):
            known = all(name in self._weights or name in found for name in node.inputs)
            if known and not any(name in self._outputs for name in node.outputs):
                found.update(dict.fromkeys(node.outputs, i))
        return found

    def _is_fixed(self, node: _Node) -> bool:
        return bool(node.outputs) and node.outputs[0] in self._fixed

    def _needed(self, index: int) -> list[int]:
        """A node, after the ones made of weights alone that it reads, directly or not."""
        found: dict[int, None] = {}
        waiting = [(index, False)]
        while waiting:
            i, ready = waiting.pop()
            if ready:
                found.setdefault(i)
            elif i not in found:
                waiting.append((i, True))
                made = {self._fixed[n] for n in self._nodes[i].inputs if n in self._fixed}
                waiting += [(j, False) for j in made]
        return list(found)

    def _stored(self, indices: Iterable[int]) -> dict[bytes, int]:
        return {n: self._sizes[n] for i in indices for n in self._nodes[i].inputs if n in self._sizes}

    def _places(self, moving: Sequence[int], most: int) -> list[int]:
        """Where to cut, as counts of moving nodes that lie before.

        A stretch is filled up to ``most``; then the cut moves back to where fewer values cross, which is
        sought among the last third of its weights and, if there are any, among the ends of blocks.
        """
        own = [self._stored(self._needed(i)) for i in moving]
        crossing = self._crossing(moving)
        cuts: list[int] = []
        start = 0
        while True:
            held: dict[bytes, int] = {}
            filled: list[int] = []  # bytes held with the node at start + k
            for k in range(start, len(moving)):
                held |= own[k]
                total = (filled[-1] if filled else 0) if not own[k] else sum(held.values())
                if total > most and filled:
                    break
                filled.append(total)
            if start + len(filled) == len(moving):
                return cuts
            least = (1 - _NEAR) * filled[-1]
            choices = [k for k, total in enumerate(filled, 1) if total >= least]
            ends = [k for k in choices if self._nodes[moving[start + k - 1]].kind in _ENDS]
            best = min(ends or choices, key=lambda k: (crossing[start + k], -k))
            start += best
            cuts.append(start)

    def _crossing(self, moving: Sequence[int]) -> list[int]:
        """How many values cross each place, by the count of nodes that lie before it."""
        made: dict[bytes, int] = {}
        last: dict[bytes, int] = {}
        for k, i in enumerate(moving):
            made.update(dict.fromkeys(self._nodes[i].outputs, k))
            last.update({name: k for name in self._nodes[i].inputs if name in made})
        change = [0] * (len(moving) + 2)
        for name, k in last.items():
            change[made[name] + 1] += 1
            change[k + 1] -= 1
        found, now = [], 0
        for each in change:
            now += each
            found.append(now)
        return found

    def _described(self, groups: Sequence[Sequence[int]]) -> tuple[Stretch, ...]:
        later: set[bytes] = set(self._outputs)
        found: list[Stretch] = []
        for group in reversed(groups):
            nodes = list(dict.fromkeys(j for i in group for j in self._needed(i)))
            made = {name for i in nodes for name in self._nodes[i].outputs}
            reads = {n for i in nodes for n in self._nodes[i].inputs} - made - self._weights.keys()
            stored = self._stored(nodes)
            kinds: Counter[int] = Counter()
            for name, size in stored.items():
                kinds[self._tensors[name].kind] += size
            found.append(
                Stretch(
                    nodes=tuple(nodes),
                    weights=tuple(n.decode() for n in self._weights if n in stored),
                    weight_bytes=sum(stored.values()),
                    bytes_of=dict(kinds),
                    widened=self._widened(nodes),
                    reads=tuple(sorted(n.decode() for n in reads)),
                    makes=tuple(n.decode() for n in self._ordered((made - self._fixed.keys()) & later)),
                )
            )
            later |= {n for i in nodes for n in self._nodes[i].inputs}
        return tuple(reversed(found))

    def _widened(self, nodes: Iterable[int]) -> int:
        found = 0
        for node in (self._nodes[i] for i in nodes):
            if node.kind in _UNPACKING:
                for tensor in (self._tensors[n] for n in node.inputs if n in self._tensors):
                    packed = 2 if node.kind == b"MatMulNBits" and tensor.kind == _UINT8 else 1
                    found = max(found, packed * tensor.elements)
        return found

    def _ordered(self, names: set[bytes]) -> list[bytes]:
        """Outputs of the whole graph in its own order, then the rest."""
        return [n for n in self._outputs if n in names] + sorted(names - self._outputs.keys())
