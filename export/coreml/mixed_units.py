"""What the recipe decides over: layers, or the layers of a block together, with the bytes of each scheme."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgediff.export.coreml.compress import SMALL
from edgediff.export.coreml.mixed_plan import FLOAT
from edgediff.export.coreml.mixed_storage import weight_bytes
from edgediff.export.coreml.schemes import Scheme
from edgediff.export.emit.graph import Graph, Node
from edgediff.export.families.parts import Part
from edgediff.export.quantize.positions import Position, layers_of, positions, weight_of

Noise = Callable[[NDArray[np.float32], str], float]
"""The sum of squared errors of a weight under the scheme of a name."""
_KEPT = (Position.FIRST, Position.LAST, Position.THIN)  # few bytes, and every error in them is seen


@dataclass(frozen=True, slots=True)
class Group:
    """Layers of one network that get a scheme together. ``name`` is the module that they lie in.

    ``bytes`` and ``noise`` (the sum of squared errors of their weights) are by the name of a scheme.
    """

    role: str
    name: str
    scopes: tuple[str, ...]
    bytes: Mapping[str, int]
    noise: Mapping[str, float]

    @property
    def options(self) -> tuple[str, ...]:
        """What the group can get, ``FLOAT`` first."""
        return tuple(self.bytes)

    def given(self, name: str) -> dict[str, str]:
        """The scheme of each of its layers where the group gets ``name``."""
        return dict.fromkeys(self.scopes, name)


def coded_layers(graph: Graph) -> list[Node]:
    """The layers whose weights can get a palette: not the first, the last and the small ones."""
    places = positions(graph)
    return [
        node for node in layers_of(graph) if places[node.scope] not in _KEPT and weight_of(node).size > SMALL
    ]


def names_of(part: Part, depth: int | None) -> dict[str, list[Node]]:
    """The coded layers whose paths begin with the same ``depth`` names; without ``depth`` each is alone."""
    found: dict[str, list[Node]] = {}
    for node in coded_layers(part.graph):
        name = node.scope if depth is None else ".".join(node.scope.split(".")[:depth])
        found.setdefault(name, []).append(node)
    return found


def depth_for(part: Part, most: int) -> int | None:
    """How deep paths are told apart so that there are at most ``most`` groups; None: every layer is one."""
    nodes = coded_layers(part.graph)
    if len(nodes) <= most:
        return None
    deepest = max(len(node.scope.split(".")) for node in nodes)
    return next((depth for depth in range(deepest, 0, -1) if len(names_of(part, depth)) <= most), 0)


def groups_of(
    part: Part, schemes: Mapping[str, Scheme], noise: Noise, width: int, depth: int | None, packages: int
) -> list[Group]:
    """The groups of a part. Each weight is read once; a scheme that saves nothing is no option.

    ``width`` is the bytes of a number that is not coded; the weights are stored once in each of ``packages``.
    """
    found = []
    for name, nodes in names_of(part, depth).items():
        sizes = {
            said: packages * sum(weight_bytes(node, schemes.get(said), width) for node in nodes)
            for said in (FLOAT, *schemes)
        }
        kept = [said for said in schemes if sizes[said] < sizes[FLOAT]]
        heard = dict.fromkeys(kept, 0.0)
        for node in nodes:
            weight = _weight(part, node)
            for said in kept:
                heard[said] += noise(weight, said)
        taken = {said: sizes[said] for said in (FLOAT, *kept)}
        scopes = tuple(node.scope for node in nodes)
        found.append(Group(part.role, name, scopes, taken, {FLOAT: 0.0, **heard}))
    return found


def given_to(groups: Iterable[Group], picked: Mapping[tuple[str, str], str]) -> dict[str, dict[str, str]]:
    """By role and layer, what the groups that something was picked for get."""
    found: dict[str, dict[str, str]] = {}
    for group in groups:
        name = picked.get((group.role, group.name))
        if name is not None:
            found.setdefault(group.role, {}).update(group.given(name))
    return found


def _weight(part: Part, node: Node) -> NDArray[np.float32]:
    return part.tensors.whole(part.names[weight_of(node).name]).astype(np.float32)
