"""A pass: a recording cut into two that run one after the other.

The Neural Engine of a phone takes a program only up to a size, so Apple's tool for Stable Diffusion cuts
U-Nets in two (``--chunk-unet``): https://github.com/apple/ml-stable-diffusion
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from edgediff.export.emit.graph import Graph, Kind, Node, Port, Value
from edgediff.export.emit.sizes import Extents, sizes

_NEAR = 0.05  # how far from half of the weights a cut may lie, where that makes less cross
_GRID, _LENGTH = 64, 77  # stand for the free extents where places are compared; only proportions count
_EXTENTS = {Kind.IMAGE: ("height", "width"), Kind.TOKENS: ("length",), Kind.IDS: ("length",)}


def halves(graph: Graph) -> tuple[Graph, Graph]:
    """Cut a graph where about half of its weights lie before, at the nearby place that the least crosses.

    The first reads the inputs that it needs, and its outputs are the values that cross. The second reads
    these and the inputs that it needs, and has the outputs of the whole. What is made of times, labels and
    vectors alone does not cross: both make it, and hold its weights. Values keep their ids, nodes and
    parameters stay the same objects.

    Raises:
        ValueError: there is no place to cut at: no node lies before the one that makes the first output.
    """
    wanted = {port.value.id for port in graph.outputs}
    last = next(i for i, node in enumerate(graph.nodes) if node.output.id in wanted)
    if last == 0:
        raise ValueError(f"{graph.name}: its first node makes an output; there is nothing to cut off")
    light = _light(graph)
    cut = _place(graph, last, light)
    crossing = _crossing(graph, cut, light)
    ports = tuple(_ports(graph, crossing))
    before = needed(graph.nodes[:cut], [node.output for node in crossing])
    again = [node for node in graph.nodes[:cut] if node.output.id in light]
    after = needed([*again, *graph.nodes[cut:]], [port.value for port in graph.outputs])
    return (
        Graph(f"{graph.name}_chunk1", read(graph.inputs, before), ports, before),
        Graph(f"{graph.name}_chunk2", (*ports, *read(graph.inputs, after)), graph.outputs, after),
    )


def crossing_extents(first: Graph, second: Graph, given: Mapping[str, Extents]) -> dict[str, Extents]:
    """The extents of the second graph's inputs, by port name, where ``given`` are those of the whole's."""
    known = sizes(first, given)
    made = {port.name: known[port.value.id] for port in first.outputs}
    free = [port.name for port in second.inputs if port.extents]
    return {name: made[name] if name in made else given[name] for name in free}


def _light(graph: Graph) -> set[int]:
    """The ids of the values that depend on no picture and no token: times, labels, vectors made of them.

    Beside being small, such a value may have one row for the whole batch, which no port can say.
    """
    kinds = (Kind.VECTOR, Kind.TIME, Kind.LABEL)
    found = {port.value.id for port in graph.inputs if port.value.kind in kinds}
    for node in graph.nodes:
        if node.output.kind in kinds and all(value.id in found for value in node.inputs):
            found.add(node.output.id)
    return found


def _place(graph: Graph, last: int, light: set[int]) -> int:
    """How many nodes lie before the cut; at most ``last``."""
    weights = list(accumulate(_weights(graph.nodes)))
    given = {port.name: _nominal(port) for port in graph.inputs}
    known = sizes(graph, given)

    def away(cut: int) -> float:
        return abs(weights[cut - 1] / max(weights[-1], 1) - 0.5)

    def cost(cut: int) -> tuple[int, int, float]:
        crossing = _crossing(graph, cut, light)
        return sum(_elements(node.output, known) for node in crossing), len(crossing), away(cut)

    places = range(1, last + 1)
    near = [cut for cut in places if away(cut) <= _NEAR]
    return min(near, key=cost) if near else min(places, key=away)


def _weights(nodes: Iterable[Node]) -> Iterator[int]:
    """The elements of the parameters that each node is the first to use."""
    seen: set[str] = set()
    for node in nodes:
        yield sum(p.size for p in node.parameters if p.name not in seen)
        seen.update(p.name for p in node.parameters)


def _nominal(port: Port) -> Extents:
    if not port.extents:
        return ()
    return (_GRID, _GRID) if port.value.kind is Kind.IMAGE else (_LENGTH,)


def _elements(value: Value, known: Mapping[int, Extents]) -> int:
    count = value.channels
    for extent in known[value.id]:
        count *= extent
    return count


def _crossing(graph: Graph, cut: int, light: set[int]) -> list[Node]:
    """The nodes before the cut whose values those after it read."""
    read = {value.id for node in graph.nodes[cut:] for value in node.inputs} - light
    return [node for node in graph.nodes[:cut] if node.output.id in read]


def _ports(graph: Graph, crossing: Iterable[Node]) -> Iterator[Port]:
    """Names after the modules that made the values: ``down_blocks_0_resnets_1_add``."""
    taken = {port.name for port in (*graph.inputs, *graph.outputs)}
    for node in crossing:
        plain = "_".join(filter(None, (node.scope.replace(".", "_"), node.op)))
        name, count = plain, 1
        while name in taken:
            count += 1
            name = f"{plain}_{count}"
        taken.add(name)
        extents = _EXTENTS.get(node.output.kind, ())
        yield Port(name, node.output, tuple(f"{name}_{each}" for each in extents))


def needed(nodes: Sequence[Node], results: Iterable[Value]) -> tuple[Node, ...]:
    """The nodes, in their order, without those that no result depends on."""
    wanted = {value.id for value in results}
    found = []
    for node in reversed(nodes):
        if node.output.id in wanted:
            found.append(node)
            wanted.update(value.id for value in node.inputs)
    return tuple(reversed(found))


def read(inputs: Iterable[Port], nodes: Iterable[Node]) -> tuple[Port, ...]:
    """The inputs that some of the nodes read."""
    read = {value.id for node in nodes for value in node.inputs}
    return tuple(port for port in inputs if port.value.id in read)
