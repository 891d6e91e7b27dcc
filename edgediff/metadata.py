"""What a picture file carries beside its pixels: generation parameters, marks and colour profiles.

PNG, JPEG and WebP are all lists of labelled parts. :func:`split` walks them without Pillow, checks what the
format lets it check and decompresses nothing. What is read from a file is a claim of whoever wrote it: pass it
through the same checks as any argument.
"""

from __future__ import annotations

import html
import json
import os
import re
import stat
import struct
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edgediff import __version__
from edgediff.errors import InputError

MAX_FILE_BYTES = 64 << 20
MAX_PARTS = 1 << 16
MAX_TEXT_BYTES = 1 << 20
MAX_TEXTS_BYTES = 8 << 20
MAX_PROFILE_BYTES = 4 << 20
_SEGMENT = 65533  # what a JPEG segment holds beside its length
_ADOBE = b"http://ns.adobe.com/xap/1.0/\0"
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
DRAWN, COMPOSITE = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
_AI_TYPES = {DRAWN, COMPOSITE, "algorithmicMedia", "algorithmicallyEnhanced", "compositeSynthetic"}


class Part(NamedTuple):
    """One labelled part: a PNG chunk, a JPEG segment or a RIFF chunk. ``raw`` is all of it."""

    kind: bytes
    body: memoryview
    raw: memoryview


def file_bytes(source: object, name: str, head: Any = None) -> bytes:
    """Return a file's content, of at most 64 MiB; ``head`` is called with its first bytes and may refuse.

    Nothing but a regular file is opened: a pipe would wait for its writer and a device may never end.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        found, what = bytes(source), "these bytes"
        if len(found) <= MAX_FILE_BYTES:
            return found
        raise InputError(f"{name}: {len(found)} bytes are more than the {MAX_FILE_BYTES} allowed; shrink it.")
    if not isinstance(source, (str, Path)):
        kind = type(source).__name__
        raise InputError(f"{name}: found {kind}; give a path, bytes, a PIL image or a NumPy array.")
    what = repr(str(source))[:200]
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(Path(source).stat().st_mode):
            raise InputError(f"{name}: {what} is no regular file; give a PNG, JPEG or WebP file.")
        with os.fdopen(os.open(source, flags), "rb") as stream:
            state = os.fstat(stream.fileno())  # again, because the name may lead elsewhere by now
            if not stat.S_ISREG(state.st_mode):
                raise InputError(f"{name}: {what} is no regular file; give a PNG, JPEG or WebP file.")
            if state.st_size <= MAX_FILE_BYTES:
                if head is not None:
                    head(stream.read(64))
                    stream.seek(0)
                found = stream.read(MAX_FILE_BYTES + 1)
                if len(found) <= MAX_FILE_BYTES:
                    return found
    except FileNotFoundError:
        raise InputError(f"{name}: there is no file {what}; check its path.") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: {what} cannot be read ({reason}); give another file.") from error
    raise InputError(f"{name}: {what} is larger than the {MAX_FILE_BYTES} bytes allowed; shrink it.")


def format_of(data: bytes) -> str | None:
    """Return PNG, JPEG or WEBP by the first bytes; None for everything else."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def split(data: bytes) -> list[Part]:
    """Return the parts of a PNG, JPEG or WebP file.

    Raises:
        ValueError: it is cut off, a checksum is wrong or there are too many parts.
    """
    walk = {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp}[format_of(data) or "PNG"]
    found: list[Part] = []
    for part in walk(data):
        if len(found) == MAX_PARTS:
            raise ValueError(f"it has more than {MAX_PARTS} parts")
        found.append(part)
    return found


def _png(data: bytes) -> Iterator[Part]:
    view, at, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data) or len(kind) < 4:
            raise ValueError("it is cut off")
        # Pillow does not look at the checksums of the pixels, nor for the end.
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ValueError(f"the checksum of its {kind!r} is wrong")
        yield Part(kind, view[at + 8 : end - 4], view[at:end])
        at = end


