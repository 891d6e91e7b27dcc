"""From a recorded graph to an ONNX model without weights, and the list of weights that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from edgediff.export.emit.graph import Graph, Kind, Node, Port, Value
from edgediff.export.emit.integers import IntegerForm, Quantization, observed
from edgediff.export.emit.onnx_builder import Builder, Rewrite, Storage, Stored
from edgediff.export.emit.onnx_integers import codings_of, held, offered, pairs, without_unread
from edgediff.export.emit.onnx_integers_direct import direct
from edgediff.export.emit.onnx_lowering import LOWERINGS, Lowering
from edgediff.export.emit.onnx_taps import holding, tap
from edgediff.export.emit.reduce_onnx import REDUCED
from edgediff.export.emit.sizes import Extents, sizes

_PRODUCER = "edgediff"
# Angles and the numbers they come from are too coarse in half precision.
_ALWAYS_FLOAT = ("timestep_embedding",)

Plan = Callable[[Graph], Mapping[int, Rewrite]]
"""Rewrites by the id of the value whose node they take the place of."""
KeepFloat = Callable[[Node], bool]
_SYMMETRIC = IntegerForm()


def _nothing(graph: Graph) -> dict[int, Rewrite]:
    """Rewrite nothing."""
    return {}


def _none(node: Node) -> bool:
    """Keep no node in float32."""
    return False


@dataclass(frozen=True, slots=True)
class Profile:
    """A form of the graph for one execution provider.

    ``lowerings`` replaces single operations and ``plan`` several at once; ``domains`` says which operator
    sets they need. ``half``: compute in float16 where weights are stored so (inputs and outputs stay
    float32). ``channels_last``: images are (B, H, W, C) inside. ``fixed``: extents are numbers.
    """

    name: str
    opset: int = 18
    ir_version: int = 10
    lowerings: Mapping[str, Lowering] = field(default_factory=dict)
    domains: tuple[tuple[str, int], ...] = ()
    plan: Plan = _nothing
    half: bool = False
    channels_last: bool = False
    fixed: bool = False
    integers: IntegerForm = _SYMMETRIC


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


def emit(
    graph: Graph,
    storage: Storage = "fp32",
    profile: Profile = PORTABLE,
    *,
    extents: Mapping[str, Extents] | None = None,
    batch: int = 1,
    keep_float: KeepFloat = _none,
    quantization: Quantization | None = None,
    taps: Sequence[Value] = (),
) -> Emitted:
    """Say a graph in ONNX; its inputs and outputs are float32 whatever the storage.

    ``extents`` (those of each input, by name) and ``batch`` are for profiles of fixed extents.
    ``keep_float`` names the nodes that stay float32 in a profile that computes in half precision: those
    whose results float16 cannot hold. ``quantization`` says which layers are said with integers. ``taps``
    are values of which the graph gives the smallest and the largest number and a sample, as further outputs:
    ``tap.<id>.low``, ``tap.<id>.high`` and ``tap.<id>.sample``.

    Raises:
        ValueError: the profile has fixed extents and none are given.
        UnsupportedError: a layer is to be said with integers in a way that the profile has no form for.
    """
    if profile.fixed and extents is None:
        raise ValueError(f"{profile.name}: the extents of {graph.name} are missing")
    layers = Quantization() if quantization is None else quantization
    offered(graph, layers, profile.integers, profile.name)
    b = Builder(storage, codings_of(graph, layers))
    b.rows = not profile.integers.direct and bool(observed(graph, layers.choices))
    b.shapes = _shapes(graph, extents, batch) if profile.fixed and extents is not None else {}
    lowerings = {**LOWERINGS, **REDUCED, **profile.lowerings}
    seen = holding(graph, taps)
    plan = {
        **profile.plan(holding(seen, held(graph, layers))),
        **(direct if profile.integers.direct else pairs)(seen, layers, profile.integers, lowerings),
    }
    for port in graph.inputs:
        b.bind(port.value, port.name)
        if profile.channels_last and port.value.kind is Kind.IMAGE:
            b.bind(port.value, b.node("Transpose", port.name, perm=[0, 2, 3, 1]))
    half = profile.half and storage == "fp16"
    for node in graph.nodes:
        if b.has(node.output):
            continue
        b.enter(node.scope)
        b.half = half and node.op not in _ALWAYS_FLOAT and not keep_float(node)
        rewrite = plan.get(node.output.id)
        if rewrite is not None:
            rewrite(b)
        else:
            b.bind(node.output, lowerings[node.op](b, node, [b.read(value) for value in node.inputs]))
    tapped = [tap(b, value) for value in dict.fromkeys(taps)]
    _name_outputs(b, graph.outputs, profile.channels_last)
    inputs, outputs = (
        tuple(_tensor(port, b.shapes.get(port.value.id)) for port in ports)
        for ports in (graph.inputs, graph.outputs)
    )
    for low, high, sample in tapped:
        outputs += (Tensor(low, "float32", ()), Tensor(high, "float32", ()))
        outputs += (Tensor(sample, "float32", (sample,)),)
    model = helper.make_model(
        helper.make_graph(
            without_unread(b.nodes, [tensor.name for tensor in outputs]),
            graph.name,
            [_info(t) for t in inputs],
            [_info(t) for t in outputs],
            b.constants,
        ),
        ir_version=profile.ir_version,
        producer_name=_PRODUCER,
        opset_imports=[
            helper.make_opsetid(*pair) for pair in (("", max(profile.opset, b.opset)), *profile.domains)
        ],
    )
    return Emitted(model, tuple(b.stored.values()), inputs, outputs)


def _name_outputs(b: Builder, outputs: tuple[Port, ...], channels_last: bool) -> None:
    """Give the tensors that leave the graph their public names, type and layout."""
    b.enter("")
    b.half = False
    names: dict[str, str] = {}
    for port in outputs:
        tensor = b.read(port.value)
        if channels_last and port.value.kind is Kind.IMAGE:
            tensor = b.node("Transpose", tensor, perm=[0, 3, 1, 2])
        names[tensor] = port.name
    for node in b.nodes:
        for tensors in (node.input, node.output):
            for i, tensor in enumerate(tensors):
                tensors[i] = names.get(tensor, tensor)


def _shapes(graph: Graph, extents: Mapping[str, Extents], batch: int) -> dict[int, tuple[int, ...]]:
    """The shapes of the values that have a batch axis for certain, by id."""
    known = sizes(graph, extents)
    batchless = {
        node.output.id
        for node in graph.nodes
        if node.op in ("positions", "windows") or node.attributes.get("windows", 1) != 1
    }
    values = [port.value for port in graph.inputs] + [node.output for node in graph.nodes]
    found: dict[int, tuple[int, ...]] = {}
    for value in values:
        match value.kind:
            case Kind.IMAGE:
                found[value.id] = (batch, value.channels, *known[value.id])
            case Kind.TOKENS if value.id not in batchless:
                found[value.id] = (batch, *known[value.id], value.channels)
            case Kind.IDS | Kind.LABEL:
                found[value.id] = (batch, *known[value.id])
    for port in (*graph.inputs, *graph.outputs):
        if port.value.kind is Kind.VECTOR:
            found[port.value.id] = (batch, port.value.channels)
    return found


def _tensor(port: Port, shape: tuple[int, ...] | None) -> Tensor:
    channels = port.value.channels
    dims: tuple[int | str, ...] = (1,)
    match port.value.kind:
        case Kind.IMAGE:
            dims = ("batch_size", channels, *port.extents)
        case Kind.TOKENS:
            dims = ("batch_size", *port.extents, channels)
        case Kind.VECTOR:
            dims = ("batch_size", channels)
        case Kind.IDS | Kind.LABEL:
            dims = ("batch_size", *port.extents)
    dtype = "int64" if port.value.kind in (Kind.IDS, Kind.LABEL) else "float32"
    return Tensor(port.name, dtype, dims if shape is None else shape)


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    return helper.make_tensor_value_info(tensor.name, kinds[tensor.dtype], tensor.dims)
