"""A pass: the extents of every value, given those of the inputs."""

from __future__ import annotations

from collections.abc import Mapping

from edgediff.export.emit import reduce_sizes
from edgediff.export.emit.graph import Graph, Kind, Node

Extents = tuple[int, ...]  # (height, width) of an image, (length,) of tokens and ids, () of the rest


def sizes(graph: Graph, inputs: Mapping[str, Extents]) -> dict[int, Extents]:
    """The extents by value id. ``inputs`` names those of each image, tokens and ids input."""
    known: dict[int, Extents] = {}
    for port in graph.inputs:
        known[port.value.id] = tuple(inputs[port.name]) if port.extents else ()
    for node in graph.nodes:
        known[node.output.id] = _after(node, [known[value.id] for value in node.inputs])
    return known


def _after(node: Node, given: list[Extents]) -> Extents:
    first = given[0]
    if node.op in reduce_sizes.OPERATIONS:
        return reduce_sizes.tokens_after(node, given)
    match node.op:
        case "downsample":
            rounding = 0 if node.attributes["asymmetric"] else 1
            return tuple((extent + rounding) // 2 for extent in first)
        case "upsample":
            return tuple(2 * extent for extent in first)
        case "upsample_like" | "to_image":
            return given[1]
        case "to_tokens":
            return (first[0] * first[1],)
        case _:
            return () if node.output.kind in (Kind.VECTOR, Kind.TIME) else first
