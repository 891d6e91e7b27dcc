"""Arrays to pictures and pictures to files. Nothing outside this file, :mod:`edgediff.pictures` and the tasks
knows what an image is."""

from __future__ import annotations

import html
import io
import os
import secrets
import struct
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgediff import __version__, metadata
from edgediff.errors import InputError, ResourceError
from edgediff.metadata import Metadata

if TYPE_CHECKING:
    from PIL.Image import Image

Bytes = NDArray[np.uint8]
Unit = NDArray[np.float32]
"""Values in [0, 1]."""
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MIN_SIDE, MAX_SIDE, MAX_PIXELS = 8, 16384, 50_000_000
_LARGEST = {"JPEG": 65500, "WEBP": 16383}  # what libjpeg and libwebp write
_SEGMENT = 65533  # what a segment of a JPEG file holds
_XMP = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
   xmlns:xmp="http://ns.adobe.com/xap/1.0/"
   xmlns:edgediff="urn:edgediff:metadata#"
   xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
   FIELDS/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


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


def check_size(width: int, height: int, name: str) -> None:
    """Refuse a picture whose sides or area are beyond what is read."""
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(
            f"{name}: {width}x{height} pixels; sides of {MIN_SIDE} to {MAX_SIDE} and {MAX_PIXELS} pixels in "
            "all are allowed: resize it."
        )


def checked_array(
    array: NDArray[Any], name: str, frame: int | None = None, mask: bool = False
) -> NDArray[Any]:
    """Return a given array as (H, W, C) in this machine's byte order; C is 1, 3 or 4.

    Raises:
        InputError: its shape or its type is that of no picture.
    """
    array = np.asarray(array)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if frame is not None:
        raise InputError(f"frame: {name} is an array, which has no frames; leave it out.")
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        first = array.ndim == 3 and shape[0] in (1, 3, 4)
        hint = "its channels come first: use .transpose(1, 2, 0)" if first else "give (H, W) or (H, W, C)"
        raise InputError(
            f"{name}: found an array of shape {shape}; {hint}, with C 1 (grey), 3 (RGB) or 4 (RGBA)."
        )
    check_size(shape[1], shape[0], name)
    kind = array.dtype.kind
    if not (kind == "f" or array.dtype in (np.uint8, np.uint16) or (kind == "b" and mask)):
        raise InputError(
            f"{name}: found an array of {array.dtype}; give uint8, uint16 or floats from 0 to 1."
        )
    return array


def unit(array: NDArray[Any], name: str) -> Unit:
    """Return a checked array as floats; floats must be in [0, 1] already."""
    top = {"b": 1, "f": 1}.get(array.dtype.kind, 65535 if array.dtype == np.uint16 else 255)
    if array.dtype.kind == "f" and not (array.min() >= 0 and array.max() <= 1):  # NaN compares false
        found = f"{array.min():g} to {array.max():g}"
        raise InputError(f"{name}: its floats reach from {found}; they must be finite and from 0 to 1.")
    scaled: Unit = array.astype(np.float32) / np.float32(top)
    return scaled


