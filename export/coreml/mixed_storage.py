"""How many bytes weights take in the weights files of Core ML packages, before any is written."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from edgediff.export.coreml.content import form_of
from edgediff.export.coreml.mixed_plan import FLOAT
from edgediff.export.coreml.options import Wanted
from edgediff.export.coreml.schemes import Scheme, fitted
from edgediff.export.emit.graph import Node
from edgediff.export.families.parts import Model, Part
from edgediff.export.quantize.positions import layers_of, weight_of

_LINE = 64  # each array begins at a multiple of so many bytes, behind a description that takes as many
_INSIDE = 10  # constants of fewer numbers lie in the program itself


def weight_bytes(node: Node, scheme: Scheme | None, width: int) -> int:
    """What a weight takes: its numbers of ``width`` bytes each, or the indices and palettes of a scheme."""
    shape, size = weight_of(node).shape, weight_of(node).size
    if scheme is None:
        return stored(width * size)
    cut = fitted(scheme, shape)
    entries = shape[0] // (cut.group_size or shape[0]) * 2**cut.bits
    return stored(ceil(size * cut.bits / 8)) + (stored(entries * width) if entries >= _INSIDE else 0)


def plan_bytes(model: Model, layers: Mapping[str, Mapping[str, str]], schemes: Mapping[str, Scheme]) -> int:
    """The bytes of all weights of a model's packages; forms of one network have a package each."""
    return sum(_part_bytes(model, part, layers.get(part.role, {}), schemes) for part in model.parts)


def width_of(model: Model, part: Part) -> int:
    """The bytes of a number in a part's program."""
    return 2 if form_of(model, part, Wanted()).half else 4


def stored(size: int) -> int:
    """What an array of ``size`` bytes takes in a weights file."""
    return _LINE + _LINE * ceil(size / _LINE)


def _part_bytes(model: Model, part: Part, given: Mapping[str, str], schemes: Mapping[str, Scheme]) -> int:
    width, total = width_of(model, part), 0
    counted = set()
    for node in layers_of(part.graph):
        if weight_of(node).name not in counted:
            counted.add(weight_of(node).name)
            name = given.get(node.scope, FLOAT)
            total += weight_bytes(node, None if name == FLOAT else schemes[name], width)
    others = [each for each in part.graph.parameters if each.name not in counted]
    return total + sum(stored(width * each.size) for each in others if each.size >= _INSIDE)
