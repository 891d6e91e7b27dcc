"""What Core ML compiled, kept: an entry for each package's content and each system that compiled it.

An entry is a folder with ``model.mlmodelc`` and ``notes.json``, which says what was seen to work. Whatever is
made is made beside it and renamed, so that an entry is whole or is not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgediff import cache_folder, links
from edgediff.errors import ResourceError

MODEL, NOTES = "model.mlmodelc", "notes.json"
_DAY = 86400.0


def root() -> Path:
    """Return the folder of all entries, within that of :mod:`edgediff.cache_folder`."""
    return cache_folder.root() / "coreml"


def digest(folder: Path) -> str:
    """Return the sha256 of a folder's files, hidden ones excepted: of each its name and its content's.

    Raises:
        BundleError: something in it is no regular file.
    """
    whole = hashlib.sha256()
    for file in _files(folder):
        stream, _ = links.open_regular(file)
        with stream:
            inner = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{file.relative_to(folder).as_posix()}\0{inner}\n".encode())
    return whole.hexdigest()


def _files(folder: Path) -> list[Path]:
    found = (file for file in folder.rglob("*") if not file.is_dir())
    return sorted(file for file in found if not file.name.startswith("."))


def has_links(folder: Path) -> bool:
    """Return whether a package is made of links, as a hub's cache is."""
    return any(file.is_symlink() for file in _files(folder))


class Entry:
    """The place of one package's compiled form for one system, ``versions`` being its and coremltools'.

    ``given`` is a model that lies compiled elsewhere: the entry has notes alone.
    """

    def __init__(self, content: str, versions: tuple[str, str], given: Path | None = None) -> None:
        self.digest = content
        self.given = given
        self._system = versions[0]
        self.path = root() / content[:32] / "-".join(versions)

    @property
    def model(self) -> Path:
        """Where the compiled model is, if it is."""
        return self.path / MODEL if self.given is None else self.given

    def exists(self) -> bool:
        return self.model.is_dir()

    @contextlib.contextmanager
    def making(self) -> Iterator[Path]:
        """Yield a fresh folder; what was put there becomes the entry, unless another process was faster.

        Raises:
            ResourceError: the cache cannot be written.
        """
        with writing(self.path):
            self.path.parent.mkdir(0o700, parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=".making-", dir=self.path.parent))
        try:
            yield fresh
            with writing(self.path):
                if not self.exists():
                    if self.path.exists():
                        self.drop()
                    fresh.rename(self.path)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        self._drop_older()

    def drop(self) -> None:
        """Put the entry out of the way, then delete it, so that nobody opens half of one."""
        with contextlib.suppress(OSError):
            away = Path(tempfile.mkdtemp(prefix=".dropped-", dir=self.path.parent))
            self.path.rename(away / "entry")
            shutil.rmtree(away, ignore_errors=True)

    def _drop_older(self) -> None:
        """Delete entries of this package that an older system made, and what ended half way a day ago."""
        for other in self.path.parent.iterdir():
            with contextlib.suppress(OSError):
                hidden = other.name.startswith(".")
                stale = hidden and time.time() - other.stat().st_mtime > _DAY
                if stale or (not hidden and not other.name.startswith(f"{self._system}-")):
                    shutil.rmtree(other, ignore_errors=True)

    def notes(self) -> dict[str, Any]:
        """Return what was noted; nothing where that cannot be read."""
        try:
            found = json.loads((self.path / NOTES).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, **found: Any) -> None:
        """Add to the notes; a note that cannot be written is made again next time."""
        with contextlib.suppress(OSError):
            descriptor, name = tempfile.mkstemp(prefix=".notes-", dir=self.path)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump({**self.notes(), **found}, stream)
            Path(name).replace(self.path / NOTES)


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Translate what the system says of a full or locked disk."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{place}: Core ML's compiled models cannot be kept there ({error.strerror or error}); make "
            "room, or set EDGEDIFF_CACHE to a folder that can be written."
        ) from error
