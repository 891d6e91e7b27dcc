"""Writes a folder so that it appears complete or not at all.

Everything goes into a hidden folder beside the target, is synced to the disk, and is renamed at the end. On
any failure, Ctrl-C included, that folder is removed. A killed process leaves one; the next run removes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from edgediff.errors import BusyError, InputError, ResourceError

MANIFEST = "edgediff.json"
SUMMARY = "edgediff-export.json"
"""What a folder of another layout than a bundle's has in the manifest's place."""
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


class HashedFile:
    """A file being written; knows its size and sha256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.bytes = 0

    def write(self, data: Any, /) -> int:
        """Append bytes."""
        count = self._file.write(data)
        self._hash.update(data)
        self.bytes += count
        return count

    @property
    def sha256(self) -> str:
        """The digest of what was written so far, in hexadecimal."""
        return self._hash.hexdigest()


class Folder:
    """A folder being written. ``files`` lists what it holds, as the manifest does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, dict[str, int | str]] = {}

    @contextmanager
    def create(self, name: str) -> Iterator[HashedFile]:
        """A new file at a relative path with forward slashes; synced when the block ends."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            hashed = HashedFile(file)
            yield hashed
            file.flush()
            os.fsync(file.fileno())
        self.files[name] = {"bytes": hashed.bytes, "sha256": hashed.sha256}

    def write(self, name: str, data: bytes) -> None:
        """A whole file at once."""
        with self.create(name) as file:
            file.write(data)


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse a target that must not be replaced, before any work."""
    if out.name in ("", ".", ".."):
        raise InputError(f"{out}: give the name of a new folder.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out.parent}: no such folder. Create it first.")
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise InputError(f"{out} exists already. Give another name, or --overwrite to replace it.")
    empty = out.is_dir() and not any(out.iterdir())
    ours = any((out / name).is_file() for name in (MANIFEST, SUMMARY))
    if out.is_symlink() or not (empty or ours):
        raise InputError(f"{out} is not a bundle and is not replaced. Give another name.")


def check_space(out: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold."""
    free = shutil.disk_usage(out.absolute().parent).free
    if free < needed:
        raise ResourceError(f"{out}: needs {needed >> 20} MiB, the disk has {free >> 20} MiB free.")


@contextmanager
def new_folder(out: Path, overwrite: bool = False) -> Iterator[Folder]:
    """Fill a folder; it stands at ``out`` when the block ends well, and nowhere otherwise."""
    parent = out.absolute().parent
    prefix = f".{out.name[:80]}."
    _clean(out, prefix)
    check_target(out, overwrite)
    staging = parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}.partial"
    try:
        staging.mkdir()
        folder = Folder(staging)
        yield folder
        for path in (staging, *(p for p in sorted(staging.rglob("*")) if p.is_dir())):
            _sync(path)
        _place(staging, out, overwrite)
        _sync(parent)
    except OSError as error:
        where = error.filename if error.filename is not None else out
        raise ResourceError(f"{where}: cannot be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` for what is needed on the way; gone when the block ends.

    A killed process leaves it, and the next export to ``out`` removes it.
    """
    path = out.absolute().parent / f".{out.name[:80]}.{os.getpid()}-{secrets.token_hex(4)}.partial"
    try:
        path.mkdir()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _place(staging: Path, out: Path, overwrite: bool) -> None:
    old = staging.with_suffix(".old")
    try:
        if overwrite and os.path.lexists(out):
            out.rename(old)
        staging.rename(out)
    except BaseException as error:
        if os.path.lexists(old) and not os.path.lexists(out):
            old.rename(out)
        if isinstance(error, OSError) and error.errno in _TAKEN:
            raise BusyError(f"{out}: another export put its result there meanwhile.") from error
        raise
    finally:
        if os.path.lexists(out):
            shutil.rmtree(old, ignore_errors=True)


def _clean(out: Path, prefix: str) -> None:
    """Tidy up after a killed process: remove what it began, put back what it had moved aside."""
    parent = out.absolute().parent
    if os.name != "posix" or not parent.is_dir():
        return
    for path in [path for path in parent.iterdir() if path.name.startswith(prefix)]:
        match = re.fullmatch(r"(\d{1,10})-[0-9a-f]{8}\.(partial|old)", path.name.removeprefix(prefix))
        if match is None or _alive(int(match[1])):
            continue
        if match[2] == "old" and not os.path.lexists(out):
            path.rename(out)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync(folder: Path) -> None:
    """Make a folder's entries durable; Windows neither needs nor allows it."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
