"""Files that a measurement is written to: checked before the work, and whole or not there at all."""

from __future__ import annotations

import os
import secrets
import unicodedata
from pathlib import Path

from edgediff.errors import InputError, ResourceError


def checked(path: str, overwrite: bool) -> Path:
    """Return ``path`` if a file can be written there.

    Raises:
        InputError: its name is no plain text, its folder is missing or cannot be written to, or something is
            there that may not be replaced.
    """
    out = Path(path)
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in path) or out.name in ("", ".."):
        raise InputError(f"output {path!r}: this is no name for a file; give another.")
    parent = out.absolute().parent
    if not parent.is_dir():
        raise InputError(f"output {out}: the folder {parent} does not exist; make it first.")
    if not os.access(parent, os.W_OK):
        raise InputError(f"output {out}: the folder {parent} cannot be written to.")
    if os.path.lexists(out) and (not overwrite or out.is_symlink() or not out.is_file()):
        hint = "it is no plain file; give another name" if overwrite else "allow --overwrite"
        raise InputError(f"output {out}: it exists; {hint}.")
    return out


def write(out: Path, content: str) -> None:
    """Write a file.

    Raises:
        ResourceError: the disk is full or refuses.
    """
    temporary = out.absolute().with_name(f".edgediff-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(out)
    except OSError as error:
        raise ResourceError(f"output {out}: it cannot be written ({error.strerror or error}).") from error
    finally:
        temporary.unlink(missing_ok=True)
