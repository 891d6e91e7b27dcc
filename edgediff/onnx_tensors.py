"""Tensors of an ONNX file: what they claim to be against the bytes they have, in the file or beside it."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

from edgediff.errors import BundleError
from edgediff.manifest import safe_name
from edgediff.protobuf import LENGTH, VARINT, Fault, Message, Span, signed, small, tag

MAX_RANK = 64
MAX_FILES = 16
MAX_GAP = 64 << 10  # what the largest page asks for between two tensors
MAX_BYTES = 1 << 50

# Bits of an element by TensorProto.DataType; strings and complex numbers are in no model of ours.
BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
FLOAT32, INT32, INT64, FLOAT16, FLOAT64 = 1, 6, 7, 10, 11

# Field by type where the numbers are not raw bytes; the other types share int32_data.
_TYPED = {1: 4, 11: 10, 7: 7, 12: 11, 13: 11}
_DIM, _DIMS, _TYPE, _LOCATION = tag(1, VARINT), tag(1, LENGTH), tag(2, VARINT), tag(14, VARINT)
_NAME, _RAW, _EXTERNAL = tag(8, LENGTH), tag(9, LENGTH), tag(13, LENGTH)
_IGNORED = frozenset((tag(12, LENGTH), tag(16, LENGTH)))  # doc_string and metadata_props
_DATA = frozenset((_RAW, *(tag(n, LENGTH) for n in (4, 5, 7, 10, 11))))


class Region(NamedTuple):
    """Where a tensor's bytes lie in a file beside the graph."""

    file: str
    offset: int
    bytes: int


class Tensor(NamedTuple):
    """A tensor as the file states it. ``data`` spans its bytes inside the graph, in the field ``form``."""

    name: bytes
    kind: int
    dims: tuple[int, ...]
    form: int
    data: Span | None
    region: Region | None

    @property
    def elements(self) -> int:
        return prod(self.dims)


def shown(name: bytes) -> str:
    """Return a name from a file so that it may stand in a message: one line, plain ASCII, not long."""
    return ascii(name[:60].decode("utf-8", "replace"))


def read(message: Message, start: int, end: int) -> Tensor:
    """Return the TensorProto in a span after comparing its dims with the bytes that it has.

    Raises:
        Fault: it is damaged, or claims to be what it is not.
    """
    name, kind, location, form = b"", 0, 0, 0
    dims: list[int] = []
    pairs: list[Span] = []
    data: Span | None = None
    for key, a, b in message.fields(start, end):
        if key == _DIM:
            dims.append(signed(a))
        elif key == _TYPE:
            kind = small(a)
        elif key == _NAME:
            name = message.data[a:b]
        elif key in _DATA:
            if data is not None:
                raise Fault(f"the tensor {shown(name)} has its data twice")
            form, data = key >> 3, (a, b)
        elif key == _EXTERNAL:
            pairs.append((a, b))
        elif key == _LOCATION:
            location = small(a)
        elif key == _DIMS and b - a <= 10 * MAX_RANK:
            dims += map(signed, message.numbers(a, b))
        elif key not in _IGNORED:
            raise Fault(
                f"the tensor {shown(name)} has the field {key >> 3} in a form that no exporter writes"
            )
    size = _size(name, kind, dims)
    if location not in (0, 1) or (location == 0 and pairs):
        raise Fault(f"the tensor {shown(name)} lies neither in the graph nor beside it")
    if location == 1:
        if data is not None:
            raise Fault(f"the tensor {shown(name)} has data in the graph and beside it")
        return Tensor(name, kind, tuple(dims), 0, None, _region(message, name, pairs, size))
    found = 0 if data is None else _found(message, name, kind, form, data)
    if found != size:
        raise Fault(f"the tensor {shown(name)} of dims {dims!r:.60} needs {size} bytes and has {found}")
    return Tensor(name, kind, tuple(dims), form, data, None)


def _size(name: bytes, kind: int, dims: list[int]) -> int:
    if kind not in BITS:
        raise Fault(f"the tensor {shown(name)} is of type {kind}, which edgediff does not read")
    if len(dims) > MAX_RANK or any(d < 0 for d in dims):
        raise Fault(f"the tensor {shown(name)} has the impossible dims {dims!r:.60}")
    elements = 1
    for dim in dims:
        elements *= dim
        if elements > MAX_BYTES or dim > MAX_BYTES:
            raise Fault(f"the tensor {shown(name)} has the impossible dims {dims!r:.60}")
    return (elements * BITS[kind] + 7) // 8


