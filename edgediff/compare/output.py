"""Where a comparison is written: a folder of its own, or one HTML file; whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

from edgediff.errors import InputError, ResourceError
from edgediff.media import FORMATS

PAGE, SHEET, PLOT, FIGURES = "compare.html", "sheet.png", "pareto.png", "compare.json"
NAMES = (PAGE, SHEET, PLOT, FIGURES)
_ALONE = (".html", ".htm")


def alone(out: Path) -> bool:
    """Say whether a name asks for the page alone."""
    return out.suffix.lower() in _ALONE


def checked(path: str | Path, overwrite: bool = False) -> Path:
    """Return ``path`` if a comparison can be written there.

    Raises:
        InputError: its name is no plain text or that of a picture, its folder is missing or cannot be written
            to, or something exists there that may not be replaced. A folder is replaced only if nothing but
            an earlier comparison is in it.
    """
    out = Path(path)
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in str(out)):
        raise InputError(f"output {str(out)!r}: it holds control characters or is no UTF-8; rename it.")
    if out.name in ("", "..") or out.suffix.lower() in FORMATS:
        raise InputError(f"output {out}: give a new folder, or a file that ends in .html.")
    parent = out.absolute().parent
    if not parent.is_dir():
        raise InputError(f"output {out}: the folder {parent} does not exist; make it first.")
    if not os.access(parent, os.W_OK):
        raise InputError(f"output {out}: the folder {parent} cannot be written to.")
    if not os.path.lexists(out):
        return out
    if not overwrite:
        raise InputError(f"output {out}: it exists; give another name, or allow --overwrite.")
    if out.is_symlink() or (out.is_dir() if alone(out) else not _ours(out)):
        raise InputError(f"output {out}: it is no earlier comparison and is not replaced; give another name.")
    return out


def write(out: Path, files: Mapping[str, bytes], overwrite: bool = False) -> list[Path]:
    """Write the files of a comparison (the page alone if ``out`` says so) and return their paths.

    Raises:
        InputError: something else stands there by now.
        ResourceError: the disk is full or refuses.
    """
    temporary = out.absolute().parent / f".edgediff-{secrets.token_hex(8)}.tmp"
    try:
        if alone(out):
            _put(temporary, files[PAGE])
            checked(out, overwrite)
            temporary.replace(out)
            return [out]
        temporary.mkdir()
        for name, content in files.items():
            _put(temporary / name, content)
        checked(out, overwrite)
        _place(temporary, out)
        return [out / name for name in files]
    except OSError as error:
        raise ResourceError(f"output {out}: it cannot be written ({error.strerror or error}).") from error
    finally:
        _remove(temporary)


def _put(file: Path, content: bytes) -> None:
    with file.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _place(made: Path, out: Path) -> None:
    """Rename a folder to where it belongs; what is there is moved aside first and back if that fails."""
    aside = made.with_suffix(".old")
    there = os.path.lexists(out)
    if there:
        out.rename(aside)
    try:
        made.rename(out)
    except BaseException:
        if there:
            aside.rename(out)
        raise
    _remove(aside)


def _ours(folder: Path) -> bool:
    return folder.is_dir() and all(each.name in NAMES and each.is_file() for each in folder.iterdir())


def _remove(path: Path) -> None:
    remove: Callable[[], object] = path.unlink if path.is_file() else lambda: shutil.rmtree(path, True)
    if os.path.lexists(path):
        remove()
