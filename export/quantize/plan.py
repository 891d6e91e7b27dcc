"""Which layer of which graph gets what, and why. A plan is portable: it names modules, never numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgediff.export.emit.integers import Choice

SCHEMES = ("fp16", "int8", "int8-weights", "int4-weights", "mixed")
REDUCED = "reduced"
"""What a receipt calls a bundle of which nothing but the attention was changed."""
CHOICES: tuple[Choice, ...] = ("float", "int8", "int8-weights", "int4-weights")
Sensitivity = Mapping[str, Mapping[str, Mapping[Choice, float]]]


@dataclass(frozen=True, slots=True)
class Decision:
    """What one layer gets, and the reason in a few words."""

    choice: Choice
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions by role and by the layer's scope (its module's path in the checkpoint).

    ``kinds`` says what operation each layer is, in the same order; ``made_for`` names the model that the plan
    was made for, ``floor`` the limits it was made under. ``sensitivity`` is what was measured, by role, scope
    and choice: the signal-to-noise ratio in dB of the graph's output with this layer alone quantized so.
    """

    scheme: str
    layers: Mapping[str, Mapping[str, Decision]]
    kinds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    made_for: Mapping[str, Any] = field(default_factory=dict)
    floor: Mapping[str, float] = field(default_factory=dict)
    sensitivity: Sensitivity = field(default_factory=dict)

    def choices(self, role: str) -> dict[str, Choice]:
        """The choices for one graph, without the reasons."""
        return {scope: decision.choice for scope, decision in self.layers.get(role, {}).items()}
