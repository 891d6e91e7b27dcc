"""How much a network computes at a size: the terms in the manifest, evaluated for the extents of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgediff.bundle import TensorSpec

CLASSES = ("conv", "linear", "attention")


@dataclass(frozen=True, slots=True)
class Term:
    """``flops`` of a class of operations for every place of a grid: the product of ``per``, which are named
    extents of the inputs, each divided by a number and rounded up. A multiply-add counts as two."""

    kind: str
    flops: int
    per: tuple[tuple[str, int], ...]

    def at(self, extents: Mapping[str, int]) -> int:
        """Return the operations for such extents."""
        count = self.flops
        for dim, over in self.per:
            count *= ceil(extents[dim] / over)
        return count


def flops(
    terms: Sequence[Term], specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]]
) -> dict[str, int] | None:
    """Return the operations of one run by class, for inputs of ``shapes``; None where the terms need an
    extent that the inputs do not tell, or there are no terms."""
    extents: dict[str, int] = {}
    rows = 1
    for spec in specs:
        for i, (dim, extent) in enumerate(zip(spec.dims, shapes.get(spec.name, ()), strict=False)):
            if isinstance(dim, str):
                extents[dim] = extent
                rows = max(rows, extent) if i == 0 and "batch" in dim else rows
    if not terms or any(dim not in extents for term in terms for dim, _ in term.per):
        return None
    found = dict.fromkeys(CLASSES, 0)
    for term in terms:
        found[term.kind] += rows * term.at(extents)
    return found
