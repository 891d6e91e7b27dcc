"""What a search decides over: layers, or the layers of a block together, with what each choice costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgediff.export.emit.graph import Graph, Node
from edgediff.export.emit.integers import Choice, Span, computes
from edgediff.export.families.parts import Model, Part
from edgediff.export.quantize.plan import CHOICES
from edgediff.export.quantize.positions import Position, layers_of, positions
from edgediff.export.quantize.storage import layer_bytes

_KEPT: tuple[Choice, ...] = ("float",)
_EIGHT: tuple[Choice, ...] = ("float", "int8-weights")
_WEIGHTS: tuple[Choice, ...] = ("float", "int8-weights", "int4-weights")
ALLOWED: Mapping[Position, tuple[Choice, ...]] = {
    Position.TABLE: _EIGHT,
    Position.VECTOR: _EIGHT,
    Position.CONDITION: _EIGHT,
    Position.FIRST: _KEPT,
    Position.LAST: _KEPT,
    Position.THIN: _KEPT,
    Position.TEXT: _WEIGHTS,
    Position.POINT: CHOICES,
    Position.KERNEL: CHOICES,
    Position.PRODUCT: CHOICES,
}
"""First and last layers stay float; what carries time and text into every layer has 8 bits at least."""
# What a layer takes where its block gets something that it cannot have.
_INSTEAD: Mapping[Choice, tuple[Choice, ...]] = {
    "float": ("float",),
    "int8-weights": ("int8-weights", "float"),
    "int8": ("int8", "int8-weights", "float"),
    "int4-weights": ("int4-weights", "int8-weights", "float"),
}


@dataclass(frozen=True, slots=True)
class Unit:
    """Layers of one network that get a choice together; each takes the nearest to it that it can have.

    ``name`` is the module that they lie in; ``bytes`` and ``choices`` are by what the unit gets.
    """

    role: str
    name: str
    choices: Mapping[Choice, Mapping[str, Choice]]
    bytes: Mapping[Choice, int]

    @property
    def options(self) -> tuple[Choice, ...]:
        """What the unit can get: choices that change no layer are left out."""
        return tuple(self.choices)


def searched(model: Model) -> tuple[Part, ...]:
    """The graphs that a search looks at: one of each network. Those that steer are left to a rule."""
    first: dict[str, Part] = {}
    for part in model.parts:
        if not part.role.startswith("control"):
            first.setdefault(part.folder, part)
    return tuple(first.values())


def units_of(part: Part, spans: Mapping[int, Span], depth: int | None = None) -> list[Unit]:
    """The units of a graph, in order: the layers whose paths begin with the same ``depth`` names.

    Without ``depth`` each layer is one. ``int8`` is offered to layers whose ``spans`` are known.
    """
    places, allowed = positions(part.graph), {}
    for node in layers_of(part.graph):
        known = _known(part.graph, node, spans)
        allowed[node.scope] = [c for c in ALLOWED[places[node.scope]] if c != "int8" or known]
    grouped: dict[str, list[Node]] = {}
    for node in layers_of(part.graph):
        if len(allowed[node.scope]) > 1:
            name = node.scope if depth is None else ".".join(node.scope.split(".")[:depth])
            grouped.setdefault(name, []).append(node)
    return [_unit(part.role, name, nodes, allowed) for name, nodes in grouped.items()]


def _known(graph: Graph, node: Node, spans: Mapping[int, Span]) -> bool:
    if not computes(node, {node.scope: "int8"}):
        return False
    values = node.inputs if node.op == "linear" else (*node.inputs, node.output)
    return all(value.id in spans for value in values)


def _unit(role: str, name: str, nodes: Sequence[Node], allowed: Mapping[str, Sequence[Choice]]) -> Unit:
    choices: dict[Choice, Mapping[str, Choice]] = {}
    sizes: dict[Choice, int] = {}
    for choice in CHOICES:
        given = {node.scope: _nearest(choice, allowed[node.scope]) for node in nodes}
        if choice in ("float", *given.values()) and given not in choices.values():
            choices[choice] = given
            sizes[choice] = sum(layer_bytes(node, given[node.scope]) for node in nodes)
    return Unit(role, name, choices, sizes)


def _nearest(choice: Choice, allowed: Iterable[Choice]) -> Choice:
    return next(each for each in _INSTEAD[choice] if each in allowed)


def depth_for(part: Part, spans: Mapping[int, Span], most: int) -> int | None:
    """How deep the paths of units may be told apart so that there are at most ``most`` of them.

    None where every layer can be one; 0, the whole network as one unit, where nothing else is few enough.
    """
    if len(units_of(part, spans)) <= most:
        return None
    deepest = max(len(node.scope.split(".")) for node in layers_of(part.graph))
    return next((d for d in range(deepest, 0, -1) if len(units_of(part, spans, d)) <= most), 0)
