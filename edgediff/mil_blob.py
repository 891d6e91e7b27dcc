"""The file of weights of a Core ML package: records of 64 bytes, each followed by the numbers it describes.

The layout is MILBlob's of https://github.com/apple/coremltools: a header (count, version), and for each array
a record (sentinel, type, bytes, offset, bits of padding) that is aligned to 64 bytes as its numbers are.
"""

from __future__ import annotations

import struct
import threading
from io import BufferedReader
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from edgediff import links
from edgediff.errors import BundleError
from edgediff.mil_numbers import from_bytes
from edgediff.mil_program import BITS, Blob, Constant, TypeOf
from edgediff.protobuf import Fault

ALIGNMENT = 64
SENTINEL = 0xDEADBEEF
VERSION = 2
_HEADER, _RECORD = struct.Struct("<II"), struct.Struct("<IIQQQ")
_DTYPES = {
    1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1",
    10: "uint2", 11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32",
}  # fmt: skip


class Blobs:
    """A file of weights, open for reading; arrays are read one at a time."""

    def __init__(self, path: Path | None) -> None:
        """Open ``path``; None stands for a package without such a file, from which nothing can be read.

        Raises:
            BundleError: it is missing, no regular file, or no file of weights.
        """
        self.path = path
        self._lock = threading.Lock()
        self._stream: BufferedReader | None = None
        self._size = 0
        if path is None:
            return
        self._stream, receipt = links.open_regular(path)
        self._size = receipt.bytes
        try:
            self._check_header()
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def _check_header(self) -> None:
        head = self._read(0, ALIGNMENT)
        kind = links.wrong_kind(head)
        if kind is not None:
            raise BundleError(f"{self.path}: expected the weights of a Core ML package; this is {kind}.")
        _, version = _HEADER.unpack_from(head)
        if version != VERSION:
            raise self._fault(f"it is of version {version} of the format of weights; {VERSION} is read")

    def place(self, blob: Blob, declared: TypeOf) -> tuple[int, int]:
        """Return the offset of an array's numbers and how many bytes they are.

        Raises:
            BundleError: the record does not describe an array of this type and shape, or lies outside.
        """
        if self._stream is None:
            self._read(blob.offset, ALIGNMENT)  # which says what is missing
        where = f"the array at byte {blob.offset}"
        if blob.offset % ALIGNMENT or not ALIGNMENT <= blob.offset <= self._size - ALIGNMENT:
            raise self._fault(f"{where} lies outside the file of {self._size} bytes, or is not aligned")
        sentinel, kind, size, offset, padding = _RECORD.unpack_from(self._read(blob.offset, ALIGNMENT))
        if sentinel != SENTINEL:
            raise self._fault(f"{where} has no record")
        if _DTYPES.get(kind) != declared.dtype:
            found = _DTYPES.get(kind, f"type {kind}")
            raise self._fault(f"{where} is of {found}, and the program reads {declared.dtype}")
        bits = prod(size for size in declared.shape if size is not None) * BITS[declared.dtype]
        due = (bits + 7) // 8
        if size != due or padding != due * 8 - bits:
            raise self._fault(
                f"{where} has {size} bytes with {padding} bits of padding, and {list(declared.shape)} of "
                f"{declared.dtype} needs {due} with {due * 8 - bits}"
            )
        if offset % ALIGNMENT or offset < blob.offset + ALIGNMENT or offset + size > self._size:
            raise self._fault(f"{where} reaches beyond the file, or is not aligned")
        return offset, size

    def array(self, blob: Blob, declared: TypeOf) -> NDArray[Any]:
        """Read the array that ``blob`` names, of a type and shape that the program states.

        Elements of less than a byte come as uint8, or int8 for int4.

        Raises:
            BundleError: the file does not hold it.
        """
        offset, size = self.place(blob, declared)
        shape = tuple(axis for axis in declared.shape if axis is not None)
        try:
            return from_bytes(self._read(offset, size), declared.dtype, prod(shape)).reshape(shape)
        except Fault as fault:
            raise self._fault(str(fault)) from fault

    def value(self, constant: Constant) -> Any:
        """Return a constant's value, read from the file if it lies there.

        Raises:
            BundleError: the file does not hold it.
        """
        held = constant.value
        return self.array(held, constant.type) if isinstance(held, Blob) else held

    def _read(self, offset: int, size: int) -> bytes:
        if self._stream is None:
            raise BundleError(
                "The program reads weights, and there is no weight.bin in its package; get the package "
                "again, or export the model again."
            )
        try:
            with self._lock:
                self._stream.seek(offset)
                found = self._stream.read(size)
        except (OSError, ValueError) as error:
            raise BundleError(f"{self.path}: cannot be read ({error}); get the package again.") from error
        if len(found) != size:
            raise self._fault(f"it ends at byte {offset + len(found)}, and {offset + size} are due")
        return found

    def _fault(self, what: str) -> BundleError:
        return BundleError(f"{self.path}: {what}; get the package again, or export the model again.")

    def close(self) -> None:
        """Close the file; arrays that were read stay."""
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> Blobs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
