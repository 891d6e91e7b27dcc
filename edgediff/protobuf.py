"""Protobuf's wire format, read in place and no deeper than asked: messages are spans of one buffer.

Written by hand because the runtime installs neither onnx nor protobuf, and because a hostile file should
meet a reader that allocates nothing, recurses nowhere and counts what it reads.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

Buffer = bytes | mmap.mmap
Span = tuple[int, int]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 500_000  # in one file; the graph of a large U-Net has a tenth of that


class Fault(ValueError):
    """The bytes are not what they should be. Whoever knows the file adds its name and what to do."""


def tag(field: int, wire: int) -> int:
    """Return a field's number and its wire type as they stand before its value."""
    return field << 3 | wire


class Message:
    """A file's bytes, and how many fields may still be read from them."""

    __slots__ = ("data", "left")

    def __init__(self, data: Buffer) -> None:
        self.data = data
        self.left = MAX_FIELDS

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield the fields of the message from ``start`` to ``end``: the tag, then what it holds.

        A number gives its value and 0; anything else gives the span of its bytes. A tag holds the wire type
        too, so that a known field of the wrong type is an unknown tag, as it is for other readers.

        Raises:
            Fault: the bytes are no message.
        """
        data, at = self.data, start
        try:
            for count in range(self.left):
                if at >= end:
                    self.left -= count
                    return
                key = data[at]
                at += 1
                if key > 0x7F:
                    key, at = varint(data, at - 1)
                wire = key & 7
                if key < 8 or key >> 32:
                    raise Fault(f"there is no field {key >> 3}")
                if wire == LENGTH:
                    size = data[at]
                    at += 1
                    if size > 0x7F:
                        size, at = varint(data, at - 1)
                    begin = at
                    at += size
                    if at > end:
                        raise Fault("a field ends beyond its message")
                    yield key, begin, at
                    continue
                begin = at
                if wire == VARINT:
                    begin = data[at]
                    at += 1
                    if begin > 0x7F:
                        begin, at = varint(data, at - 1)
                elif wire == FIXED32:
                    at += 4
                elif wire == FIXED64:
                    at += 8
                else:
                    raise Fault(f"wire type {wire} is none that graphs use")
                if at > end:
                    raise Fault("a field ends beyond its message")
                yield key, begin, 0 if wire == VARINT else at
        except IndexError:
            raise Fault("it ends in the middle of a field") from None
        raise Fault(f"more than {MAX_FIELDS} fields")

    def numbers(self, start: int, end: int) -> list[int]:
        """Return packed varints."""
        found, at = [], start
        while at < end:
            value, at = varint(self.data, at)
            found.append(value)
        if at > end:
            raise Fault("a packed number ends beyond its field")
        return found

    def count(self, start: int, end: int) -> int:
        """Return how many varints are packed in a span, without decoding one."""
        whole = self.data[start:end]
        if whole and whole[-1] > 0x7F:
            raise Fault("a packed number ends beyond its field")
        return len(whole.translate(None, _CONTINUED))


_CONTINUED = bytes(range(0x80, 0x100))


def varint(data: Buffer, at: int) -> tuple[int, int]:
    """Return the unsigned 64-bit number at ``at``, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise Fault("a number of more than ten bytes")
    # Readers differ about bits beyond the 64th; no writer sets them.
    if value >> 64:
        raise Fault("a number of more than 64 bits")
    return value, at


def signed(value: int) -> int:
    """Return an int64 from its unsigned form."""
    return value - (1 << 64) if value >> 63 else value


def small(value: int) -> int:
    """Return an int32 or an enum, which readers cut to 32 bits: what would change by that is refused."""
    number = signed(value)
    if not -(1 << 31) <= number < 1 << 31:
        raise Fault("a number of more than 32 bits where 32 are read")
    return number