def levels(array: NDArray[Any], name: str) -> Bytes:
    """Return a checked array as 8 bits, rounded to the nearest."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        nearest: Bytes = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return nearest
    return to_bytes(unit(array, name))


def per_255(pixels: Bytes) -> Unit:
    """Return 8 bits as floats."""
    return unit(pixels, "")


def colour(value: object) -> Bytes | None:
    """Return a background as three bytes, None for none."""
    found: tuple[Any, ...] = tuple(value) if isinstance(value, (tuple, list)) else ()
    if isinstance(value, str):
        from PIL import ImageColor

        try:
            found = ImageColor.getrgb(value)
        except ValueError:
            found = ()
    whole = all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) and 0 <= v <= 255 for v in found)
    if value is not None and not (whole and len(found) == 3):
        raise InputError(
            f"background: {str(value)[:40]!r} is no colour; give (r, g, b) from 0 to 255, or a name such as "
            "'white' or '#ffffff'."
        )
    return None if value is None else np.array(found, np.uint8)


def needed(under: Bytes | None, transparent: NDArray[np.bool_], name: str) -> Bytes:
    """Return the background under transparent pixels, or say that there is none."""
    if under is None:
        raise InputError(
            f"{name}: {int(transparent.sum())} of {transparent.size} pixels are transparent; name a "
            "background, such as 'white', or make it opaque."
        )
    return under


def flat(pixels: Bytes, alpha: Bytes | None, under: Bytes | None, name: str) -> Bytes:
    """Return RGB: grey is repeated, and what is transparent lies on ``under``."""
    colours = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    if alpha is None or alpha.min() == 255:
        return colours
    below = needed(under, alpha < 255, name)
    opacity = alpha[..., None].astype(np.uint16)
    mixed: Bytes = ((colours * opacity + below * (255 - opacity) + 127) // 255).astype(np.uint8)
    return mixed


def suspicious(pictures: NDArray[Any] | Sequence[Any]) -> str | None:
    """Say which of the pictures, results (B, H, W, C) in [0, 1] or PIL images, are of one flat colour."""
    flats = []
    for i, picture in enumerate(pictures):
        pixels = np.asarray(picture)
        pixels = to_bytes(pixels) if pixels.dtype.kind == "f" else pixels
        if (np.ptp(pixels.reshape(-1, pixels.shape[-1]), axis=0) <= 1).all():
            flats.append(
                f"picture {i} is of one colour, {tuple(pixels.reshape(-1, pixels.shape[-1])[0].tolist())}"
            )
    return "; ".join(flats) or None


def checked_output(path: str | Path, overwrite: bool = False, size: Sequence[int] | None = None) -> Path:
    """Return ``path`` if a picture, of ``size`` (height, width) if that is known, can be written there.

    Raises:
        InputError: its name is no plain text or names no known format, the format takes no such size, its
            folder is missing, or it exists and may not be replaced.
    """
    file = Path(path)
    name = str(file)
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise InputError(f"output {name!r}: it holds control characters or is no UTF-8; name another file.")
    if len(os.fsencode(file.name)) > 255:
        raise InputError(f"output {name[:60]}...: the name is too long; use at most 255 bytes.")
    if file.suffix.lower() not in FORMATS:
        raise InputError(f"output {file}: the suffix {file.suffix!r} is unknown; use {', '.join(FORMATS)}.")
    largest = _LARGEST.get(FORMATS[file.suffix.lower()])
    if size is not None and largest is not None and max(size) > largest:
        raise InputError(
            f"output {file}: {size[1]}x{size[0]} is more than the {largest} pixels a side that this format "
            "takes; use .png."
        )
    if not file.parent.is_dir():
        raise InputError(f"output {file}: the folder {file.parent} does not exist; make it first.")
    if file.is_dir() or (file.exists() and not overwrite):
        raise InputError(
            f"output {file}: it exists; name another file or allow it to be replaced with --overwrite."
        )
    if not os.access(file.parent, os.W_OK):
        raise InputError(f"output {file}: the folder {file.parent} cannot be written to.")
    return file


def checked_outputs(
    path: str | Path, count: int, overwrite: bool = False, size: Sequence[int] | None = None
) -> list[Path]:
    """Return where ``count`` pictures go: one to ``path``, more to ``out-1.png``, ``out-2.png`` and so on.

    From ten on the numbers have leading zeros, so that names sort as numbers do.

    Raises:
        InputError: one of them cannot be written, see :func:`checked_output`.
    """
    file = Path(path)
    digits = len(str(count))
    names = (
        [file.with_stem(f"{file.stem}-{i:0{digits}}") for i in range(1, count + 1)] if count > 1 else [file]
    )
    return [checked_output(name, overwrite, size) for name in names]


def save(image: Image, path: Path, about: Metadata | Mapping[str, str] | None = None) -> None:
    """Write a picture so that it appears at ``path`` whole or not at all.

    ``about`` is what :func:`edgediff.metadata.describe` returns, or plain texts, which PNG files alone carry.

    Raises:
        ResourceError: the disk is full or refuses.
    """
    content = encoded(image, FORMATS[path.suffix.lower()], about)
    temporary = path.with_name(f".edgediff-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ResourceError(f"output {path}: it cannot be written ({error.strerror or error}).") from error
    finally:
        temporary.unlink(missing_ok=True)


def encoded(image: Image, kind: str, about: Metadata | Mapping[str, str] | None = None) -> bytes:
    """Return the content of a picture file: JPEG and WebP at quality 95."""
    said = about if isinstance(about, Metadata) else Metadata()
    options: dict[str, Any] = {} if kind == "PNG" else {"quality": 95}
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        options["pnginfo"] = PngInfo()
        texts = {"parameters": said.text, "edgediff": said.json, "XML:com.adobe.xmp": _packet(said, None)}
        for key, text in (about if isinstance(about, Mapping) else texts).items():
            if text:
                options["pnginfo"].add_itxt(key, text)
    elif kind == "WEBP":
        options |= {"xmp": _packet(said, said.json).encode(), "exif": _comment(said.text)}
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return _with_segments(stream.getvalue(), said) if kind == "JPEG" else stream.getvalue()


def _with_segments(jpeg: bytes, said: Metadata) -> bytes:
    """Return a JPEG file with its metadata.

    A segment holds 64 KiB: long JSON takes several comments; a longer text for other programs is left out.
    """
    plain, packet = (said.json or "").encode("ascii"), _packet(said, None).encode()
    blocks = [(b"\xe1", b"Exif\0\0" + _comment(said.text))] if said.text else []
    blocks += [(b"\xe1", metadata.ADOBE + packet)] if packet else []
    blocks += [(b"\xfe", metadata.OURS + plain[i : i + 65000]) for i in range(0, len(plain), 65000)]
    at = 4 + int.from_bytes(jpeg[4:6], "big") if jpeg[2:4] == b"\xff\xe0" else 2  # JFIF's own comes first
    fitting = [b"\xff" + k + struct.pack(">H", len(b) + 2) + b for k, b in blocks if len(b) <= _SEGMENT]
    return b"".join([jpeg[:at], *fitting, jpeg[at:]])


def _comment(text: str | None) -> bytes:
    """Return EXIF with ``text`` as its user comment: a directory that names another one with one field."""
    if not text:
        return b""
    body = b"UNICODE\0" + text.encode("utf-16-be")
    outer = struct.pack(">HHHIII", 1, metadata.EXIF, 4, 1, 26, 0)
    inner = struct.pack(">HHHIII", 1, metadata.COMMENT, 7, len(body), 44, 0)
    return b"MM\0*\0\0\0\x08" + outer + inner + body


def _packet(said: Metadata, plain: str | None) -> str:
    """Return an XMP packet with the mark and, if given, our JSON; empty if it would say nothing."""
    if said.source_type is None and plain is None:
        return ""
    fields = f'xmp:CreatorTool="edgediff {__version__}"'
    if said.source_type is not None:
        fields += f'\n   Iptc4xmpExt:DigitalSourceType="{_SOURCE_TYPES}{said.source_type}"'
    if plain is not None:
        fields += f'\n   edgediff:parameters="{html.escape(plain)}"'
    return _XMP.replace("FIELDS", fields)
