"""Recording: appends typed nodes and keeps track of scopes, names and shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgediff.errors import UnsupportedError
from edgediff.export.emit.graph import Attribute, Graph, Kind, Node, Parameter, Port, Value


class Recorder:
    """Holds the nodes recorded so far. ``edgediff.export.emit.ops.Ops`` adds the operations."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[Node] = []
        self._inputs: list[Port] = []
        self._outputs: list[Port] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._path: list[str] = []
        self._count = 0

    @contextmanager
    def scope(self, path: str) -> Iterator[None]:
        """Everything recorded inside belongs to the checkpoint's module ``path``."""
        self._path.append(path)
        try:
            yield
        finally:
            self._path.pop()

    def input(self, name: str, kind: Kind, channels: int = 1, *extents: str) -> Value:
        """An input of the graph; ``extents`` names its free extents (a picture's height and width, ...)."""
        value = self._value(kind, channels)
        self._inputs.append(Port(name, value, extents))
        return value

    def output(self, name: str, value: Value, *extents: str) -> None:
        """Make a value an output of the graph."""
        self._outputs.append(Port(name, value, extents))

    def graph(self) -> Graph:
        """What was recorded."""
        return Graph(self.name, tuple(self._inputs), tuple(self._outputs), tuple(self._nodes))

    def _value(self, kind: Kind, channels: int) -> Value:
        self._count += 1
        return Value(self._count - 1, kind, channels)

    def _add(
        self,
        op: str,
        inputs: tuple[Value, ...],
        kind: Kind,
        channels: int,
        name: str = "",
        parameters: tuple[Parameter, ...] = (),
        **attributes: Attribute,
    ) -> Value:
        value = self._value(kind, channels)
        self._nodes.append(Node(op, inputs, value, attributes, parameters, self._join(name)))
        return value

    def _parameter(self, name: str, role: str, *shape: int) -> Parameter:
        full = f"{self._join(name)}.{role}"
        if self._shapes.setdefault(full, shape) != shape:
            raise ValueError(f"{full}: declared as {self._shapes[full]} and as {shape}")
        return Parameter(full, shape, role)

    def _join(self, name: str) -> str:
        return ".".join(part for part in (*self._path, name) if part)

    def _divisible(self, what: str, channels: int, parts: int) -> None:
        if parts < 1 or channels % parts:
            where = self._join("") or self.name
            raise UnsupportedError(f"{where}: {channels} channels do not divide into {parts} {what}.")


def expect(value: Value, *kinds: Kind) -> None:
    """Refuse a value of another kind: a mistake in a network file."""
    if value.kind not in kinds:
        raise TypeError(f"{value} is {value.kind}, expected {' or '.join(kinds)}")
