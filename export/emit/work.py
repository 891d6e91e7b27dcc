"""A pass: the work of a network for inputs of any size, as the terms that a manifest holds.

The passes :mod:`edgediff.export.emit.sizes` and :mod:`.flops` run on extents that are formulae. What they
come to is a sum of terms, each a number times some extents of the inputs, divided and rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from edgediff.export.emit.flops import counts
from edgediff.export.emit.graph import Graph
from edgediff.export.emit.sizes import Extents, sizes


def work_terms(graph: Graph) -> list[dict[str, Any]]:
    """The work of one row of the batch, as ``components.ROLE.work`` of a manifest holds it; empty where an
    operation changes extents in a way for which there is no formula.

    Halving that rounds down is said as rounding up: those networks take no sizes for which that differs.
    """
    inputs = {port.name: cast(Extents, tuple(Formula.of(name) for name in port.extents))
              for port in graph.inputs}  # fmt: skip
    found: dict[tuple[str, tuple[tuple[str, int], ...]], int] = {}
    try:
        for kind, count in counts(graph, sizes(graph, inputs)):
            formula = count if isinstance(count, Formula) else Formula(count)
            key = (kind, tuple(sorted(formula.extents)))
            found[key] = found.get(key, 0) + formula.factor
    except NotAFormula:
        return []
    return [
        {"class": kind, "flops": factor, "per": [{"dim": dim, "over": over} for dim, over in extents]}
        for (kind, extents), factor in sorted(found.items())
    ]


class NotAFormula(Exception):
    """Some operation on extents cannot be said as a formula."""


@dataclass(frozen=True, slots=True)
class Formula:
    """``factor`` times the product of extents, each of an input's dim divided by a number and rounded up."""

    factor: int
    extents: tuple[tuple[str, int], ...] = ()

    @staticmethod
    def of(dim: str) -> Formula:
        """The extent of an input."""
        return Formula(1, ((dim, 1),))

    def __mul__(self, other: int | Formula) -> Formula:
        if isinstance(other, int):
            return Formula(self.factor * other, self.extents)
        return Formula(self.factor * other.factor, self.extents + other.extents)

    __rmul__ = __mul__

    def __add__(self, rounding: int) -> Formula:
        """What comes before a division that rounds up."""
        if rounding not in (0, 1):
            raise NotAFormula
        return self

    def __floordiv__(self, by: int) -> Formula:
        if self.factor % by == 0:
            return Formula(self.factor // by, self.extents)
        if self.factor != 1 or len(self.extents) != 1:
            raise NotAFormula
        ((dim, over),) = self.extents
        return Formula(1, ((dim, over * by),))

    def __truediv__(self, by: int) -> Formula:
        """What comes before ``math.ceil``."""
        return self // by

    def __ceil__(self) -> Formula:
        return self
