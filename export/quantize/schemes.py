"""The named schemes: what each layer of a model gets before anything is measured.

Rules are by where a layer stands (``positions``), so that they hold for networks that are yet to be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from edgediff.export.emit.graph import Kind
from edgediff.export.emit.integers import Choice
from edgediff.export.emit.sizes import sizes
from edgediff.export.families.parts import Model, Part
from edgediff.export.quantize.extents import default_extents
from edgediff.export.quantize.plan import SCHEMES, Decision, Plan
from edgediff.export.quantize.positions import Position, layers_of, positions

_EDGE = "next to the picture or the latents: little work, and every error in it is seen"
_KEPT = {
    Position.FIRST: Decision("float", f"first layer, {_EDGE}"),
    Position.LAST: Decision("float", f"last layer, {_EDGE}"),
    Position.THIN: Decision("float", f"few channels, {_EDGE}"),
}
_VECTOR = "one vector for each picture: no work worth computing in integers"
_CONDITION = "reads the text alone, whose first token is far out of range (MixDQ): activations stay float"
_TEXT = "text encoder: run once for each prompt, and wide in range: activations stay float"
_TABLE = "a table: its rows are widened where they are read"

_COMPUTED: Mapping[Position, Decision] = {
    **_KEPT,
    Position.TABLE: Decision("int8-weights", _TABLE),
    Position.VECTOR: Decision("int8-weights", _VECTOR),
    Position.TEXT: Decision("int8-weights", _TEXT),
    Position.CONDITION: Decision("int8-weights", _CONDITION),
    Position.POINT: Decision("int8", "a product at every place"),
    Position.KERNEL: Decision("int8", "a convolution inside the network"),
    Position.PRODUCT: Decision("int8", "a product over tokens"),
}
_BYTES: Mapping[Position, Decision] = {
    **_KEPT,
    Position.TABLE: Decision("int8-weights", _TABLE),
    **{
        each: Decision("int8-weights", "8 bits for each weight, activations stay float")
        for each in (Position.VECTOR, Position.TEXT, Position.CONDITION, Position.POINT,
                     Position.KERNEL, Position.PRODUCT)
    },
}  # fmt: skip
# Measured on the reference model (``benchmarks.reference``), in 4 bits: the text encoder, a tenth of all
# weights, made as much of the latents' error as the whole denoiser, and the kernels of one place, a twentieth
# of the denoiser's weights, as much as all its other kernels. Both have 8.
_HALVES: Mapping[Position, Decision] = {
    **_BYTES,
    Position.VECTOR: Decision("int8-weights", "all pictures of a step share it: 8 bits"),
    Position.CONDITION: Decision("int8-weights", "carries the text into every layer: 8 bits"),
    Position.TEXT: Decision("int8-weights", "what is lost in the text is lost in every layer: 8 bits"),
    Position.POINT: Decision("int8-weights", "all that a block gives passes through it: 8 bits"),
    Position.KERNEL: Decision("int4-weights", "4 bits for each weight, activations stay float"),
    Position.PRODUCT: Decision("int4-weights", "4 bits for each weight, activations stay float"),
}
_RULES = {"int8": _COMPUTED, "int8-weights": _BYTES, "int4-weights": _HALVES}
# Float kernels are a third faster than those whose weights are widened first; those that work at four times
# the side of the latents have a tenth of a decoder's weights and most of its work.
_SEVERAL = 16
_BUSY = Decision("float", "few weights, and most of the work: widening them would cost more than it saves")
_PIXELS = Decision("int8-weights", "makes or reads pixels, and has few weights: 8 bits")

# The one that changes less comes first: where graphs share weights, it wins.
_CAREFUL: tuple[Choice, ...] = ("float", "int8-weights", "int8", "int4-weights")


def plan_of(scheme: str, model: Model) -> Plan:
    """What ``scheme`` gives each layer of ``model``; every layer is listed, with the reason.

    Graphs of one folder are forms of one network over one weights file, so a layer that several of them have
    gets the same in all. ``fp16`` is a type of storage and decides nothing here; ``mixed`` is found by
    measuring (``edgediff.export.quantize.search``).

    Raises:
        ValueError: the scheme is unknown, or ``mixed``.
    """
    if scheme == "fp16":
        return Plan(scheme, {}, made_for=described(model))
    if scheme not in _RULES:
        raise ValueError(f"{scheme!r} has no rules; those of {', '.join(SCHEMES)} but mixed do")
    decided = {part.role: _decide(scheme, model, part) for part in model.parts}
    kinds = {part.role: {node.scope: node.op for node in layers_of(part.graph)} for part in model.parts}
    return Plan(scheme, agreed(model, decided), kinds, described(model))


def described(model: Model) -> dict[str, Any]:
    """What a plan says of the model that it was made for."""
    weights = {part.role: sum(each.size for each in part.graph.parameters) for part in model.parts}
    return {"family": str(model.facts.get("family", "")), "weights": weights}


def _decide(scheme: str, model: Model, part: Part) -> dict[str, Decision]:
    rules = _RULES[scheme]
    found = {scope: rules[place] for scope, place in positions(part.graph).items()}
    if scheme == "int8" or not makes_pictures(part):
        return found
    busy = _busy(model, part)
    return {
        scope: decision
        if decision.choice == "float"
        else _BUSY
        if scope in busy
        else _PIXELS
        if decision.choice == "int4-weights"
        else decision
        for scope, decision in found.items()
    }


def _busy(model: Model, part: Part) -> set[str]:
    """The kernels that work at several times the size of the latents."""
    extents = default_extents(model, part)
    known = sizes(part.graph, extents)
    smallest = min(prod(known[node.output.id]) for node in layers_of(part.graph))
    return {
        node.scope
        for node in layers_of(part.graph)
        if node.op == "conv" and prod(known[node.output.id]) >= _SEVERAL * smallest
    }


def makes_pictures(part: Part) -> bool:
    """Whether a part goes between pictures and latents: it is told nothing but a picture, not even a time."""
    return {port.value.kind for port in part.graph.inputs} == {Kind.IMAGE}


def agreed(model: Model, decided: Mapping[str, Mapping[str, Decision]]) -> dict[str, dict[str, Decision]]:
    """Decisions by role in which the graphs of each folder say the same of the layers that they share."""
    shared: dict[str, dict[str, Decision]] = {}
    for part in model.parts:
        known = shared.setdefault(part.folder, {})
        for scope, decision in decided.get(part.role, {}).items():
            known[scope] = min(
                (known.get(scope, decision), decision), key=lambda each: _CAREFUL.index(each.choice)
            )
    return {
        part.role: {scope: shared[part.folder][scope] for scope in decided.get(part.role, {})}
        for part in model.parts
    }
