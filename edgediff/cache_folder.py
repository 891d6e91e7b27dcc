"""The folder where edgediff keeps what it can make again: compiled graphs, digests, choices of a device.

An entry is a folder with files and ``receipt.json``, which names each file's size and sha256. Entries are
made beside their place and renamed, so that one is whole or is not there, whoever else is writing; and one is
handed out after its bytes were compared with its receipt, since runtimes do not survive damaged ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgediff import digests
from edgediff.errors import InputError, ResourceError
from edgediff.links import Receipt

RECEIPT = "receipt.json"
LIMIT = 8 << 30
"""Bytes that all entries together may take; the ones that were not used for longest go first."""
ENTRIES = "graphs"
_DAY = 86400.0
_coming: dict[Path, threading.Thread] = {}  # entries whose files are being hashed


def root() -> Path:
    """Return the folder: ``EDGEDIFF_CACHE``, or ``edgediff`` where the system has a user's caches."""
    given = os.environ.get("EDGEDIFF_CACHE")
    if given:
        return Path(given)
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "edgediff"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "edgediff" / "Cache"
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return usual / "edgediff"


def chosen(cache: str | Path | bool | None) -> Path | None:
    """Return the folder that the option ``cache`` means; None where nothing is to be kept.

    Raises:
        InputError: a file lies where the folder should be.
    """
    if cache is False:
        return None
    folder = root() if cache is None or cache is True else Path(cache)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cache: {folder} is no folder; name another, or turn the cache off.")
    return folder


def key(facts: Mapping[str, Any]) -> str:
    """Return the name of the entry for what something was made from and for."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the folder holds of one thing. ``facts`` say what it was made from and for."""

    path: Path
    facts: Mapping[str, Any]
    bytes: int
    used: float  # when it was last handed out, in seconds since 1970

    def remove(self) -> None:
        """Put it out of the way, then delete it, so that nobody opens half of one."""
        import shutil
        import tempfile

        with contextlib.suppress(OSError):
            away = Path(tempfile.mkdtemp(prefix=".dropped-", dir=self.path.parent))
            self.path.rename(away / "entry")
            shutil.rmtree(away, ignore_errors=True)


def find(folder: Path, name: str) -> Path | None:
    """Return the folder of an entry whose bytes are those of its receipt; a damaged one is removed."""
    path = folder / ENTRIES / name
    coming = _coming.pop(path, None)
    if coming is not None:
        coming.join()
    receipt = _receipt(path)
    if receipt is None:
        remove(folder, name)
        return None
    try:
        there = {file.name for file in path.iterdir()}
    except OSError:
        return None
    if there != {RECEIPT, *receipt["files"]}:  # runtimes take what they find in it
        remove(folder, name)
        return None
    for file, said in receipt["files"].items():
        if not digests.is_known(folder, path / file, said["bytes"], said["sha256"]):
            remove(folder, name)
            return None
    with contextlib.suppress(OSError):
        os.utime(path / RECEIPT)
    return path


def make(
    folder: Path, name: str, facts: Mapping[str, Any], write: Callable[[Path], None], later: bool = False
) -> None:
    """Let ``write`` fill a fresh folder, and make that the entry ``name``.

    With ``later`` the files are hashed, which takes a second for each gigabyte, by a thread that outlives the
    call; :func:`find` waits for it. Who comes second finds the other's entry and drops its own.

    Raises:
        ResourceError: the folder cannot be written.
    """
    import shutil
    import tempfile

    path = folder / ENTRIES / name
    with _writing(folder):
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".making-", dir=path.parent))
    try:
        write(fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if later:
        # No daemon: a process that ends waits for it.
        _coming[path] = threading.Thread(target=_kept_quietly, args=(folder, fresh, path, facts))
        _coming[path].start()
    else:
        _keep(folder, fresh, path, facts)


def _kept_quietly(folder: Path, fresh: Path, path: Path, facts: Mapping[str, Any]) -> None:
    with contextlib.suppress(ResourceError):  # it is made again next time
        _keep(folder, fresh, path, facts)


def _keep(folder: Path, fresh: Path, path: Path, facts: Mapping[str, Any]) -> None:
    import shutil

    try:
        with _writing(folder):
            files = {}
            for file in sorted(fresh.iterdir()):
                with file.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                receipt = Receipt.of(file.stat())
                files[file.name] = {"bytes": receipt.bytes, "sha256": digest}
                digests.remember(folder, receipt, digest, own=True)
            content = {"facts": dict(facts), "files": files}
            (fresh / RECEIPT).write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")
            with contextlib.suppress(OSError):  # another process was faster
                fresh.rename(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    trim(folder, keep=path)


def remove(folder: Path, name: str) -> None:
    """Remove an entry, if it is there."""
    path = folder / ENTRIES / name
    if path.exists():
        Entry(path, {}, 0, 0.0).remove()


def entries(folder: Path) -> list[Entry]:
    """Return what is kept, the longest unused first."""
    found = []
    try:
        paths = [path for path in (folder / ENTRIES).iterdir() if not path.name.startswith(".")]
    except OSError:
        return []
    for path in paths:
        receipt = _receipt(path)
        with contextlib.suppress(OSError):
            used = (path / RECEIPT).stat().st_mtime if receipt else 0.0
            size = sum(file.stat().st_size for file in path.iterdir())
            found.append(Entry(path, receipt["facts"] if receipt else {}, size, used))
    return sorted(found, key=lambda entry: entry.used)


def trim(folder: Path, limit: int = LIMIT, keep: Path | None = None) -> None:
    """Remove entries until the others fit into ``limit`` bytes, and what was given up half way a day ago."""
    import shutil

    held = entries(folder)
    total = sum(entry.bytes for entry in held)
    for entry in held:
        if total <= limit:
            break
        if entry.path != keep:
            entry.remove()
            total -= entry.bytes
    with contextlib.suppress(OSError):
        for path in (folder / ENTRIES).iterdir():
            if path.name.startswith(".") and time.time() - path.stat().st_mtime > _DAY:
                shutil.rmtree(path, ignore_errors=True)


def clear(folder: Path) -> int:
    """Remove all that edgediff keeps there; the bytes that the disk gets back."""
    held = entries(folder)
    for entry in held:
        entry.remove()
    for file in (digests.NAME, CHOICES):
        with contextlib.suppress(OSError):
            (folder / file).unlink()
    return sum(entry.bytes for entry in held)


CHOICES = "choices.json"


def _receipt(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((path / RECEIPT).read_bytes())
        whole = all(
            isinstance(said["bytes"], int) and isinstance(said["sha256"], str) and Path(name).name == name
            for name, said in found["files"].items()
        )
        return found if whole and isinstance(found["facts"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextlib.contextmanager
def _writing(folder: Path) -> Any:
    """Translate what the system says of a full or locked disk."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{folder}: nothing can be kept there ({error.strerror or error}); make room, set EDGEDIFF_CACHE "
            "to a folder that can be written, or turn the cache off (--no-cache)."
        ) from error
