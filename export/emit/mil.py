"""From a recorded graph to a program in MIL, Core ML's language, weights included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgediff.errors import UnsupportedError
from edgediff.export.emit.graph import Graph, Kind, Node, Port
from edgediff.export.emit.integers import Quantization, Span, computes
from edgediff.export.emit.mil_builder import Builder, Var
from edgediff.export.emit.mil_form import MilForm, Signature
from edgediff.export.emit.mil_lowering import LOWERINGS, channels_first, channels_last
from edgediff.export.emit.mil_model import coremltools
from edgediff.export.emit.mil_names import Names, mil_name
from edgediff.export.emit.mil_weights import Read
from edgediff.export.emit.onnx import KeepFloat
from edgediff.export.emit.onnx_lowering import weight_of
from edgediff.export.emit.reduce_mil import REDUCED
from edgediff.export.emit.sizes import Extents, sizes
from edgediff.mil_ports import feature

__all__ = ["mil_name", "program"]

_SAID = {**LOWERINGS, **REDUCED}

# Angles and the numbers they come from are too coarse in half precision.
_ALWAYS_FLOAT = ("timestep_embedding",)


def _none(node: Node) -> bool:
    """Keep no node in float32."""
    return False


def program(
    graph: Graph,
    read: Read,
    form: MilForm,
    signature: Signature,
    *,
    keep_float: KeepFloat = _none,
    quantization: Quantization | None = None,
) -> Any:
    """Say a graph in MIL; a ``coremltools`` Program, of which :func:`to_model` makes a model.

    Inputs and outputs are float32, ids int32. ``read`` gives the parameters, each is asked for once and
    the program holds what it gives. ``keep_float`` names the nodes that compute in float32 in a program of
    float16. Of ``quantization``, the layers whose choice is ``int8`` are said with integers: their inputs go
    through a pair of quantize and dequantize, and their weights are codes.

    Raises:
        UnsupportedError: coremltools is missing, or the form cannot have several sizes.
        SourceError: a weight is beyond float16.
    """
    ct = coremltools()
    mil = ct.converters.mil
    # Names of constants that belong to one operation are counted here, in a table of the whole process.
    mil.Builder.name_count.clear()
    enumerated = _enumerated(ct, graph, form, signature)
    inputs, outputs = signature.inputs_of(graph), signature.outputs_of(graph)
    taken = Names(feature(signature.name(port)) for port in (*inputs, *outputs))
    known = [sizes(graph, extents) for extents in signature.extents]
    b = Builder(form, read, _integers(graph, quantization), known, taken)
    holders = {feature(signature.name(port)): _placeholder(mil, port, signature) for port in inputs}
    function = mil.Function(holders, opset_version=getattr(ct.target, form.target))
    with function:
        for port in graph.inputs:
            baked = signature.baked.get(port.name)
            given = function.inputs[feature(signature.name(port))] if baked is None else None
            _enter(b, port, signature, given)
        for node in _needed(graph, signature):
            b.enter(node.scope)
            b.half = form.half and node.op not in _ALWAYS_FLOAT and not keep_float(node)
            b.bind(node.output, _SAID[node.op](b, node, [b.read(value) for value in node.inputs]))
        b.enter("")
        b.half = False
        function.set_outputs([_leave(b, port, signature) for port in outputs])
    function.set_input_types(enumerated)
    made = mil.Program()
    made.add_function("main", function)
    return made


def _integers(graph: Graph, quantization: Quantization | None) -> dict[str, Span]:
    """The span of what each layer that computes with integers reads, by the name of its weight."""
    if quantization is None:
        return {}
    layers = [node for node in graph.nodes if computes(node, quantization.choices)]
    return {weight_of(node).name: quantization.spans[node.inputs[0].id] for node in layers}


def _needed(graph: Graph, signature: Signature) -> list[Node]:
    """The nodes that the kept outputs depend on, in order."""
    wanted = {port.value.id for port in signature.outputs_of(graph)}
    found = []
    for node in reversed(graph.nodes):
        if node.output.id in wanted:
            found.append(node)
            wanted |= {value.id for value in node.inputs}
    return found[::-1]


def _placeholder(mil: Any, port: Port, signature: Signature) -> Any:
    """What stands for an input: extents that differ between resolutions have symbols."""
    tensor = signature.tensor(port, ())
    types = mil.mil.types
    known = zip(*_shapes(port, signature), strict=True)
    dims = [each[0] if len(set(each)) == 1 else mil.get_new_symbol() for each in known]
    return mil.Builder.placeholder(shape=dims, dtype=types.int32 if tensor.dtype == "int32" else types.fp32)


def _shapes(port: Port, signature: Signature) -> list[tuple[int, ...]]:
    return [signature.shape(port, extents.get(port.name, ())) for extents in signature.extents]


def _enumerated(ct: Any, graph: Graph, form: MilForm, signature: Signature) -> tuple[Any, ...]:
    """The sizes of the one input that has several.

    Raises:
        UnsupportedError: more than one has, it is no picture, or the form needs to know the size.
    """
    several = [p for p in signature.inputs_of(graph) if len(set(_shapes(p, signature))) > 1]
    if not several:
        return ()
    names = " and ".join(signature.name(port) for port in several)
    if len(several) > 1 or several[0].value.kind is not Kind.IMAGE:
        why = f"{names} would have several, and one picture among a program's inputs can"
    elif form.attention == "split_einsum_v2":
        why = "split_einsum_v2 cuts queries into chunks, whose number must be known; split_einsum does not"
    elif not all(_doubles(graph, sizes(graph, extents)) for extents in signature.extents):
        why = "in one of them a halving rounds; take multiples of the largest scale (64 pixels as a rule)"
    else:
        shapes = ct.EnumeratedShapes(list(dict.fromkeys(_shapes(several[0], signature))))
        return (ct.TensorType(feature(signature.name(several[0])), shape=shapes),)
    raise UnsupportedError(
        f"{graph.name}: {len(signature.extents)} sizes in one package: {why}. Or export a package for each."
    )


def _doubles(graph: Graph, known: Mapping[int, Extents]) -> bool:
    """Whether every picture that takes another's size doubles its own."""
    pairs = [[known[value.id] for value in node.inputs] for node in graph.nodes if node.op == "upsample_like"]
    return all(new == tuple(2 * extent for extent in old) for old, new in pairs)


