"""A pass: where each layer stands in its network, which decides what can be asked of it.

Only the recording is read: which inputs a value depends on, and whether layers lie between it and the edge of
the graph. Nothing here knows the name of a network or of a module.
"""

from __future__ import annotations

from enum import StrEnum

from edgediff.export.emit.graph import Graph, Kind, Node, Parameter
from edgediff.export.emit.integers import LAYERS

# A first or last layer that is as wide as what lies inside hands on features (a ControlNet's residuals): it
# is an ordinary layer. One that is narrower makes features of a picture, or a picture of features.
_WIDE = 64
# Latents and pictures have 3 to 16 channels; a kernel with so few on one side is next to one of them.
_THIN = 8


class Position(StrEnum):
    """What decides over a layer, the first that applies."""

    TABLE = "table"  # rows are looked up, never multiplied
    VECTOR = "vector"  # one product per picture: of the time, of a label, of pooled text
    FIRST = "first"  # nothing but arithmetic between a picture that is given and this
    LAST = "last"  # nothing but arithmetic between this and a picture that is made
    THIN = "thin"  # a kernel over a handful of channels
    TEXT = "text"  # within a graph that reads ids: no picture anywhere
    CONDITION = "condition"  # reads given tokens and nothing else: keys and values of text
    POINT = "point"  # a kernel of one place: a matrix product in all but name
    KERNEL = "kernel"  # a convolution inside
    PRODUCT = "product"  # a product over tokens inside


def layers_of(graph: Graph) -> tuple[Node, ...]:
    """The nodes whose weights can be stored as integers, in order."""
    return tuple(node for node in graph.nodes if node.op in LAYERS)


def weight_of(node: Node) -> Parameter:
    """A layer's weight."""
    found = node.parameter("weight")
    if found is None:
        raise ValueError(f"{node.scope}: a {node.op} without a weight")
    return found


def positions(graph: Graph) -> dict[str, Position]:
    """The position of every layer, by scope."""
    reached, after_layers = _upstream(graph)
    before_layers = _downstream(graph)
    pictures = {port.value.id for port in graph.outputs if port.value.kind is Kind.IMAGE}
    to_picture = _leading_to(graph, pictures)
    found: dict[str, Position] = {}
    for node in layers_of(graph):
        source = node.inputs[0].id
        first = source not in after_layers and Kind.IMAGE in reached[source]
        last = node.output.id not in before_layers and node.output.id in to_picture
        found[node.scope] = _position(node, reached[source], first, last)
    return found


def _position(node: Node, reached: frozenset[Kind], first: bool, last: bool) -> Position:
    fewest = min(weight_of(node).shape[:2])
    if node.op == "embedding":
        return Position.TABLE
    if node.output.kind is Kind.VECTOR:
        return Position.VECTOR
    if first and fewest < _WIDE:
        return Position.FIRST
    if last and fewest < _WIDE:
        return Position.LAST
    if node.op == "linear":
        if Kind.IMAGE in reached:
            return Position.PRODUCT
        return Position.TEXT if Kind.IDS in reached else Position.CONDITION
    if fewest <= _THIN:
        return Position.THIN
    return Position.POINT if weight_of(node).shape[2:] == (1, 1) else Position.KERNEL


def _upstream(graph: Graph) -> tuple[dict[int, frozenset[Kind]], set[int]]:
    """By value: the kinds of the inputs that it depends on; and which values a layer lies before."""
    reached = {port.value.id: frozenset({port.value.kind}) for port in graph.inputs}
    after: set[int] = set()
    for node in graph.nodes:
        ids = [value.id for value in node.inputs]
        reached[node.output.id] = frozenset().union(*(reached[i] for i in ids))
        if node.op in LAYERS or any(i in after for i in ids):
            after.add(node.output.id)
    return reached, after


def _downstream(graph: Graph) -> set[int]:
    """The values that a layer lies after, directly or not."""
    before: set[int] = set()
    for node in reversed(graph.nodes):
        if node.op in LAYERS or node.output.id in before:
            before |= {value.id for value in node.inputs}
    return before


def _leading_to(graph: Graph, wanted: set[int]) -> set[int]:
    """The values that some of ``wanted`` depend on, and those themselves."""
    found = set(wanted)
    for node in reversed(graph.nodes):
        if node.output.id in found:
            found |= {value.id for value in node.inputs}
    return found
