"""Turns a checkpoint's tensors into the bytes that a graph stores, one run of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto

from edgediff.errors import SourceError
from edgediff.export.emit.onnx_builder import Stored
from edgediff.export.tensors import Tensors

_RUN = 8 << 20  # bytes read at a time
INLINE = 1024  # tensors below this many bytes stay inside the graph
_LARGE, _PAGE, _LINE = 1 << 20, 4096, 64  # large tensors begin at a page, others at a cache line


class Sink(Protocol):
    """Where the bytes go."""

    def write(self, data: Any, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter's bytes are: at ``offset`` of the weights file, or in the graph where ``inline``."""

    offset: int
    inline: bytes | None


def joined(forms: Iterable[tuple[Stored, ...]]) -> tuple[Stored, ...]:
    """Every parameter of several forms of a network once, in the order of first use.

    Raises:
        ValueError: two forms want different bytes of one parameter, and so cannot share a file.
    """
    found: dict[str, Stored] = {}
    for form in forms:
        for each in form:
            first = found.setdefault(each.initializer, each)
            if _bytes_of(first) != _bytes_of(each):
                raise ValueError(f"{each.initializer}: {_bytes_of(first)} and {_bytes_of(each)}")
    return tuple(found.values())


def _bytes_of(stored: Stored) -> tuple[Any, ...]:
    """What decides a parameter's bytes. Shapes may differ: those of one form may add axes of length 1."""
    return stored.parameter.name, stored.dtype, stored.transposed, stored.scale, prod(stored.shape)


def write_bytes(
    stored: tuple[Stored, ...], tensors: Tensors, names: Mapping[str, str], sink: Sink
) -> dict[str, Place]:
    """Write the weights once; their places by initializer.

    ``names`` maps a parameter's name to its tensor's. Tensors follow each other with no gap but alignment.
    """
    at = 0
    places: dict[str, Place] = {}
    for each in stored:
        source = names[each.parameter.name]
        if each.bytes < INLINE:
            places[each.initializer] = Place(at, b"".join(pieces(tensors, source, each)))
            continue
        gap = -at % (_PAGE if each.bytes >= _LARGE else _LINE)
        sink.write(bytes(gap))
        at += gap
        places[each.initializer] = Place(at, None)
        for piece in pieces(tensors, source, each):
            sink.write(piece)
        at += each.bytes
    return places


def refer(
    model: onnx.ModelProto, stored: tuple[Stored, ...], places: Mapping[str, Place], location: str
) -> None:
    """Give a model its initializers, which lie in the file ``location`` beside it."""
    for each in stored:
        place = places[each.initializer]
        entry = model.graph.initializer.add()
        entry.name = each.initializer
        entry.data_type = TensorProto.FLOAT if each.dtype == "float32" else TensorProto.FLOAT16
        entry.dims.extend(each.shape)
        if place.inline is not None:
            entry.raw_data = place.inline
            continue
        entry.data_location = TensorProto.EXTERNAL
        where = (("location", location), ("offset", str(place.offset)), ("length", str(each.bytes)))
        for key, value in where:
            pair = entry.external_data.add()
            pair.key, pair.value = key, value


def write_weights(
    model: onnx.ModelProto,
    stored: tuple[Stored, ...],
    tensors: Tensors,
    names: Mapping[str, str],
    sink: Sink,
    location: str,
) -> None:
    """Write the weights of one model and give it its initializers."""
    refer(model, stored, write_bytes(stored, tensors, names, sink), location)


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
