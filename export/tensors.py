"""Reads safetensors files piece by piece, so that memory holds part of one tensor at a time.

The header is checked before anything is allocated from it: sizes, types, bounds, holes and overlaps.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgediff.errors import SourceError
from edgediff.export.json_files import parse_json

_HEADER_LIMIT = 32 << 20
_TENSOR_LIMIT = 65536
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_OTHER_BYTES = {"F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def known(self) -> bool:
        """Whether its numbers are of a type that weights have."""
        return self.dtype in _BYTES


class Tensors(Protocol):
    """The tensors of one component by name, wherever their numbers come from.

    Files (:class:`TensorFiles`), parts of other tensors under other names (``edgediff.export.views``) and
    adapters added to a checkpoint (``edgediff.export.lora``) all look like this to those who write weights.
    """

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Shape, type and file of every tensor; nothing has been read for it but headers."""
        ...

    def rows(self, name: str, limit: int) -> Iterator[Array]:
        """Give a tensor as float32 or float16, in runs along its first axis of about ``limit`` bytes."""
        ...

    def whole(self, name: str) -> Array:
        """Give all of a tensor at once."""
        ...


class TensorFiles:
    """The tensors of one component, from one safetensors file or from several shards."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.entries: dict[str, Entry] = {}
        for file in files:
            for name, entry in read_header(file).items():
                if self.entries.setdefault(name, entry) is not entry:
                    raise SourceError(f"{file}: tensor {name} is also in {self.entries[name].file.name}.")

    def rows(self, name: str, limit: int) -> Iterator[Array]:
        """A tensor as float32 or float16 (bfloat16 becomes float32), in runs of about ``limit`` bytes."""
        entry = self.entries[name]
        if not entry.known:
            raise SourceError(f"{entry.file}: tensor {name} is {entry.dtype}; weights are F32, F16 or BF16.")
        size = _BYTES[entry.dtype]
        count, width = (entry.shape[0], prod(entry.shape[1:])) if entry.shape else (1, 1)
        step = max(1, limit // max(1, width * size))
        try:
            with entry.file.open("rb", buffering=0) as file:
                file.seek(entry.begin)
                for first in range(0, count, step):
                    taken = min(step, count - first)
                    array = _read(file, taken * width * size, entry.dtype)
                    yield array.reshape(taken, *entry.shape[1:])
        except OSError as error:
            raise SourceError(f"{entry.file}: cannot be read ({error.strerror}).") from error

    def whole(self, name: str) -> Array:
        """All of a tensor."""
        shape = self.entries[name].shape
        return np.concatenate(list(self.rows(name, 1 << 62))).reshape(shape)


def read_header(path: Path) -> Mapping[str, Entry]:
    """The tensors of a safetensors file by name. Format: 8 bytes of length, JSON, data without holes."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                raise SourceError(f"{path}: not a safetensors file, or a damaged one.")
            header = parse_json(file.read(length), str(path))
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}).") from error
    header.pop("__metadata__", None)
    if len(header) > _TENSOR_LIMIT:
        raise SourceError(f"{path}: {len(header)} tensors; at most {_TENSOR_LIMIT} are read.")
    entries: dict[str, Entry] = {}
    spans: list[tuple[int, int]] = []
    for name, about in header.items():
        entry, end = _entry(path, name, about, 8 + length)
        entries[name] = entry
        spans.append((entry.begin, end))
    at = 8 + length
    for begin, end in sorted(spans):
        if begin != at:
            raise SourceError(f"{path}: its tensors overlap or leave holes; the file is damaged.")
        at = end
    if at != size:
        raise SourceError(f"{path}: {size} bytes, but its header describes {at}. Download it again.")
    return entries


def _entry(path: Path, name: str, about: Any, start: int) -> tuple[Entry, int]:
    try:
        dtype, shape, (begin, end) = about["dtype"], about["shape"], about["data_offsets"]
        numbers = [*shape, begin, end]
        sound = all(type(n) is int and 0 <= n < 1 << 48 for n in numbers) and len(shape) <= 8
        width = (_BYTES | _OTHER_BYTES).get(dtype)
    except (KeyError, TypeError, ValueError):
        sound, width = False, None
    if not sound or width is None or prod(shape) * width != end - begin:
        raise SourceError(f"{path}: the entry of tensor {name[:100]} is damaged or of an unknown type.")
    return Entry(path, dtype, tuple(shape), start + begin), start + end


def _read(file: Any, count: int, dtype: str) -> Array:
    buffer = np.empty(count, np.uint8)
    view, filled = buffer.data, 0
    while filled < count:
        got = file.readinto(view[filled:])
        if not got:
            raise SourceError(f"{file.name}: ended while it was read.")
        filled += got
    if dtype == "BF16":
        return (buffer.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return buffer.view("<f4" if dtype == "F32" else "<f2")
