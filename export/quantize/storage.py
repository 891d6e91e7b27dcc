"""How many bytes a layer's parameters take under each choice, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from edgediff.export.emit.graph import Graph, Node
from edgediff.export.emit.integers import Choice, coding_of
from edgediff.export.families.parts import Model, Part
from edgediff.export.quantize.positions import layers_of, weight_of

_FLOAT = 4


def layer_bytes(node: Node, choice: Choice) -> int:
    """The bytes of weight, scales and bias; what stays float is float32."""
    weight, bias = weight_of(node), node.parameter("bias")
    rest = 0 if bias is None else _FLOAT * bias.size
    coding = coding_of(node, choice)
    if coding is None:
        return _FLOAT * weight.size + rest
    outputs, inputs = weight.shape[:2]
    scales = outputs
    if coding.block:  # one for each block of input channels at each place of the kernel
        scales *= ceil(inputs / coding.block) * (weight.size // (outputs * inputs))
    return ceil(weight.size * coding.bits / 8) + _FLOAT * scales + rest


def other_bytes(graph: Graph) -> int:
    """The bytes of what is no layer's: norms, positions."""
    own = {each.name for node in layers_of(graph) for each in node.parameters}
    return sum(_FLOAT * each.size for each in graph.parameters if each.name not in own)


def graph_bytes(graph: Graph, choices: Mapping[str, Choice]) -> int:
    """The bytes of a graph's weights in one form."""
    layers = {node.scope: node for node in layers_of(graph)}
    return other_bytes(graph) + sum(
        layer_bytes(node, choices.get(scope, "float")) for scope, node in layers.items()
    )


def plan_bytes(model: Model, choices: Mapping[str, Mapping[str, Choice]]) -> int:
    """The bytes of all weights of a model in one form; graphs of one folder share theirs."""
    first: dict[str, Part] = {}
    for part in model.parts:
        first.setdefault(part.folder, part)
    return sum(graph_bytes(part.graph, choices.get(part.role, {})) for part in first.values())
