"""Arrays from the bytes of Core ML's files: little-endian, packed under a byte, or protobuf's varints."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff.mil_program import BITS
from edgediff.protobuf import Fault


def from_bytes(raw: bytes, dtype: str, count: int) -> NDArray[Any]:
    """Return ``count`` numbers from their bytes, little-endian; those under a byte are packed.

    Raises:
        Fault: the bytes are too many or too few.
    """
    bits = BITS[dtype]
    if len(raw) != (count * bits + 7) // 8:
        raise Fault(f"{count} numbers of {dtype} need {(count * bits + 7) // 8} bytes and have {len(raw)}")
    if bits >= 8:
        return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False)
    return unpacked(np.frombuffer(raw, np.uint8), bits, count, signed=dtype.startswith("int"))


def unpacked(packed: NDArray[np.uint8], bits: int, count: int, signed: bool = False) -> NDArray[Any]:
    """Return numbers of ``bits`` < 8 that are packed from the least significant bit on, as uint8 or int8."""
    # Eight numbers fill whole bytes, so that work goes by groups of eight and memory stays near the result's.
    groups = -(-count // 8)
    padded = np.zeros(groups * bits, np.uint8)
    padded[: len(packed)] = packed
    rows = padded.reshape(groups, bits)
    found = np.empty((groups, 8), np.uint8)
    for k in range(8):
        byte, shift = divmod(k * bits, 8)
        value = rows[:, byte] >> shift
        if shift + bits > 8:
            value = value | rows[:, byte + 1] << (8 - shift)
        found[:, k] = value & (1 << bits) - 1
    flat = found.reshape(-1)[:count]
    if not signed:
        return flat
    return (flat << 8 - bits).astype(np.int8) >> 8 - bits


def varints(raw: bytes, dtype: str) -> NDArray[Any]:
    """Return packed varints, all at once: there may be as many as the file is long.

    Raises:
        Fault: one is cut, or beyond its type.
    """
    if not raw:
        return np.zeros(0, dtype)
    data = np.frombuffer(raw, np.uint8)
    ends = np.flatnonzero(data < 0x80)
    if not len(ends) or ends[-1] != len(data) - 1:
        raise Fault("a packed number ends beyond its field")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > 10 or (longest == 10 and (data[ends[lengths == 10]] > 1).any()):
        raise Fault("a number of more than 64 bits")
    value = np.zeros(len(ends), np.uint64)
    for k in range(longest):
        rows = np.flatnonzero(lengths > k)
        value[rows] |= (data[starts[rows] + k] & 0x7F).astype(np.uint64) << np.uint64(7 * k)
    if dtype == "uint64":
        return value
    wide = value.view(np.int64)
    if dtype == "bool":
        low, high = 0, 1
    else:
        info = np.iinfo(dtype)
        low, high = int(info.min), int(info.max)
    if wide.min() < low or wide.max() > high:
        raise Fault(f"a constant of {dtype} holds a number beyond it")
    return wide.astype(dtype)
