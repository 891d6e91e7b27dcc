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
from edgediff.export.emit.codes import zero_point
from edgediff.export.emit.codes_stored import Coder, runs
from edgediff.export.emit.integers import COMPUTED
from edgediff.export.emit.onnx_builder import Stored
from edgediff.export.tensors import Tensors

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
    """What decides a parameter's bytes. Shapes may differ: those of one form may add axes of length 1, or
    have one element for two codes."""
    name, coding = stored.parameter.name, stored.coding or COMPUTED
    match stored:
        case Stored(piece="bias"):
            partner = stored.partner.name if stored.partner is not None else None
            return name, "bias", coding, partner, stored.scale, stored.bytes
        case Stored(piece="scales"):
            return name, "scales", coding, stored.dtype, stored.scale, stored.bytes
        case Stored(coding=None):
            return name, stored.dtype, stored.transposed, stored.scale, prod(stored.shape)
    return name, "codes", coding, stored.transposed, stored.bytes


def write_bytes(
    stored: tuple[Stored, ...], tensors: Tensors, names: Mapping[str, str], sink: Sink
) -> dict[str, Place]:
    """Write the weights once; their places by initializer.

    ``names`` maps a parameter's name to its tensor's. Tensors follow each other with no gap but alignment.
    Initializers of equal bytes lie in one place.
    """
    at = 0
    places: dict[str, Place] = {}
    written: dict[tuple[Any, ...], Place] = {}
    coder = Coder(tensors, names)
    for each in stored:
        content = _bytes_of(each)
        if content not in written:
            if each.bytes < INLINE:
                written[content] = Place(at, b"".join(_pieces(each, tensors, names, coder)))
            else:
                gap = -at % (_PAGE if each.bytes >= _LARGE else _LINE)
                sink.write(bytes(gap))
                at += gap
                written[content] = Place(at, None)
                for piece in _pieces(each, tensors, names, coder):
                    sink.write(piece)
                at += each.bytes
        places[each.initializer] = written[content]
    return places


def _pieces(
    stored: Stored, tensors: Tensors, names: Mapping[str, str], coder: Coder
) -> Iterator[bytes | memoryview]:
    if stored.coding is None and stored.piece == "codes":
        return pieces(tensors, names[stored.parameter.name], stored)
    return coder.pieces(stored)


def refer(
    model: onnx.ModelProto, stored: tuple[Stored, ...], places: Mapping[str, Place], location: str
) -> None:
    """Give a model its initializers, which lie in the file ``location`` beside it."""
    for each in stored:
        place = places[each.initializer]
        entry = model.graph.initializer.add()
        entry.name = each.initializer
        entry.data_type = _ONNX[each.dtype]
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
    """The stored bytes of a tensor as floats, little-endian.

    Raises:
        SourceError: it holds NaN, Inf or a number that the stored type cannot hold.
    """
    if stored.transposed:
        rows, columns = stored.parameter.shape[0], prod(stored.parameter.shape[1:])
        whole = np.empty((columns, rows), _TYPES[stored.dtype])
        at = 0
        for run in runs(tensors, name):
            flat = run.reshape(len(run), columns)
            whole[:, at : at + len(run)] = _convert(flat, tensors, name, stored).T
            at += len(run)
        yield whole.data.cast("B")
        return
    for run in runs(tensors, name):
        yield _convert(run, tensors, name, stored).tobytes()


_TYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_ONNX = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "uint4": TensorProto.UINT4,
    "int32": TensorProto.INT32,
}


def _convert(run: np.ndarray[Any, Any], tensors: Tensors, name: str, stored: Stored) -> np.ndarray[Any, Any]:
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
    """What an adapter needs to find each parameter in the graphs, by the checkpoint's name.

    A stored number is the checkpoint's times ``scale``; ``transposed`` swaps the axes of matrices. A coded
    one is the nearest integer to the checkpoint's times ``scale`` over what the initializer ``scales`` has
    for its channel or block, plus ``zero_point``; of 4 ``bits``, two are in a byte. Where graphs hold a
    parameter in several forms, ``also`` lists those after the first.
    """
    found: dict[str, Any] = {}
    for each in stored:
        if each.piece == "scales":
            continue
        entry = {
            "initializer": each.initializer,
            "shape": list(each.shape),
            "dtype": each.dtype,
            "transposed": each.transposed,
            "scale": each.scale,
        }
        if each.coding is not None or each.piece == "bias":
            entry |= _coded(each, stored)
        first = found.setdefault(each.parameter.name, entry)
        if first is not entry:
            first.setdefault("also", []).append(entry)
    return found


def _coded(each: Stored, stored: tuple[Stored, ...]) -> dict[str, Any]:
    coding, bias = each.coding or COMPUTED, each.piece == "bias"
    weight = each.partner if bias else each.parameter
    units = next(s for s in stored if s.piece == "scales" and (s.parameter, s.coding) == (weight, coding))
    return {
        "scale": units.scale * (each.scale if bias else 1.0),
        "bits": 32 if bias else coding.bits,
        "block": coding.block,
        "zero_point": 0 if bias else zero_point(coding),
        "scales": units.initializer,
    }


def size_of(stored: tuple[Stored, ...]) -> int:
    """About how many bytes the weights take in the file."""
    return sum(size + _LINE for size in {_bytes_of(each): each.bytes for each in stored}.values())
