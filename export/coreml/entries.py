"""What a manifest says of packages: their files, forms, inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgediff.bundle import TensorSpec
from edgediff.export.coreml.receipt import Written
from edgediff.export.emit.graph import Kind


def components(written: Sequence[Written]) -> dict[str, Any]:
    """The manifest's components: a graph for each role."""
    return {each.role: {"graphs": [_entry(each)]} for each in written}


def _entry(written: Written) -> dict[str, Any]:
    spec = written.spec
    more: dict[str, Any] = {}
    if spec.stages:
        more["stages"] = list(spec.stages)
    if len(written.signature.extents) > 1:
        more["extents"] = _extents(written)
    return {
        "runtime": spec.runtime,
        "profile": spec.profile,
        "file": spec.file,
        "weights": list(spec.weights),
        "precision": spec.precision,
        **more,
        "inputs": [_listed(tensor) for tensor in spec.inputs],
        "outputs": [_listed(tensor) for tensor in spec.outputs],
    }


def _extents(written: Written) -> list[Mapping[str, int]]:
    """The values that the named dims of inputs have together, the default ones first."""
    named = {
        port.name: port.extents
        for port in written.signature.inputs_of(written.part.graph)
        if port.value.kind is Kind.IMAGE
    }
    free = {dim for tensor in written.spec.inputs for dim in tensor.dims if isinstance(dim, str)}
    return [
        {
            name: extent
            for port, names in named.items()
            for name, extent in zip(names, extents[port], strict=True)
            if name in free
        }
        for extents in written.signature.extents
    ]


def _listed(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "dims": list(tensor.dims)}
