"""Constants of MIL as they stand in a model file: what they claim against the bytes they have."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from numpy.typing import NDArray

from edgediff.mil_numbers import from_bytes, varints
from edgediff.mil_program import BITS, Blob, Constant, TypeOf
from edgediff.mil_types import once, only_field, read_type, text, unknown
from edgediff.onnx_tensors import shown
from edgediff.protobuf import LENGTH, VARINT, Fault, Message, Span, tag

WEIGHTS = "@model_path/weights/weight.bin"  # the one file beside the model that is read

_ONE, _TWO, _THREE, _FIVE = (tag(n, LENGTH) for n in (1, 2, 3, 5))
_SECOND_NUMBER = tag(2, VARINT)
_FLOATS, _INTS, _BOOLS, _STRINGS, _LONGS, _DOUBLES, _BYTES = (tag(n, LENGTH) for n in range(1, 8))
# Which of TensorValue's lists holds the elements of a type, as every writer has it.
_STORED = {
    "float32": _FLOATS, "float64": _DOUBLES, "bool": _BOOLS, "string": _STRINGS,
    "int16": _INTS, "uint16": _INTS, "int32": _INTS, "int64": _LONGS, "uint64": _LONGS,
}  # fmt: skip


def read_constant(
    message: Message, start: int, end: int, read: Callable[[int, int], TypeOf] | None = None
) -> Constant:
    """Return the Value in a span; ``read`` reads its type, :func:`read_type` unless given.

    Raises:
        Fault: it is damaged, or does not have the bytes that its type says.
    """
    kind, immediate, blob = None, None, None
    for key, a, b in message.fields(start, end):
        if key == _TWO:
            kind = once(kind, (a, b))
        elif key == _THREE:
            immediate = once(immediate, (a, b))
        elif key == _FIVE:
            blob = once(blob, (a, b))
        elif key != _ONE:  # a text
            raise unknown("a constant", key)
    if kind is None or (immediate is None) == (blob is None):
        raise Fault("a constant has no type, or not one value")
    declared = read_type(message, *kind) if read is None else read(*kind)
    if None in declared.shape:
        raise Fault("a constant has a size that is not known")
    if blob is not None:
        return Constant(declared, _blob(message, declared, *blob))
    field, a, b = only_field(message, *(immediate or (0, 0)), "a constant's value")
    if declared.dtype.startswith("list["):
        if field != _THREE:
            raise Fault("a list has a value of another kind")
        return Constant(declared, _list(message, declared, a, b))
    if field != _ONE:
        raise Fault("a tensor has a value of another kind")
    return Constant(declared, _elements(message, declared, a, b))


def _blob(message: Message, declared: TypeOf, start: int, end: int) -> Blob:
    if declared.dtype not in BITS:
        raise Fault(f"a constant of {declared.dtype} lies in the file of weights, where numbers alone may be")
    file, offset = b"", 0
    for key, a, b in message.fields(start, end):
        if key == _ONE:
            file = message.data[a:b]
        elif key == _SECOND_NUMBER:
            offset = a
        else:
            raise unknown("a constant's place", key)
    if file != WEIGHTS.encode():
        raise Fault(f"a constant lies in {shown(file)}; only {WEIGHTS} is read")
    return Blob(WEIGHTS, offset)


def _list(message: Message, declared: TypeOf, start: int, end: int) -> tuple[Any, ...]:
    found = []
    for key, a, b in message.fields(start, end):
        if key != _ONE:
            raise unknown("a list", key)
        item = _read_element(message, a, b)
        if f"list[{item.type.dtype}]" != declared.dtype:
            raise Fault("a list holds what it does not say")
        found.append(item.value)
    if len(found) != declared.shape[0]:
        raise Fault(f"a list of {declared.shape[0]} holds {len(found)}")
    return tuple(found)


def _read_element(message: Message, start: int, end: int) -> Constant:
    """Return a list's element, which is no list itself, so that nothing here nests."""
    for key, a, b in message.fields(start, end):
        if key == _TWO and only_field(message, a, b, "a type")[0] != _ONE:
            raise Fault("there is a list of what is no tensor, which edgediff does not read")
    item = read_constant(message, start, end)
    if isinstance(item.value, Blob):
        raise Fault("an element of a list lies in the file of weights")
    return item


def _elements(
    message: Message, declared: TypeOf, start: int, end: int
) -> NDArray[Any] | str | tuple[str, ...]:
    dtype = declared.dtype
    shape = tuple(size for size in declared.shape if size is not None)
    count = prod(shape)
    spans: list[Span] = []
    outer = None
    for key, a, b in message.fields(start, end):
        if key != _STORED.get(dtype, _BYTES):
            raise Fault(f"a constant of {dtype} has numbers of another type")
        outer = once(outer, (a, b))
    for key, a, b in message.fields(*outer) if outer is not None else ():
        if key != _ONE:
            raise Fault("a constant's numbers are stored in a form that no writer uses")
        spans.append((a, b))
    if dtype == "string":
        if len(spans) != count:
            raise Fault(f"a constant of {count} strings has {len(spans)}")
        strings = tuple(text(message, *span) for span in spans)
        return strings if shape else strings[0]
    if len(spans) > 1:
        raise Fault("a constant's numbers are stored in a form that no writer uses")
    raw = bytes(message.data[slice(*spans[0])]) if spans else b""
    found = (
        varints(raw, dtype)
        if _STORED.get(dtype) in (_INTS, _LONGS, _BOOLS)
        else from_bytes(raw, dtype, count)
    )
    if len(found) != count:
        raise Fault(f"a constant of shape {list(shape)} has {len(found)} numbers")
    found = found.reshape(shape)
    found.flags.writeable = False
    return found
