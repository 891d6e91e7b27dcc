"""The inputs and outputs of a network as a manifest lists them, whatever packages it is cut into."""

from __future__ import annotations

from collections.abc import Sequence

from edgediff.bundle import TensorSpec
from edgediff.export.emit.graph import Graph, Port
from edgediff.export.emit.mil_form import Signature, tensors_of
from edgediff.export.emit.onnx import Tensor
from edgediff.export.emit.sizes import sizes

Side = tuple[TensorSpec, ...]


def public(graph: Graph, signature: Signature) -> tuple[Side, Side]:
    """Inputs and outputs; a dim that differs between the sizes has its name in place of a number."""
    ports = (signature.inputs_of(graph), signature.outputs_of(graph))
    listed = [tensors_of(graph, signature, sizes(graph, extents)) for extents in signature.extents]
    inputs, outputs = (
        tuple(_joined(port, [each[side][i] for each in listed]) for i, port in enumerate(ports[side]))
        for side in (0, 1)
    )
    return inputs, outputs


def _joined(port: Port, found: Sequence[Tensor]) -> TensorSpec:
    first = found[0]
    dims: list[int | str] = list(first.dims)
    for at, dim in enumerate(first.dims):
        if any(each.dims[at] != dim for each in found):
            # Only pictures vary: (B, C, H, W).
            dims[at] = port.extents[at - 2]
    return TensorSpec(first.name, first.dtype, tuple(dims))
