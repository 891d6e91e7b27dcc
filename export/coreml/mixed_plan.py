"""Which layer's weights get how many bits in Core ML packages, and what names and sizes follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgediff.export.coreml.schemes import NAMES, Scheme, scheme_of
from edgediff.export.emit.mil_form import Target
from edgediff.export.emit.mil_names import mil_name
from edgediff.export.families.parts import Part
from edgediff.export.quantize.positions import layers_of, weight_of

FLOAT = "float"
"""The weight stays as the program computes: float16, or float32 where half precision is too narrow."""
PALETTES = tuple(name for name in NAMES if name.startswith("palette-"))
"""What a layer can get besides, the finest first."""
_NEWER = "palette-3"  # iOS 17 has no indices of three bits


@dataclass(frozen=True, slots=True)
class BitPlan:
    """The name of a scheme (or ``FLOAT``) by role and by a layer's scope, its module's path.

    ``granularity`` and ``group_size`` are those of every palette, as ``scheme_of`` takes them. ``kinds`` says
    what operation each layer is. ``made_for`` names the model that the plan was made for, ``floor`` the
    bounds that it was made under, and ``sensitivity`` what a layer alone, coded so, leaves of the final
    latents (of what it gives, where it is an autoencoder's): PSNR in dB.
    """

    layers: Mapping[str, Mapping[str, str]]
    kinds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    granularity: str | None = None
    group_size: int | None = None
    sensitivity: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    floor: Mapping[str, float] = field(default_factory=dict)
    made_for: Mapping[str, Any] = field(default_factory=dict)

    @property
    def schemes(self) -> tuple[str, ...]:
        """The names of all schemes in use, the finest first; ``FLOAT`` is none."""
        used = {name for layers in self.layers.values() for name in layers.values()}
        return tuple(name for name in PALETTES if name in used)


def consts(plan: BitPlan, part: Part, target: Target) -> dict[str, Scheme]:
    """The schemes of a part's weights, by the names that these have in its program; others stay float.

    Raises:
        InputError: the plan's granularity and size of groups contradict each other.
        UnsupportedError: a scheme needs a later system than ``target``.
    """
    made = {
        name: scheme_of(name, granularity=plan.granularity, group_size=plan.group_size, target=target)
        for name in plan.schemes
    }
    given = plan.layers.get(part.role, {})
    return {
        mil_name(weight_of(node).name): made[given[node.scope]]
        for node in layers_of(part.graph)
        if given.get(node.scope, FLOAT) != FLOAT
    }


def palettes_for(target: Target, granularity: str | None, group_size: int | None) -> dict[str, Scheme]:
    """The palettes that a target reads, cut as asked, by name.

    Raises:
        InputError: granularity or size are unknown or contradict each other.
        UnsupportedError: the target has no such palettes.
    """
    return {
        name: scheme_of(name, granularity=granularity, group_size=group_size, target=target)
        for name in PALETTES
        if target != "iOS17" or name != _NEWER
    }
