"""Inputs for one small pass through a graph whose dims are known by name alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgediff import golden
from edgediff.bundle import GraphSpec, TensorSpec
from edgediff.errors import BundleError, CheckFailed
from edgediff.runtime import Tensor, find

WORDS = 8


@dataclass(frozen=True, slots=True)
class Extents:
    """What an open dim is in a trial: sides and ``channels`` of pictures or latents, and how many."""

    height: int
    width: int
    channels: int
    batch: int = 1


def feeds(inputs: Sequence[TensorSpec], extents: Extents) -> dict[str, Tensor]:
    """Return small inputs, filled as golden ones are."""
    return golden.inputs({spec.name: (spec.dtype, _shape(spec, extents)) for spec in inputs})


def _shape(spec: TensorSpec, extents: Extents) -> tuple[int, ...]:
    rank = len(spec.dims)
    return tuple(
        dim if isinstance(dim, int) else _extent(dim, place, rank, extents)
        for place, dim in enumerate(spec.dims)
    )


def _extent(name: str, place: int, rank: int, extents: Extents) -> int:
    """Exporters name dims as they like, but they put the batch first and the sides of a picture last."""
    if "packed" in name:  # squares of two by two latents in a row
        return max(1, extents.height // 2) * max(1, extents.width // 2)
    if "sequence" in name:
        return WORDS
    if rank == 4 and place == 1:
        return extents.channels
    if rank == 4 and place >= 2:
        return extents.height if place == 2 else extents.width
    return extents.batch if place == 0 or "batch" in name else WORDS


def one_pass(file: Path, spec: GraphSpec, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scan the graph, load it and run it once; its outputs, each of the stated form and finite.

    Raises:
        CheckFailed: the graph is refused, or its outputs are not what it states.
    """
    try:
        graph = find("streamed").load(spec, file, "cpu", {}, {})
        results = graph(given)
        graph.close()
    except BundleError as error:
        raise CheckFailed(f"{spec.file}: {error}") from error
    for tensor in spec.outputs:
        found = results[tensor.name]
        if found.ndim != len(tensor.dims) or any(
            isinstance(want, int) and want != got for want, got in zip(tensor.dims, found.shape, strict=True)
        ):
            raise CheckFailed(
                f"{spec.file}: {tensor.name} has the shape {found.shape}, expected {tensor.dims}."
            )
        if not np.isfinite(found).all():
            raise CheckFailed(f"{spec.file}: {tensor.name} holds NaN or Inf in a first pass.")
    return results
