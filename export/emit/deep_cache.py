"""A pass: the outermost layers of a U-Net as a graph of their own, which reads what the deep ones gave.

DeepCache (Ma et al., 2024): only the last layer on the way up and what it needs of the way down depend on the
step's own sample much; what comes up from below is kept from an earlier step.
"""

from __future__ import annotations

from edgediff.errors import UnsupportedError
from edgediff.export.emit.chunks import needed, read
from edgediff.export.emit.graph import Graph, Port
from edgediff.step_cache import FEATURES


def deep_cache(graph: Graph) -> tuple[Graph, Graph]:
    """Return the graph with its deep features as a second output, and the shallow graph that reads them.

    The features are what the last skip connection is joined to. Values keep their ids, nodes and parameters
    stay the same objects; the shallow graph has the inputs that it reads, and the same first output.

    Raises:
        UnsupportedError: nothing in the network joins a skip connection.
    """
    joins = [node for node in graph.nodes if node.op == "concat" and node.scope.startswith("up_blocks.")]
    if not joins:
        raise UnsupportedError(f"{graph.name}: no layer joins a skip connection; leave --step-cache out.")
    port = Port(FEATURES, joins[-1].inputs[0], graph.outputs[0].extents)
    above = [node for node in graph.nodes if node.output.id != port.value.id]
    nodes = needed(above, [graph.outputs[0].value])
    shallow = Graph(f"{graph.name}_shallow", (*read(graph.inputs, nodes), port), graph.outputs[:1], nodes)
    return Graph(graph.name, graph.inputs, (*graph.outputs, port), graph.nodes), shallow
