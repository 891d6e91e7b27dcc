"""The sha256 of files that were hashed before, remembered by what the file was then.

A file that has the same device, inode, size and times of its last change as when it was hashed still has the
bytes that were hashed: a change of content sets the time of the last change of status, which no program can
set back (other than by setting the machine's clock). Hashing takes about a second for each gigabyte, at each
start, so it is done once for each such file of 16 MB or more. Systems without that time (Windows) remember
nothing, nor is anything remembered of a file that was changed within two seconds before it was read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from edgediff.errors import EdgediffError
from edgediff.links import Receipt, open_regular

NAME = "digests.json"
LARGE = 16 << 20
_MOST = 4096
_SETTLED = 2_000_000_000  # nanoseconds
_writing = threading.Lock()


def is_known(folder: Path, file: Path, size: int, sha256: str) -> bool:
    """Return whether ``file`` has these bytes: remembered in ``folder``, or hashed now and remembered."""
    try:
        now = Receipt.of(file.stat())
    except OSError:
        return False
    if now.bytes != size:
        return False
    if recalled(folder, now) == sha256:
        return True
    try:
        stream, before = open_regular(file)
        with stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            after = Receipt.of(os.fstat(stream.fileno()))
    except (EdgediffError, OSError):
        return False
    if digest != sha256 or before != after:
        return False
    remember(folder, after, sha256)
    return True


def recalled(folder: Path, receipt: Receipt) -> str | None:
    """Return the sha256 that a file of this receipt had, None if that is not known."""
    if sys.platform == "win32" or receipt.bytes < LARGE:
        return None
    found = _read(folder).get(_name(receipt))
    return found if isinstance(found, str) else None


def remember(folder: Path, receipt: Receipt, sha256: str, own: bool = False) -> None:
    """Note what a file's bytes are; a note that cannot be written is made again next time.

    ``own``: nobody but the caller knows the file yet, so it may be as young as it is.
    """
    if sys.platform == "win32" or receipt.bytes < LARGE:
        return
    if not own and time.time_ns() - max(receipt.modified, receipt.changed) < _SETTLED:
        return
    import tempfile

    with _writing, contextlib.suppress(OSError):
        known = _read(folder)
        known.pop(_name(receipt), None)
        kept = dict(list(known.items())[1 - _MOST :])
        kept[_name(receipt)] = sha256
        folder.mkdir(0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".digests-", dir=folder)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(kept, stream)
            Path(name).replace(folder / NAME)
        except OSError:
            Path(name).unlink(missing_ok=True)


def _name(receipt: Receipt) -> str:
    return ":".join(str(value) for value in receipt)


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
