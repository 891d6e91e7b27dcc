"""Results to pictures and pictures to files. Nothing outside this file and the tasks knows what an image
is."""

from __future__ import annotations

import io
import os
import secrets
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import InputError, ResourceError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def unit_range(decoded: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn decoder output in [-1, 1], shape (B, C, H, W), into [0, 1], shape (B, H, W, C)."""
    pictures: NDArray[np.float32] = np.clip(decoded * np.float32(0.5) + np.float32(0.5), 0, 1)
    return pictures.transpose(0, 2, 3, 1)


def to_bytes(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round pictures in [0, 1] to 8 bits."""
    rounded: NDArray[np.uint8] = np.rint(pictures * np.float32(255)).astype(np.uint8)
    return rounded


def to_pil(pictures: NDArray[np.float32]) -> list[Image]:
    """Return pictures in [0, 1], shape (B, H, W, 3), as PIL images."""
    from PIL import Image

    return [Image.fromarray(picture) for picture in to_bytes(pictures)]


def checked_output(path: str | Path, overwrite: bool = False) -> Path:
    """Return ``path`` if a picture can be written there.

    Raises:
        InputError: its name is no plain text or names no known format, its folder is missing, or it exists
            and may not be replaced.
    """
    file = Path(path)
    name = str(file)
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise InputError(f"output {name!r}: it holds control characters or is no UTF-8; name another file.")
    if len(os.fsencode(file.name)) > 255:
        raise InputError(f"output {name[:60]}...: the name is too long; use at most 255 bytes.")
    if file.suffix.lower() not in FORMATS:
        raise InputError(f"output {file}: the suffix {file.suffix!r} is unknown; use {', '.join(FORMATS)}.")
    if not file.parent.is_dir():
        raise InputError(f"output {file}: the folder {file.parent} does not exist; make it first.")
    if file.is_dir() or (file.exists() and not overwrite):
        raise InputError(
            f"output {file}: it exists; name another file or allow it to be replaced with --overwrite."
        )
    if not os.access(file.parent, os.W_OK):
        raise InputError(f"output {file}: the folder {file.parent} cannot be written to.")
    return file


def save(image: Image, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a picture so that it appears at ``path`` whole or not at all.

    ``metadata`` becomes PNG text chunks; other formats carry none of it yet.

    Raises:
        ResourceError: the disk is full or refuses.
    """
    options: dict[str, Any] = {"format": FORMATS[path.suffix.lower()]}
    if options["format"] == "PNG" and metadata:
        from PIL.PngImagePlugin import PngInfo

        chunks = PngInfo()
        for key, text in metadata.items():
            chunks.add_itxt(key, text)
        options["pnginfo"] = chunks
    elif options["format"] != "PNG":
        options["quality"] = 95
    encoded = io.BytesIO()
    image.save(encoded, **options)
    temporary = path.with_name(f".edgediff-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(encoded.getbuffer())
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ResourceError(f"output {path}: it cannot be written ({error.strerror or error}).") from error
    finally:
        temporary.unlink(missing_ok=True)
