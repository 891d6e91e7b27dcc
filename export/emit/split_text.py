"""A pass: what a network makes of the text alone becomes a graph of its own, run once per prompt.

Keys and values of attention to the text depend on no picture and no time, so they are the same in every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from edgediff.errors import UnsupportedError
from edgediff.export.emit.graph import Graph, Kind, Node, Port, Value

TEXT = "encoder_hidden_states"


def split_text(graph: Graph) -> tuple[Graph, Graph]:
    """Cut a recording into (projections, rest).

    The first reads the input ``encoder_hidden_states`` alone; its outputs, tokens each named after the layer
    that makes them, are inputs of the rest in the text's place. The rest keeps its other inputs in their
    order and all of its outputs. Values keep their ids, nodes and parameters stay the same objects.

    Raises:
        UnsupportedError: the network reads no text, or makes nothing of the text alone.
    """
    text = next((port for port in graph.inputs if port.name == TEXT and port.value.kind is Kind.TOKENS), None)
    if text is None:
        raise UnsupportedError(f"{graph.name}: it has no input {TEXT}, so there is no text to split off.")
    alone = _alone(graph, text)
    made = [node for node in graph.nodes if node.output.id in alone]
    apart = [node for node in graph.nodes if node.output.id not in alone]
    read = {value.id for node in apart for value in node.inputs}
    crossing = [node for node in made if node.output.id in read]
    if not crossing:
        raise UnsupportedError(
            f"{graph.name}: it makes nothing of its text alone; there is nothing to split off."
        )
    ports = tuple(_ports(graph, crossing, text))
    inputs: list[Port] = []
    for port in graph.inputs:
        if port is not text or port.value.id in read:
            inputs.append(port)
        if port is text:
            inputs += ports
    first = Graph(f"{graph.name}_text", (text,), ports, _needed(made, crossing))
    return first, replace(graph, inputs=tuple(inputs), nodes=tuple(apart))


def _alone(graph: Graph, text: Port) -> set[int]:
    """The ids of the values that are made of the text and of nothing else that is given."""
    found: set[int] = set()
    given = {text.value.id}
    for node in graph.nodes:
        if node.output.kind is Kind.TOKENS and node.inputs and all(v.id in given for v in node.inputs):
            given.add(node.output.id)
            found.add(node.output.id)
    return found


def _ports(graph: Graph, crossing: Iterable[Node], text: Port) -> Iterator[Port]:
    """Names after the layers: ``down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k``."""
    taken = {port.name for port in (*graph.inputs, *graph.outputs)}
    for node in crossing:
        plain = node.scope.replace(".", "_") or node.op
        name, count = plain, 1
        while name in taken:
            count += 1
            name = f"{plain}_{count}"
        taken.add(name)
        yield Port(name, node.output, text.extents)


def _needed(nodes: Sequence[Node], results: Iterable[Node]) -> tuple[Node, ...]:
    """The nodes, in their order, without those that no result depends on."""
    wanted: set[int] = {node.output.id for node in results}
    found: list[Node] = []
    for node in reversed(nodes):
        if node.output.id in wanted:
            found.append(node)
            wanted.update(_ids(node.inputs))
    return tuple(reversed(found))


def _ids(values: Iterable[Value]) -> set[int]:
    return {value.id for value in values}
