"""A pass: floating-point operations, one multiply-add counting as two.

Convolution 2 k k Cin Cout H W; linear 2 S Cin Cout; attention 4 Sq Sk C. Nothing else is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from edgediff.export.emit.graph import Graph
from edgediff.export.emit.sizes import Extents, sizes


def flops(graph: Graph, inputs: Mapping[str, Extents], batch: int = 1) -> dict[str, int]:
    """The work by class of operation: ``conv``, ``linear``, ``attention`` and their sum as ``total``."""
    work = {"conv": 0, "linear": 0, "attention": 0}
    for kind, count in counts(graph, sizes(graph, inputs)):
        work[kind] += count * batch
    return {**work, "total": sum(work.values())}


def counts(graph: Graph, known: Mapping[int, Extents]) -> Iterator[tuple[str, int]]:
    """The class and the operations of each node that has any, for one row of the batch."""
    for node in graph.nodes:
        places = prod(known[node.output.id])
        weight = node.parameter("weight")
        if node.op in ("conv", "downsample") and weight is not None:
            yield "conv", 2 * weight.size * places
        elif node.op == "linear" and weight is not None:
            yield "linear", 2 * weight.size * places
        elif node.op == "attention":
            q, k, v = node.inputs
            products = q.channels + v.channels
            windows = int(node.attributes.get("windows", 1))  # rows that one of the batch was cut into
            yield "attention", 2 * places * prod(known[k.id]) * products * windows
