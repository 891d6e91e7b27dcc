"""Arrays and one JSON text in one file: a zip of ``.npy`` members, as ``numpy.load`` reads it, within bounds.

Nothing is unpacked before the directory of the zip says that it is small enough, and no more than it says;
members are plain numbers of a few types, along one axis. Equal contents give equal bytes on every system.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgediff.errors import BundleError

TEXT = "record.json"
MAX_FILE, MAX_MEMBER, MAX_TOTAL = 64 << 20, 64 << 20, 256 << 20
_MAX_TEXT, _MAX_MEMBERS = 4 << 20, 8192
_DTYPES = ("<f4", "<f2", "<i8", "<i4", "|u1", "|b1")
# Format 1.0 of NumPy's files, down to the spaces that NumPy puts there.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..{'descr': '(%s)', 'fortran_order': False, 'shape': \(([0-9]{1,12}),\), } *\n"
    % b"|".join(re.escape(dtype.encode()) for dtype in _DTYPES),
    re.DOTALL,
)
_NAME = re.compile(r"[0-9a-z_]{1,64}\.npy")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first day that a zip can name
Array = NDArray[Any]


def packed(text: bytes, arrays: Mapping[str, Array]) -> bytes:
    """Return the file's bytes; ``arrays``, of one axis, by names of small letters, digits and underscores."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(_member(TEXT), text)
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            member = io.BytesIO()
            npy.write_array(member, array.astype(array.dtype.newbyteorder("<"), copy=False), (1, 0), False)
            file.writestr(_member(f"{name}.npy"), member.getvalue())
    return stream.getvalue()


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3  # the same whatever system writes it
    info.external_attr = 0o644 << 16
    return info


def unpacked(raw: bytes, where: str) -> tuple[bytes, dict[str, Array]]:
    """Return the text and the arrays by name; ``where`` is for messages.

    Raises:
        BundleError: it is no such file, or it is larger than allowed, packed or unpacked.
    """
    if len(raw) > MAX_FILE:
        raise BundleError(f"{where}: {len(raw)} bytes are more than the {MAX_FILE} allowed.")
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as file:
            members = _checked(file, where)
            found = {info.filename: _bytes(file, info) for info in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise BundleError(f"{where}: not a zip that can be read ({_plain(str(error))}).") from error
    if TEXT not in found:
        raise BundleError(f"{where}: there is no {TEXT} in it; this is no such file.")
    text = found.pop(TEXT)
    return text, {name.removesuffix(".npy"): _array(data, f"{where}: {name}") for name, data in found.items()}


def _checked(file: zipfile.ZipFile, where: str) -> list[zipfile.ZipInfo]:
    members = file.infolist()
    names = {info.filename for info in members}
    if len(members) > _MAX_MEMBERS or len(names) < len(members):
        raise BundleError(f"{where}: {len(members)} members; expected at most {_MAX_MEMBERS}, each once.")
    if sum(info.file_size for info in members) > MAX_TOTAL:
        raise BundleError(f"{where}: unpacked it would have more than the {MAX_TOTAL} bytes allowed.")
    for info in members:
        name = _plain(info.filename)
        if info.filename != TEXT and _NAME.fullmatch(info.filename) is None:
            raise BundleError(f"{where}: {name!r} is no member of such a file.")
        if info.file_size > (_MAX_TEXT if info.filename == TEXT else MAX_MEMBER):
            raise BundleError(f"{where}: {name} would have {info.file_size} bytes, more than is allowed.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise BundleError(f"{where}: {name} is packed in a way that is not read.")
    return members


def _bytes(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with file.open(info) as stream:
        data = stream.read(info.file_size + 1)  # never more than the directory says
    if len(data) != info.file_size:
        raise ValueError(f"{_plain(info.filename)} has other bytes than the directory says")
    return data


def _array(data: bytes, where: str) -> Array:
    """An array of one axis, as :func:`packed` writes it and no other way: nothing is evaluated."""
    length = int.from_bytes(data[8:10], "little")
    found = _HEADER.fullmatch(data, 0, 10 + length)
    if found is None:
        raise BundleError(f"{where}: not an array of one axis, of one of the types {', '.join(_DTYPES)}.")
    dtype, count, rest = np.dtype(found[1].decode()), int(found[2]), len(data) - 10 - length
    if rest != count * dtype.itemsize:
        raise BundleError(f"{where}: {rest} bytes are not those of {count:.20g} numbers of {dtype}.")
    return np.frombuffer(data, dtype, offset=10 + length)


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:100]
