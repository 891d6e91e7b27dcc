"""Inputs and outputs of an ONNX graph, as the file states them and against what the manifest says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgediff.bundle import TensorSpec
from edgediff.onnx_tensors import MAX_RANK, shown
from edgediff.protobuf import LENGTH, VARINT, Fault, Message, Span, signed, small, tag

_DTYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}
_FIRST, _SECOND, _THIRD, _FOURTH = (tag(n, LENGTH) for n in (1, 2, 3, 4))
_DENOTATION = tag(6, LENGTH)
_NUMBER = tag(1, VARINT)


class Value(NamedTuple):
    """An input or output; None is a dim that the graph leaves open, or dims that it does not state at all."""

    name: bytes
    dtype: str
    dims: tuple[int | None, ...] | None


def read_value(message: Message, start: int, end: int) -> Value:
    """Return the ValueInfoProto in a span.

    Raises:
        Fault: it is damaged, or no tensor of a type that edgediff feeds.
    """
    name, kind, shape, dtype = b"", None, None, 0
    for key, a, b in message.fields(start, end):
        if key == _FIRST:
            name = message.data[a:b]
        elif key == _SECOND:
            kind = _only(kind, (a, b))
        elif key not in (_THIRD, _FOURTH):  # a text and metadata
            raise Fault(f"an input or output has the unknown field {key >> 3}")
    tensor = None
    for key, a, b in message.fields(*kind) if kind is not None else ():
        if key == _FIRST:
            tensor = _only(tensor, (a, b))
        elif key != _DENOTATION:
            raise Fault(f"the input or output {shown(name)} is no plain tensor")
    for key, a, b in message.fields(*tensor) if tensor is not None else ():
        if key == _NUMBER:
            dtype = small(a)
        elif key == _SECOND:
            shape = _only(shape, (a, b))
        else:
            raise Fault(f"the input or output {shown(name)} has the unknown field {key >> 3}")
    if dtype not in _DTYPES:
        raise Fault(f"the input or output {shown(name)} is of type {dtype}, which edgediff does not feed")
    return Value(name, _DTYPES[dtype], None if shape is None else _dims(message, *shape))


def _dims(message: Message, start: int, end: int) -> tuple[int | None, ...]:
    found: list[int | None] = []
    for key, a, b in message.fields(start, end):
        if key != _FIRST or len(found) >= MAX_RANK:
            raise Fault("the shape of an input or output cannot be read")
        size = None
        for inner, value, _ in message.fields(a, b):
            if inner == _NUMBER:
                size = signed(value)
            elif inner == _SECOND:  # a name; of the two the last one counts
                size = None
            elif inner != _THIRD:
                raise Fault(f"a dim of an input or output has the unknown field {inner >> 3}")
        if size is not None and size < 0:
            raise Fault(f"an input or output has a dim of {size}")
        found.append(size)
    return tuple(found)


def _only(before: Span | None, span: Span) -> Span:
    if before is not None:  # readers would join them
        raise Fault("an input or output has two types")
    return span


def check_values(what: str, stated: Sequence[TensorSpec], there: Sequence[Value]) -> None:
    """Compare what the manifest states with what the graph has.

    Raises:
        Fault: a tensor is missing, one too many, of another type or rank, or of another fixed dim.
    """
    have = {value.name: value for value in there}
    want = {spec.name.encode(): spec for spec in stated}
    if have.keys() != want.keys():
        raise Fault(
            f"the manifest has the {what}s {', '.join(map(shown, want)):.200} and the graph has "
            f"{', '.join(map(shown, have)):.200}"
        )
    for name, spec in want.items():
        value = have[name]
        if value.dtype != spec.dtype or (value.dims is not None and not _fits(spec, value.dims)):
            dims = ["?" if d is None else d for d in value.dims or ()]
            raise Fault(
                f"the {what} {shown(name)} is {spec.dtype} {list(spec.dims)!r:.80} in the manifest and "
                f"{value.dtype} {dims!r:.80} in the graph"
            )


def _fits(spec: TensorSpec, dims: tuple[int | None, ...]) -> bool:
    """A manifest may fix what a graph leaves open; it cannot free what the graph fixes."""
    pairs = zip(spec.dims, dims, strict=False)
    return len(spec.dims) == len(dims) and all(d is None or d == s for s, d in pairs)