def _jpeg(data: bytes) -> Iterator[Part]:
    view, at, marker = memoryview(data), 2, re.compile(rb"\xff([^\xff\x00\x01\xd0-\xd8])")
    while found := marker.search(data, at):
        kind, body = found[1], found.end() + 2
        at = found.end() + int.from_bytes(data[found.end() : body], "big")
        if kind == b"\xd9" or at < body or at > len(data):
            break
        if kind == b"\xda":
            if data.rfind(b"\xff\xd9", at) < 0:
                break
            yield Part(kind, view[body:at], view[found.start() :])
            return
        yield Part(kind, view[body:at], view[found.start() : at])
    raise ValueError("it is cut off")


def _webp(data: bytes) -> Iterator[Part]:
    view, at, end = memoryview(data), 12, 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise ValueError("it is cut off")
    while at + 8 <= end:
        body = at + 8
        last = body + int.from_bytes(data[at + 4 : body], "little")
        if last > end:
            raise ValueError("it is cut off")
        yield Part(data[at : at + 4], view[body:last], view[at:last])
        at = last + last % 2


def _inflated(data: bytes | memoryview, limit: int) -> bytes:
    """Decompress at most ``limit`` bytes; ValueError if there are more, nothing if it is no zlib stream."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, limit)
    except zlib.error:
        return b""
    if stream.unconsumed_tail:
        raise ValueError(f"a compressed text or profile is larger than {limit} bytes")
    return found


def png_texts(parts: Sequence[Part]) -> Iterator[tuple[str, bytes, str]]:
    """Yield key, content and encoding of every text in a PNG file.

    Raises:
        ValueError: a text has over 1 MiB, or all together over 8 MiB.
    """
    total = 0
    for kind, body, _ in parts:
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        key, _, text = bytes(body[: 80 + MAX_TEXT_BYTES]).partition(b"\0")
        codec = "latin-1"
        if kind == b"iTXt":
            flag, codec = text[:1], "utf-8"
            text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
            text = _inflated(text, MAX_TEXT_BYTES) if flag == b"\1" else text
        elif kind == b"zTXt":
            text = _inflated(text[1:], MAX_TEXT_BYTES)
        total += max(len(text), 0 if kind == b"zTXt" else len(body))
        if len(text) > MAX_TEXT_BYTES or len(body) > 80 + MAX_TEXT_BYTES or total > MAX_TEXTS_BYTES:
            raise ValueError(f"its texts are larger than {MAX_TEXT_BYTES} bytes")
        yield key.decode("latin-1"), text, codec


def exif(parts: Sequence[Part]) -> tuple[int, bytes]:
    """Return orientation (1 unless a valid one is stated) and the raw user comment of a file's EXIF."""
    for kind, body, _ in parts:
        if kind == b"\xe1" and body[:6] == b"Exif\0\0":
            return parse_exif(bytes(body[6:]))
        if kind in (b"eXIf", b"EXIF"):
            return parse_exif(bytes(body))
    return 1, b""


def parse_exif(tiff: bytes) -> tuple[int, bytes]:
    """Read EXIF's orientation and user comment; whatever is damaged counts as not there."""
    tiff = tiff.removeprefix(b"Exif\0\0")
    order = "little" if tiff[:4] == b"II*\0" else "big"
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return 1, b""

    def number(at: int, length: int) -> int:
        return int.from_bytes(tiff[at : at + length], "little" if order == "little" else "big")

    found: dict[int, bytes] = {}
    directory = number(4, 4)
    for _ in range(2):  # the first directory, then the one that it names for EXIF
        for at in range(directory + 2, directory + 2 + 12 * min(number(directory, 2), 512), 12):
            tag, kind, count = number(at, 2), number(at + 2, 2), number(at + 4, 4)
            size = count * {2: 1, 3: 2, 4: 4, 7: 1}.get(kind, 0)
            if tag in (0x0112, 0x8769, 0x9286) and tag not in found:
                start = at + 8 if size <= 4 else number(at + 8, 4)
                found[tag] = tiff[start : start + size]
        directory = int.from_bytes(found.get(0x8769, b""), "little" if order == "little" else "big")
    turned = int.from_bytes(found.get(0x0112, b""), "little" if order == "little" else "big")
    return (turned if 1 <= turned <= 8 else 1), found.get(0x9286, b"")
