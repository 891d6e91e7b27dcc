"""Types of MIL as they stand in a model file, and the parts of protobuf's messages that all of it shares."""

from __future__ import annotations

from edgediff.mil_program import TypeOf
from edgediff.protobuf import LENGTH, VARINT, Fault, Message, Span, small, tag

MAX_RANK = 16
MAX_ELEMENTS = 1 << 40  # of a value that a program may declare

# MIL.proto's DataType. Floats of 8 bits and bfloat16 are in no program of ours.
_DTYPES = {
    1: "bool", 2: "string", 10: "float16", 11: "float32", 12: "float64",
    21: "int8", 22: "int16", 23: "int32", 24: "int64", 25: "int4",
    31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64",
    35: "uint4", 36: "uint2", 37: "uint1", 38: "uint6", 39: "uint3",
}  # fmt: skip
_ONE, _TWO, _THREE, _ATTRIBUTES = (tag(n, LENGTH) for n in (1, 2, 3, 4))
_NUMBER, _SECOND_NUMBER = tag(1, VARINT), tag(2, VARINT)


def text(message: Message, start: int, end: int) -> str:
    """Return a string that stands in the file.

    Raises:
        Fault: it is no UTF-8.
    """
    try:
        return bytes(message.data[start:end]).decode("utf-8")
    except UnicodeDecodeError:
        raise Fault("a text in it is no UTF-8") from None


def once(before: Span | None, span: Span) -> Span:
    """Return ``span`` unless there was one before: readers of protobuf would join the two.

    Raises:
        Fault: there was.
    """
    if before is not None:
        raise Fault("a part that is due once stands there twice")
    return span


def unknown(what: str, key: int) -> Fault:
    """Return the fault of a field that ``what`` should not have."""
    return Fault(f"{what} has the unknown field {key >> 3}")


def entry(message: Message, start: int, end: int) -> tuple[str, Span]:
    """Return the key of a map's entry and the span of its value.

    Raises:
        Fault: the entry is damaged.
    """
    key, held = None, None
    for field, a, b in message.fields(start, end):
        if field == _ONE:
            key = once(key, (a, b))
        elif field == _TWO:
            held = once(held, (a, b))
        else:
            raise unknown("an entry of a map", field)
    if key is None or held is None:
        raise Fault("an entry of a map has no key or no value")
    return text(message, *key), held


def read_type(message: Message, start: int, end: int) -> TypeOf:
    """Return the ValueType in a span: a tensor, or a list of such.

    Raises:
        Fault: it is damaged, or a tuple, a dictionary or a state, which edgediff does not read.
    """
    held = only_field(message, start, end, "a type")
    if held[0] == _ONE:
        return _tensor(message, held[1], held[2])
    if held[0] != _TWO:
        raise Fault("a value is a tuple, a dictionary or a state, which edgediff does not read")
    element, length = None, None
    for key, a, b in message.fields(held[1], held[2]):
        if key == _ONE:
            element = once(element, (a, b))
        elif key == _TWO:
            length = once(length, (a, b))
        else:
            raise unknown("a list's type", key)
    if element is None:
        raise Fault("a list does not say of what")
    inner = only_field(message, *element, "a type")
    if inner[0] != _ONE:
        raise Fault("there is a list of what is no tensor, which edgediff does not read")
    of = _tensor(message, inner[1], inner[2])
    return TypeOf(f"list[{of.dtype}]", (None if length is None else _dimension(message, *length),))


def only_field(message: Message, start: int, end: int, what: str) -> tuple[int, int, int]:
    """Return the one field of a message that holds one of several things.

    Raises:
        Fault: it holds none or two.
    """
    found = None
    for field in message.fields(start, end):
        if found is not None:
            raise Fault(f"{what} is two things at once")
        found = field
    if found is None:
        raise Fault(f"{what} is missing")
    return found


def _tensor(message: Message, start: int, end: int) -> TypeOf:
    dtype, rank = 0, 0
    shape: list[int | None] = []
    for key, a, b in message.fields(start, end):
        if key == _NUMBER:
            dtype = small(a)
        elif key == _SECOND_NUMBER:
            rank = a
        elif key == _THREE and len(shape) < MAX_RANK:
            shape.append(_dimension(message, a, b))
        elif key != _ATTRIBUTES:  # where layouts in memory may be asked for
            raise unknown("a tensor's type", key)
    if dtype not in _DTYPES:
        raise Fault(f"a tensor is of type {dtype}, which edgediff does not read")
    if rank != len(shape):
        raise Fault(f"a tensor of rank {rank} has {len(shape)} sizes")
    elements = 1
    for size in shape:
        elements *= 1 if size is None else size
        if elements > MAX_ELEMENTS:
            raise Fault(f"a tensor has the impossible shape {shape!r:.60}")
    return TypeOf(_DTYPES[dtype], tuple(shape))


def _dimension(message: Message, start: int, end: int) -> int | None:
    key, a, b = only_field(message, start, end, "a size")
    if key == _TWO:
        return None
    if key != _ONE:
        raise unknown("a size", key)
    size = 0  # protobuf leaves zeros out
    for inner, value, _ in message.fields(a, b):
        if inner != _NUMBER:
            raise unknown("a size", inner)
        size = value
    if size > MAX_ELEMENTS:
        raise Fault(f"a tensor has a size of {size}")
    return size
