"""A pass: the graph as text, one line per node."""

from __future__ import annotations

from collections.abc import Iterator

from edgediff.export.emit.graph import Graph, Value


def show(graph: Graph) -> Iterator[str]:
    """Lines such as ``%7 image[320] = conv(%6) kernel=3  # down_blocks.0.resnets.0.conv1``."""
    count = sum(parameter.size for parameter in graph.parameters)
    yield f"{graph.name}: {len(graph.nodes)} nodes, {count} parameters"
    for port in graph.inputs:
        yield f"{_typed(port.value)} = input {port.name}({', '.join(port.extents)})"
    for node in graph.nodes:
        arguments = ", ".join(str(value) for value in node.inputs)
        attributes = "".join(f" {key}={value}" for key, value in node.attributes.items())
        yield f"{_typed(node.output)} = {node.op}({arguments}){attributes}  # {node.scope}"
    for port in graph.outputs:
        yield f"output {port.name} = {port.value}"


def _typed(value: Value) -> str:
    return f"{value} {value.kind}[{value.channels}]"
