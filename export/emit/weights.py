"""Turns a checkpoint's tensors into the bytes that a graph stores, one run of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto

from edgediff.errors import SourceError
from edgediff.export.emit.onnx_builder import Stored
from edgediff.export.tensors import Tensors

_RUN = 8 << 20  # bytes read at a time
_INLINE = 1024  # tensors below this many bytes stay inside the graph
_LARGE, _PAGE, _LINE = 1 << 20, 4096, 64  # large tensors begin at a page, others at a cache line


class Sink(Protocol):
    """Where the bytes go."""

    def write(self, data: Any, /) -> int: ...


def write_weights(
    model: onnx.ModelProto,
    stored: tuple[Stored, ...],
    tensors: Tensors,
    names: Mapping[str, str],
    sink: Sink,
    location: str,
) -> int:
    """Append the weights to ``sink`` and their entries to the model; the number of bytes written.

    ``names`` maps a parameter's name to its tensor's. Tensors follow each other with no gap but alignment.
    """
    at = 0
    for each in stored:
        entry = model.graph.initializer.add()
        entry.name = each.initializer
        entry.data_type = TensorProto.FLOAT if each.dtype == "float32" else TensorProto.FLOAT16
        entry.dims.extend(each.shape)
        source = names[each.parameter.name]
        if each.bytes < _INLINE:
            entry.raw_data = b"".join(pieces(tensors, source, each))
            continue
        gap = -at % (_PAGE if each.bytes >= _LARGE else _LINE)
        sink.write(bytes(gap))
        at += gap
        entry.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(at)), ("length", str(each.bytes))):
            pair = entry.external_data.add()
            pair.key, pair.value = key, value
        for piece in pieces(tensors, source, each):
            sink.write(piece)
        at += each.bytes
    return at


def pieces(tensors: Tensors, name: str, stored: Stored) -> Iterator[bytes | memoryview]:
    """The stored bytes of a tensor, little-endian. NaN, Inf and overflow are errors that name the tensor."""
    if stored.transposed:
        rows, columns = stored.parameter.shape
        whole = np.empty((columns, rows), _TYPES[stored.dtype])
        at = 0
        for run in tensors.rows(name, _RUN):
            flat = run.reshape(len(run), columns)
            whole[:, at : at + len(run)] = _convert(flat, tensors, name, stored).T
            at += len(run)
        yield whole.data.cast("B")
        return
    for run in tensors.rows(name, _RUN):
        yield _convert(run, tensors, name, stored).tobytes()


_TYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


def _convert(run: np.ndarray[Any, Any], tensors: Tensors, name: str, stored: Stored) -> np.ndarray[Any, Any]:
    if not np.isfinite(run).all():
        raise SourceError(
            f"{tensors.entries[name].file}: tensor {name} holds NaN or Inf; the checkpoint is damaged."
        )
    if stored.scale != 1.0:
        run = run.astype(np.float32) * np.float32(stored.scale)
    with np.errstate(over="ignore"):
        made: np.ndarray[Any, Any] = run.astype(_TYPES[stored.dtype], copy=False)
    if made.dtype != run.dtype and not np.isfinite(made).all():
        largest = float(np.abs(run).max())
        raise SourceError(
            f"{tensors.entries[name].file}: tensor {name} reaches {largest:.4g}, "
            f"which {stored.dtype} cannot hold. Export with fp32."
        )
    return made


def describe(stored: tuple[Stored, ...]) -> dict[str, Any]:
    """What an adapter needs to find each parameter in the graph, by the checkpoint's name."""
    return {
        each.parameter.name: {
            "initializer": each.initializer,
            "shape": list(each.shape),
            "dtype": each.dtype,
            "transposed": each.transposed,
            "scale": each.scale,
        }
        for each in stored
    }


def size_of(stored: tuple[Stored, ...]) -> int:
    """About how many bytes the weights take in the file."""
    return sum(prod(each.shape) * _TYPES[each.dtype].itemsize + _LINE for each in stored)
