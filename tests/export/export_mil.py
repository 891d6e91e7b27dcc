"""Makes Core ML packages of recorded graphs with random weights, and runs them with the interpreter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from export_helpers import Array, random_tensor, run, write_safetensors

from edgediff.bundle import GraphSpec
from edgediff.export.emit.graph import Graph, Kind, Parameter
from edgediff.export.emit.mil import program
from edgediff.export.emit.mil_form import MilForm, Signature
from edgediff.export.emit.mil_model import coremltools, to_model
from edgediff.export.emit.onnx import emit
from edgediff.export.emit.sizes import Extents
from edgediff.export.emit.weights import write_weights
from edgediff.export.tensors import TensorFiles
from edgediff.mil_ports import feature
from edgediff.runtimes import mil


class Weights:
    """Random numbers for a graph's parameters."""

    def __init__(self, graph: Graph, **changes: Array) -> None:
        rng = np.random.default_rng(0)
        self.arrays = {p.name: random_tensor(p, rng) for p in graph.parameters} | changes
        self.read: Counter[str] = Counter()

    def __call__(self, parameter: Parameter) -> Array:
        self.read[parameter.name] += 1
        return self.arrays[parameter.name]


def packaged(
    graph: Graph,
    folder: Path,
    form: MilForm,
    signature: Signature,
    weights: Weights | None = None,
    **more: Any,
) -> Path:
    """Write a graph's package."""
    path = folder / f"{graph.name}.mlpackage"
    to_model(program(graph, weights or Weights(graph), form, signature, **more), form).save(str(path))
    return path


def interpreted(path: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs of a package by its own names."""
    spec = GraphSpec("coreml", "original", "model.mlmodel", "fp32", (), (), ())
    loaded = mil.runtime().load(spec, path, "cpu", {}, {})
    try:
        return dict(loaded({feature(name): value for name, value in inputs.items()}))
    finally:
        loaded.close()


def results(path: Path, graph: Graph, signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the graph's ONNX form would give, from its package."""
    found = interpreted(path, signature.feeds(graph, inputs))
    public = {
        signature.name(port): found[feature(signature.name(port))] for port in signature.outputs_of(graph)
    }
    return signature.results(graph, public)


def exact(
    graph: Graph, folder: Path, inputs: Mapping[str, Array], weights: Weights | None = None
) -> dict[str, Array]:
    """What the graph's ONNX form gives in float32."""
    arrays = (weights or Weights(graph)).arrays
    write_safetensors(folder / "exact.safetensors", arrays)
    emitted = emit(graph)
    with (folder / "exact.onnx_data").open("wb") as file:
        tensors = TensorFiles([folder / "exact.safetensors"])
        write_weights(emitted.model, emitted.stored, tensors, {n: n for n in arrays}, file, "exact.onnx_data")
    (folder / "exact.onnx").write_bytes(emitted.model.SerializeToString())
    ids = [port.name for port in graph.inputs if port.value.kind in (Kind.IDS, Kind.LABEL)]
    return run(folder / "exact.onnx", {n: v.astype(np.int64) if n in ids else v for n, v in inputs.items()})


def inputs_of(graph: Graph, extents: Mapping[str, Extents], batch: int) -> dict[str, Array]:
    """Random inputs of these extents, as the ONNX form takes them."""
    rng = np.random.default_rng(1)
    found: dict[str, Array] = {}
    for port in graph.inputs:
        channels, places = port.value.channels, extents.get(port.name, ())
        match port.value.kind:
            case Kind.TIME:
                found[port.name] = np.array([0.7 if "scale" in port.name else 617.25], np.float32)
            case Kind.IDS:
                found[port.name] = sentences(batch, *places)
            case Kind.LABEL:
                found[port.name] = rng.integers(0, 20, batch)
            case Kind.IMAGE:
                found[port.name] = rng.standard_normal((batch, channels, *places), np.float32)
            case Kind.TOKENS:
                found[port.name] = rng.standard_normal((batch, *places, channels), np.float32)
            case _ if channels == 1 or port.name == "time_ids":
                found[port.name] = rng.integers(0, 1024, (batch, channels)).astype(np.float32)
            case _:
                found[port.name] = rng.standard_normal((batch, channels), np.float32)
    return found


def sentences(batch: int, length: int) -> Array:
    """Ids of texts that end at different places; the end comes again, as padding."""
    ids = np.random.default_rng(3).integers(3, 37, (batch, length))
    for i in range(batch):
        ids[i, max(1, length - 2 - i) :] = 39
    return ids


def snr(found: Array, wanted: Array) -> float:
    """Signal over error in decibels."""
    lost = np.square(found.astype(np.float64) - wanted).mean()
    return float(10 * np.log10(np.square(wanted.astype(np.float64)).mean() / max(lost, 1e-30)))


def operations(made: Any) -> list[Any]:
    """The operations of a program, constants left out."""
    return [op for op in made.functions["main"].operations if op.op_type != "const"]


def dtype(var: Any) -> str:
    """The name that a program gives the type of a variable's numbers: ``fp16``, ``int32``, ..."""
    name: str = coremltools().converters.mil.mil.types.builtin_to_string(var.dtype)
    return name
