"""The heap of the C library: blocks that were freed go back to the system, so that peaks do not add up.

glibc raises the size from which it maps a block of its own each time such a block is freed, up to 32 MiB.
Weights that ONNX Runtime frees as it packs them then stay in the heap: a full-size int8 U-Net holds 1.36 GB
after loading where its packed weights take 0.86. Held at its first value (128 KiB), the size does not grow.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_FIRST = 128 << 10  # what glibc begins with; setting a value, this one too, ends its growth


def hold() -> bool:
    """Keep large blocks apart from the heap, in this process, from now on; whether that can be had here."""
    library = _glibc()
    if library is None:
        return False
    return bool(library.mallopt(_M_MMAP_THRESHOLD, _FIRST) and library.mallopt(_M_TRIM_THRESHOLD, _FIRST))


def trim() -> None:
    """Give what is free in the heap back to the system, where the C library can."""
    gc.collect()
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def resident(unless: int) -> int:
    """Return the bytes that this process has in RAM now; ``unless`` the system says so."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return unless
    return int(statm.read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt.argtypes, library.mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
        library.malloc_trim.argtypes, library.malloc_trim.restype = [ctypes.c_size_t], ctypes.c_int
        library.gnu_get_libc_version  # noqa: B018 (musl has none, and its heap works in other ways)
        return library
    return None
