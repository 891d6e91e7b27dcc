"""Inputs and outputs of an ONNX graph, read and written, with the names of the extents left open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from edgediff.bundle import Dim, TensorSpec
from edgediff.onnx_values import read_value
from edgediff.protobuf import LENGTH, VARINT, Message, Span, tag

_FIRST, _SECOND = tag(1, LENGTH), tag(2, LENGTH)
_NUMBER = tag(1, VARINT)


def specs(message: Message, spans: Iterable[Span]) -> tuple[TensorSpec, ...]:
    """Return ports as a manifest would state them; a dim of no size and no name is ``?``."""
    found = []
    for span in spans:
        value = read_value(message, *span)
        names = list(names_of(message, *span))
        dims: list[Dim] = [
            name or "?" if size is None else size for size, name in zip(value.dims or (), names, strict=False)
        ]
        found.append(TensorSpec(value.name.decode(), value.dtype, tuple(dims)))
    return tuple(found)


def names_of(message: Message, start: int, end: int) -> Iterator[str]:
    """Yield, for each dim of the port in a span, its name; an empty text where it has none."""
    for dim in _inside(message, [(start, end)], (_SECOND, _FIRST, _SECOND, _FIRST)):
        yield next((message.data[a:b].decode() for key, a, b in message.fields(*dim) if key == _SECOND), "")


def _inside(message: Message, spans: list[Span], path: Sequence[int]) -> list[Span]:
    """The messages that lie along a path of fields: type, its tensor, its shape, its dims."""
    for wanted in path:
        spans = [(a, b) for span in spans for key, a, b in message.fields(*span) if key == wanted]
    return spans


def written(name: str, element: int, dims: Sequence[Dim]) -> bytes:
    """Return a ValueInfoProto; a dim that is an empty text is left open."""
    sizes = (_number(_NUMBER) + _number(d) if isinstance(d, int) else named(d) for d in dims)
    shape = b"".join(field(1, size) for size in sizes)
    tensor = _number(_NUMBER) + _number(element) + field(2, shape)
    return field(1, name.encode()) + field(2, field(1, tensor))


def named(dim: str) -> bytes:
    """Return the inside of a dim that has a name."""
    return field(2, dim.encode()) if dim else b""


def field(number: int, payload: bytes) -> bytes:
    """Return a field that holds bytes, a text or a message."""
    return _number(tag(number, LENGTH)) + _number(len(payload)) + payload


def header(message: Message, kept: frozenset[int]) -> list[bytes]:
    """Return the fields of a model that are in ``kept``, as they are written."""
    found = []
    for key, a, b in message.fields(0, len(message.data)):
        if key in kept:
            own = key & 7 == LENGTH
            found.append(field(key >> 3, message.data[a:b]) if own else _number(key) + _number(a))
    return found


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
