"""Graphs of a fixed batch, run once for each part of a larger one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgediff.bundle import TensorSpec
from edgediff.errors import InputError
from edgediff.extents import fits
from edgediff.runtime import Graph, GraphInfo, Tensor


def run(graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a graph once, or as often as its fixed batch goes into that of the inputs.

    Inputs whose first extent is the batch are cut; others (a timestep) go into each run as they are.

    Raises:
        InputError: the batch of the inputs is no multiple of the graph's, or the extents of a graph of fixed
            sizes are others.
    """
    cut = _cut(graph.info.inputs, inputs)
    _check_extents(graph.info, inputs)
    if cut is None:
        return graph(inputs)
    size, count = cut
    whole = {n: x for n, x in inputs.items() if x.ndim < 1 or len(x) != count}
    rows = {n: x for n, x in inputs.items() if n not in whole}
    parts = [
        graph({**whole, **{n: x[at : at + size] for n, x in rows.items()}}) for at in range(0, count, size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _cut(specs: Sequence[TensorSpec], inputs: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """The graph's batch and that of the inputs, where they differ."""
    found = None
    for spec in specs:
        given = inputs.get(spec.name)
        if given is None or given.ndim < 2 or len(spec.dims) != given.ndim:
            continue
        batch = spec.dims[0]
        for want, got in zip(spec.dims[1:], given.shape[1:], strict=True):
            if isinstance(batch, int) and isinstance(want, int) and want != got:
                shape = ", ".join(map(str, spec.dims))
                raise InputError(
                    f"{spec.name}: this form of the graph takes the shape ({shape}), not {given.shape}; ask "
                    "for the size that it was made for, or for a device that takes the portable form."
                )
        if isinstance(batch, int) and batch != len(given):
            if len(given) % batch:
                raise InputError(
                    f"{spec.name}: a batch of {len(given)} is no multiple of the {batch} that this form of "
                    "the graph takes; ask for another number of pictures."
                )
            found = (batch, len(given))
    return found


def _check_extents(info: GraphInfo, inputs: Mapping[str, Tensor]) -> None:
    """Refuse sizes that a graph of several does not list."""
    if not info.extents:
        return
    for spec in info.inputs:
        shape = inputs[spec.name].shape if spec.name in inputs else ()
        bound = {dim: got for dim, got in zip(spec.dims, shape, strict=False) if isinstance(dim, str)}
        if not fits(info.extents, bound):
            names = sorted({dim for each in info.extents for dim in each if dim in bound})
            known = [f"({', '.join(str(each.get(name, 'any')) for name in names)})" for each in info.extents]
            raise InputError(
                f"{spec.name}: this form of the graph takes {', '.join(names)} of "
                f"{' or '.join(dict.fromkeys(known))}, not {shape}; ask for a size that it was made for."
            )
