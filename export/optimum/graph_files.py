"""What an ONNX file that somebody else wrote takes and gives, and where its weights lie."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgediff import links
from edgediff.bundle import Dim, TensorSpec
from edgediff.errors import SourceError, UnsupportedError
from edgediff.export.write import Folder

_LIMIT = 2 << 30  # protobuf's own
_DTYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}
_HALVES = {10, 16}
_EIGHT, _FOUR = {2, 3, 17, 18, 19, 20, 24}, {21, 22, 23, 25, 26}
# Operators that make integers of activations while the graph runs.
_ACTIVATIONS = {"QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv"}


@dataclass(frozen=True, slots=True)
class GraphFile:
    """A graph's inputs and outputs, the files beside it that hold weights, and the shapes of its tensors."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[str, ...]
    precision: str
    shapes: Mapping[str, tuple[int, ...]]


def read_graph(path: Path) -> GraphFile:
    """Read a graph without its weights.

    Raises:
        SourceError: it is no ONNX graph, or its weights lie elsewhere than beside it.
        UnsupportedError: an input or output is of a type that edgediff does not feed.
    """
    model = _loaded(path)
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return GraphFile(
        inputs=tuple(_spec(path, v) for v in graph.input if v.name not in shapes),
        outputs=tuple(_spec(path, v) for v in graph.output),
        weights=_weights(path, graph),
        precision=_precision(graph),
        shapes=shapes,
    )


def _loaded(path: Path) -> Any:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            kind = links.wrong_kind(file.read(64))
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}).") from error
    if kind is not None:
        raise SourceError(f"{path}: expected an ONNX graph; this is {kind}.")
    if size > _LIMIT:
        raise SourceError(f"{path}: {size} bytes are more than a graph may have; export the model again.")
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors share no base but this
        raise SourceError(f"{path}: not an ONNX graph ({str(error)[:200]}).") from error


def _spec(path: Path, value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    if tensor.elem_type not in _DTYPES or not tensor.HasField("shape"):
        raise UnsupportedError(
            f"{path}: {value.name} is of type {tensor.elem_type} or of no stated shape; edgediff feeds "
            f"{', '.join(_DTYPES.values())}. Export the model again, in fp32."
        )
    dims = tuple(_dim(value.name, i, dim) for i, dim in enumerate(tensor.shape.dim))
    return TensorSpec(value.name, _DTYPES[tensor.elem_type], dims)


def _dim(name: str, place: int, dim: Any) -> Dim:
    if dim.dim_value > 0:
        return int(dim.dim_value)
    return str(dim.dim_param)[:64] or f"{name[:50]}_{place}"


def _weights(path: Path, graph: Any) -> tuple[str, ...]:
    found = set()
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            found |= {pair.value for pair in tensor.external_data if pair.key == "location"}
    for name in found:
        if "/" in name or "\\" in name or name in ("", ".", "..") or ":" in name:
            raise SourceError(
                f"{path}: its weights lie in {name[:80]!r}, and only a file beside the graph is taken. "
                "Export the model again."
            )
    return tuple(sorted(found))


def _precision(graph: Any) -> str:
    """The label of a graph's matrices, as the scan understands it."""
    kinds = {t.data_type for t in graph.initializer if len(t.dims) > 1 and any(d > 1 for d in t.dims)}
    operators = {node.op_type for node in graph.node}
    if kinds & _FOUR or "MatMulNBits" in operators:
        return "int4-weights"
    if kinds & _EIGHT:
        return "int8" if operators & _ACTIVATIONS else "int8-weights"
    return "fp16" if kinds & _HALVES else "fp32"


def copy_into(folder: Folder, name: str, source: Path, take: bool = False) -> None:
    """Copy a file into a folder that is being written, without taking space where the file system can.

    With ``take`` it is moved; both folders are then on one file system.

    Never a hard link: what two folders share could be changed through either, so edgediff refuses to open
    such a file where no manifest says what it must hold, and the source has none.
    """
    path = folder.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if take:
        source.rename(path)
    else:
        with source.open("rb") as reading, path.open("xb") as writing:
            if not _cloned(reading.fileno(), writing.fileno()):
                shutil.copyfileobj(reading, writing, 1 << 20)
            writing.flush()
            os.fsync(writing.fileno())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder.files[name] = {"bytes": path.stat().st_size, "sha256": digest}


def _cloned(source: int, target: int) -> bool:
    """Let the kernel copy: on Btrfs, XFS and their like the copy shares its blocks with the original."""
    if sys.platform != "linux":
        return False
    copied = 0
    try:
        while count := os.copy_file_range(source, target, 1 << 30):
            copied += count
    except OSError:  # another file system, or a kernel that cannot; nothing was written if it was the first
        if copied:
            raise
    return copied > 0
