"""The typed graph that a network records. Every later stage is a pass over it.

A value has a kind and a number of channels, never a rank or a layout: an emitter decides whether tokens are
(B, S, C) or (B, C, 1, S). A parameter has the checkpoint's name and shape and never holds numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

Attribute = int | float | bool | str


class Kind(StrEnum):
    """What a value is. ``channels`` counts its features; the other extents are known only when it runs."""

    IMAGE = "image"  # channels on a two-dimensional grid
    TOKENS = "tokens"  # a sequence of feature vectors
    VECTOR = "vector"  # one feature vector per batch entry, or one for the whole batch
    IDS = "ids"  # a sequence of integers
    LABEL = "label"  # one integer per batch entry
    TIME = "time"  # one number for the whole batch: a time, a scale


@dataclass(frozen=True, slots=True)
class Value:
    """One edge of the graph."""

    id: int
    kind: Kind
    channels: int

    def __str__(self) -> str:
        return f"%{self.id}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor of the checkpoint, by name; ``role`` says what it is to its node: "weight" or "bias"."""

    name: str
    shape: tuple[int, ...]
    role: str

    @property
    def size(self) -> int:
        """The number of elements."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. ``scope`` is its module's path in the checkpoint: ``down_blocks.0.resnets.0.conv1``."""

    op: str
    inputs: tuple[Value, ...]
    output: Value
    attributes: Mapping[str, Attribute]
    parameters: tuple[Parameter, ...]
    scope: str

    def parameter(self, role: str) -> Parameter | None:
        """The parameter of that role, if the node has one."""
        return next((p for p in self.parameters if p.role == role), None)


@dataclass(frozen=True, slots=True)
class Port:
    """A named input or output; ``extents`` names the free extents of its kind, outermost first."""

    name: str
    value: Value
    extents: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """A recorded network. Nodes stand in the order in which they were recorded, which is executable."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter once, in the order of first use."""
        return tuple({p.name: p for node in self.nodes for p in node.parameters}.values())

    def consumers(self, value: Value) -> tuple[Node, ...]:
        """The nodes that read a value."""
        return self._consumers.get(value.id, ())

    def producer(self, value: Value) -> Node | None:
        """The node that writes a value; None for an input of the graph."""
        return self._producers.get(value.id)

    @cached_property
    def _consumers(self) -> dict[int, tuple[Node, ...]]:
        found: dict[int, tuple[Node, ...]] = {}
        for node in self.nodes:
            for number in {value.id for value in node.inputs}:
                found[number] = (*found.get(number, ()), node)
        return found

    @cached_property
    def _producers(self) -> dict[int, Node]:
        return {node.output.id: node for node in self.nodes}