def _found(message: Message, name: bytes, kind: int, form: int, data: Span) -> int:
    """Return how many bytes the numbers inside the graph make."""
    if form == _RAW >> 3:
        return data[1] - data[0]
    if form != _TYPED.get(kind, 5):
        raise Fault(f"the tensor {shown(name)} has numbers of another type than its own")
    if kind in (FLOAT32, FLOAT64):
        return data[1] - data[0]
    # One number holds a byte of the types that are less than one.
    return message.count(*data) * max(BITS[kind], 8) // 8


_PLACE = {b"location", b"offset", b"length", b"checksum"}


def _region(message: Message, name: bytes, pairs: list[Span], size: int) -> Region:
    found: dict[bytes, bytes] = {}
    for start, end in pairs:
        # Key and value, each once and short, as every writer puts them; in any other order they are a trap
        # for some reader.
        entry = message.data[start:end]
        cut = entry[1] + 2 if len(entry) > 1 else 0
        good = len(entry) > cut + 1 and entry[0] == 0x0A and entry[cut] == 0x12 and entry[cut + 1] < 0x80
        if not good or entry[cut + 1] + cut + 2 != len(entry):
            raise Fault(
                f"the tensor {shown(name)} has an entry of external data that is no short key and value"
            )
        key = entry[2:cut]
        if key in found or key not in _PLACE:
            raise Fault(
                f"the tensor {shown(name)} has the key {shown(key)} in its external data, twice or unknown"
            )
        found[key] = entry[cut + 2 :]
    file = _file(name, found.get(b"location", b""))
    offset, length = (_number(name, key, found.get(key)) for key in (b"offset", b"length"))
    if length is not None and length != size:
        raise Fault(f"the tensor {shown(name)} needs {size} bytes of {file} and names {length}")
    return Region(file, 0 if offset is None else offset, size)


def _file(name: bytes, location: bytes) -> str:
    file = _plain(location)
    if file is None:
        raise Fault(
            f"the tensor {shown(name)} lies in {shown(location)}, which is no plain name of a file in the "
            "graph's own folder"
        )
    return file


@functools.lru_cache(MAX_FILES)  # hundreds of tensors name the same file
def _plain(location: bytes) -> str | None:
    try:
        text = location.decode("ascii")
        return None if "/" in text else safe_name(text, "")
    except (BundleError, UnicodeDecodeError):
        return None


def _number(name: bytes, key: bytes, text: bytes | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(rb"[0-9]{1,18}", text):
        raise Fault(f"the tensor {shown(name)} has the {key.decode()} {shown(text)}, which is no number")
    return int(text)


def check_regions(regions: Iterable[Region], sizes: dict[str, int]) -> None:
    """Compare regions with the sizes of their files: inside, one after the other, and next to nothing
    between.

    Raises:
        Fault: they overlap, reach beyond the file, or leave more than the padding of a page unused.
    """
    ends = dict.fromkeys(sizes, 0)
    for region in sorted(regions):
        gap = region.offset - ends[region.file]
        end = region.offset + region.bytes
        if region.bytes and gap < 0:
            raise Fault(f"two tensors overlap at byte {region.offset} of {region.file}")
        if gap > MAX_GAP:
            raise Fault(f"{gap} bytes of {region.file} before byte {region.offset} belong to no tensor")
        if end > sizes[region.file]:
            raise Fault(f"{region.file} has {sizes[region.file]} bytes, and a tensor ends at {end}")
        ends[region.file] = max(end, ends[region.file])
    for file, end in ends.items():
        if sizes[file] - end > MAX_GAP:
            raise Fault(f"the last {sizes[file] - end} bytes of {file} belong to no tensor")


def numbers(message: Message, tensor: Tensor, most: int = 64) -> Sequence[float] | None:
    """Return the numbers of a small tensor inside the graph, None if it is large, elsewhere or of a rare
    type."""
    letter = {FLOAT32: "f", INT32: "i", INT64: "q", FLOAT64: "d"}.get(tensor.kind)
    if letter is None or tensor.data is None or tensor.elements > most:
        return None
    if tensor.form == 5:
        return [small(value) for value in message.numbers(*tensor.data)]
    if tensor.form == 7:
        return [signed(value) for value in message.numbers(*tensor.data)]
    return struct.unpack(f"<{tensor.elements}{letter}", message.data[slice(*tensor.data)])
