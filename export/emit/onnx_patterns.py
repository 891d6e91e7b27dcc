"""Operations of a recorded graph that providers have fused forms for, found by what feeds what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from edgediff.export.emit.graph import Graph, Kind, Node, Value


class Gated(NamedTuple):
    """A gated activation and the linear layer that makes both of its halves."""

    linear: Node
    gate: Node


class SkipNorm(NamedTuple):
    """A sum and the norm that reads it; ``linear`` made one of the terms, whose bias is still to be added."""

    norm: Node
    total: Node
    linear: Node | None
    skip: Value  # the term that is not the linear layer's


def sole(graph: Graph, value: Value, op: str) -> Node | None:
    """The node of kind ``op`` that makes a value for one reader alone."""
    node = graph.producer(value)
    if node is None or node.op != op or value.id in {port.value.id for port in graph.outputs}:
        return None
    readers = graph.consumers(value)
    return node if len(readers) == 1 and readers[0].inputs.count(value) == 1 else None


def gated(graph: Graph) -> Iterator[Gated]:
    """GEGLU over tokens, where nothing else reads the linear layer."""
    for node in graph.nodes:
        if node.op == "geglu" and node.output.kind is Kind.TOKENS:
            linear = sole(graph, node.inputs[0], "linear")
            if linear is not None:
                yield Gated(linear, node)


def skip_norms(graph: Graph, op: str) -> Iterator[SkipNorm]:
    """Norms of kind ``op`` that read the sum of two values of one kind, the first reader of each sum."""
    for total in graph.nodes:
        if total.op != "add" or total.inputs[0].kind is not total.inputs[1].kind:
            continue
        norm = next((node for node in graph.consumers(total.output) if node.op == op), None)
        if norm is None or any(_may_broadcast(graph, value) for value in total.inputs):
            continue
        first, second = total.inputs
        for linear, skip in ((sole(graph, second, "linear"), first), (sole(graph, first, "linear"), second)):
            if linear is not None and linear.parameter("bias") is not None:
                yield SkipNorm(norm, total, linear, skip)
                break
        else:
            yield SkipNorm(norm, total, None, first)


def _may_broadcast(graph: Graph, value: Value) -> bool:
    """Learned positions have no batch axis."""
    node = graph.producer(value)
    return node is not None and node.op == "positions"


def doubled(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """A 3x3 convolution of a picture that was doubled for it alone: (doubling, convolution)."""
    for node in graph.nodes:
        if node.op == "conv" and node.attributes["kernel"] == 3:
            doubling = sole(graph, node.inputs[0], "upsample")
            if doubling is not None:
                yield doubling, node