def _enter(b: Builder, port: Port, signature: Signature, given: Var | None) -> None:
    """Say what holds a port's value; tokens are turned where they are read, in the type of who reads them."""
    kind = port.value.kind
    ids = kind in (Kind.IDS, Kind.LABEL)
    if given is None:
        numbers = np.asarray(signature.baked[port.name], np.int32 if ids else np.float32)
        given = b.op("const", f"{mil_name(feature(signature.name(port)))}__baked", val=numbers)
    elif ids and signature.float_ids:
        given = b.op("cast", x=given, dtype="int32")
    match kind:
        case Kind.TOKENS if port.name not in signature.channels_first:
            b.bind(port.value, given, channels_first)
        case Kind.VECTOR:
            b.bind(port.value, b.reshape(given, -1, port.value.channels, 1, 1))
        case _:
            b.bind(port.value, given)


def _leave(b: Builder, port: Port, signature: Signature) -> Var:
    """A port's value in its public layout, type and name."""
    found, name = b.held(port.value), feature(signature.name(port))
    match port.value.kind:
        case Kind.TOKENS if port.name not in signature.channels_first:
            found = channels_last(b, found)
        case Kind.VECTOR:
            found = b.reshape(found, -1, port.value.channels)
    if found.shape[0] == 1 < signature.batch:
        # What follows from the time alone is the same for all rows.
        found = b.op("concat", values=[found] * signature.batch, axis=0)
    return (
        b.op("cast", name, x=found, dtype="fp32")
        if b.dtype(found) == "fp16"
        else b.op("identity", name, x=found)
    )
