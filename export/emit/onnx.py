"""From a recorded graph to an ONNX model without weights, and the list of weights that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from edgediff.export.emit.graph import Graph, Kind, Port
from edgediff.export.emit.onnx_builder import Builder, Storage, Stored
from edgediff.export.emit.onnx_lowering import LOWERINGS, Lowering

_PRODUCER = "edgediff"


@dataclass(frozen=True, slots=True)
class Profile:
    """A form of the graph. ``lowerings`` replaces single operations, ``domains`` says what they need then."""

    name: str
    opset: int = 18
    ir_version: int = 10
    lowerings: Mapping[str, Lowering] = field(default_factory=dict)
    domains: tuple[tuple[str, int], ...] = ()


# Standard operators only; runs on every provider and on ONNX Runtime 1.22 and later, browsers included.
PORTABLE = Profile("portable")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output as the manifest lists it."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Emitted:
    """An ONNX model whose parameters are still to be written, in the order of ``stored``."""

    model: onnx.ModelProto
    stored: tuple[Stored, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def emit(graph: Graph, storage: Storage = "fp32", profile: Profile = PORTABLE) -> Emitted:
    """Say a graph in ONNX. Computation and interface are float32 whatever the storage."""
    b = Builder(storage)
    lowerings = {**LOWERINGS, **profile.lowerings}
    for port in graph.inputs:
        b.bind(port.value, port.name)
    for node in graph.nodes:
        b.enter(node.scope)
        b.bind(node.output, lowerings[node.op](b, node, [b.name(value) for value in node.inputs]))
    _name_outputs(b, graph.outputs)
    inputs, outputs = (tuple(_tensor(port) for port in ports) for ports in (graph.inputs, graph.outputs))
    model = helper.make_model(
        helper.make_graph(
            b.nodes, graph.name, [_info(t) for t in inputs], [_info(t) for t in outputs], b.constants
        ),
        ir_version=profile.ir_version,
        producer_name=_PRODUCER,
        opset_imports=[helper.make_opsetid(*pair) for pair in (("", profile.opset), *profile.domains)],
    )
    return Emitted(model, tuple(b.stored.values()), inputs, outputs)


def _name_outputs(b: Builder, outputs: tuple[Port, ...]) -> None:
    """Give the tensors that leave the graph their public names."""
    names = {b.name(port.value): port.name for port in outputs}
    for node in b.nodes:
        for tensors in (node.input, node.output):
            for i, tensor in enumerate(tensors):
                tensors[i] = names.get(tensor, tensor)


def _tensor(port: Port) -> Tensor:
    channels = port.value.channels
    match port.value.kind:
        case Kind.IMAGE:
            return Tensor(port.name, "float32", ("batch_size", channels, *port.extents))
        case Kind.TOKENS:
            return Tensor(port.name, "float32", ("batch_size", *port.extents, channels))
        case Kind.VECTOR:
            return Tensor(port.name, "float32", ("batch_size", channels))
        case Kind.IDS:
            return Tensor(port.name, "int64", ("batch_size", *port.extents))
    return Tensor(port.name, "float32", (1,))


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    return helper.make_tensor_value_info(tensor.name, kinds[tensor.dtype], tensor.dims)
