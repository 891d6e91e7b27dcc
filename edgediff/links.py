"""Opening what a bundle names: regular files alone, never waiting, and what a file was when it was read.

Package installers make hard links and hub caches symbolic ones, so a link is no fault by itself. But its
bytes belong to somebody else as well, and it may lead anywhere: it is used where a sha256 says that the
bytes are the right ones.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from edgediff.errors import BundleError, IntegrityError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_POINTER = b"version https://git-lfs"
_MAGIC = (
    (_POINTER, "a git-LFS pointer, not the file; fetch it with `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive (PyTorch's checkpoints are such); export the model to ONNX"),
    (b"\x80\x02", "a pickle, which is never read; export the model to ONNX"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"<", "a web page or XML, often an error page that was saved; get the file again"),
    (b"{", "JSON, not the file; get the file again"),
)


class Receipt(NamedTuple):
    """What a file was when it was looked at. It tells a file that was written since, or replaced.

    It cannot tell a change within one tick of the file system's clock, nor one made by somebody who may set
    that clock, nor a folder that was exchanged and put back.
    """

    device: int
    inode: int
    bytes: int
    modified: int
    changed: int

    @staticmethod
    def of(found: os.stat_result) -> Receipt:
        """Return the receipt of a file's status. Windows has no time of the last change of a status."""
        changed = 0 if sys.platform == "win32" else found.st_ctime_ns
        return Receipt(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, changed)

    def overwritten(self, now: Receipt) -> bool:
        """Return whether the same file holds other bytes now; another file in its place is no fault."""
        same = (self.device, self.inode) == (now.device, now.inode)
        return same and (self.bytes, self.modified) != (now.bytes, now.modified)


Receipts = Mapping[Path, Receipt]


def open_regular(file: Path) -> tuple[BufferedReader, Receipt]:
    """Open a regular file for reading; a pipe, a device or a folder is refused without waiting for it.

    Raises:
        BundleError: it is missing, unreadable or no regular file.
    """
    try:
        _regular(file, file.stat())  # first, since opening alone may already move a device
        # It may have become a pipe since: opened so that nothing waits, and asked again.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        stream = os.fdopen(os.open(file, flags), "rb")
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: {_reason(error)}; get the bundle again.") from error
    try:
        found = os.fstat(stream.fileno())
        _regular(file, found)
    except BaseException:
        stream.close()
        raise
    return stream, Receipt.of(found)


def _regular(file: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise BundleError(f"{file}: expected a regular file, found {kind}; get the bundle again.")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return (
            "there is no such file" if error.errno == errno.ENOENT else f"cannot be read ({error.strerror})"
        )
    return "is no name of a file"


def verified(file: Path, size: int, sha256: str, remembered: Path | None = None) -> Receipt:
    """Compare a file with what a manifest says of it; its receipt.

    A large file whose digest is known in the folder ``remembered`` (:mod:`edgediff.digests`) is not read.

    Raises:
        IntegrityError: it is missing, no regular file, or holds other bytes.
    """
    try:
        stream, before = open_regular(file)
    except BundleError as error:
        raise IntegrityError(str(error)) from error
    with stream:
        try:
            if before.bytes != size:
                pointer = stream.read(len(_POINTER)) == _POINTER
                hint = "this is a git-LFS pointer: run `git lfs pull`" if pointer else "get the bundle again"
                raise IntegrityError(f"{file}: {before.bytes} bytes, the manifest says {size}; {hint}.")
            if remembered is not None and _digests().recalled(remembered, before) == sha256:
                return before
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            after = Receipt.of(os.fstat(stream.fileno()))
        except OSError as error:
            raise IntegrityError(f"{file}: {_reason(error)}; get the bundle again.") from error
    if digest != sha256:
        raise IntegrityError(f"{file}: sha256 is {digest}, the manifest says {sha256}; get the bundle again.")
    if after != before:
        raise IntegrityError(f"{file}: it changed while it was being read; get the bundle again.")
    if remembered is not None:
        _digests().remember(remembered, after, sha256)
    return after


def _digests() -> ModuleType:
    """What remembers digests; it is built on this module."""
    return importlib.import_module("edgediff.digests")


def is_link(file: Path, name: str) -> bool:
    """Return whether ``file``, which is ``name`` in its bundle, is or lies behind a link.

    Symbolic links are looked for from the file up to the bundle's own folder, which may be one.
    """
    here = file
    with suppress(OSError):  # what is missing is no link
        for _ in Path(name).parts:
            if here.is_symlink() or _is_junction(here):
                return True
            here = here.parent
        return file.stat().st_nlink > 1
    return False


def _is_junction(path: Path) -> bool:
    asked = getattr(os.path, "isjunction", None)  # since Python 3.12
    return asked is not None and bool(asked(path))


def refuse_link(file: Path, name: str) -> None:
    """Raise BundleError for a link where nothing says what it should hold.

    The hub's client makes links to blobs that are named by their content; those are compared, not refused.

    Raises:
        BundleError: it is another link.
        IntegrityError: a blob of the hub's cache holds other bytes than its name says.
    """
    if not is_link(file, name):
        return
    from edgediff.hub import links as hub_links

    if not hub_links.verified(file, name):
        raise BundleError(
            f"{file}: it is a link, and there is no manifest that says what it must hold; copy the folder "
            "with `cp -rL`, or export the model again."
        )


def wrong_kind(head: bytes) -> str | None:
    """Return what a file that should be a graph is instead, as far as its first bytes tell."""
    if not head:
        return "empty; get the file again"
    start = head.lstrip()
    return next((what for magic, what in _MAGIC if start.startswith(magic)), None)


def receipts(files: list[Path]) -> dict[Path, Receipt]:
    """Return the receipts of those files that are there."""
    found = {}
    for file in files:
        with suppress(OSError):
            found[file] = Receipt.of(file.stat())
    return found


def check_same(known: Receipts) -> None:
    """Raise IntegrityError if a file was replaced or written since ``known``."""
    for file, before in known.items():
        if receipts([file]).get(file) != before:
            raise IntegrityError(f"{file}: it changed while it was being loaded; load the bundle again.")


def check_not_overwritten(known: Receipts) -> None:
    """Raise IntegrityError if a file was written in place since ``known``: loaded graphs map their weights.

    A file that was replaced or removed is let be: who mapped the old one still has its bytes.
    """
    for file, before in known.items():
        now = receipts([file]).get(file)
        if now is not None and before.overwritten(now):
            raise IntegrityError(
                f"{file}: it was overwritten while the bundle was in use; load the bundle again, and "
                "replace bundles by renaming whole folders."
            )
