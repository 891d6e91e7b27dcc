"""What a picture file carries beside its pixels: generation parameters, marks of AI origin, colour profiles.

PNG, JPEG and WebP are all lists of labelled parts. :func:`split` walks them without Pillow and checks what
the format lets it check. What is read from a file is a claim of whoever wrote it.
"""

from __future__ import annotations

import html
import json
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from edgediff import __version__
from edgediff.errors import InputError

MAX_PARTS = 1 << 16
MAX_TEXT_BYTES = 1 << 20
MAX_TEXTS_BYTES = 8 << 20
MAX_PROFILE_BYTES = 4 << 20
ORIENTATION, EXIF, COMMENT = 0x0112, 0x8769, 0x9286  # tags of EXIF
ADOBE = b"http://ns.adobe.com/xap/1.0/\0"
OURS = b"edgediff "  # how a JPEG comment begins that holds our JSON
DRAWN, COMPOSITE = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
_AI_TYPES = {DRAWN, COMPOSITE, "algorithmicMedia", "algorithmicallyEnhanced", "compositeSynthetic"}
# Where the passes of an interlaced PNG file start, and their steps across and down.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_NEGATIVE = "Negative prompt:"
_NUMBERS = {
    "Steps": ("num_inference_steps", int), "CFG scale": ("guidance_scale", float), "Seed": ("seed", int),
    "Denoising strength": ("strength", float),
}  # fmt: skip
_SAMPLERS = {
    "ddim": "DDIM", "dpmpp_2m": "DPM++ 2M", "dpmpp_2m_sde": "DPM++ 2M SDE", "dpmpp_3m_sde": "DPM++ 3M SDE",
    "euler": "Euler", "euler_ancestral": "Euler a", "heun": "Heun", "lcm": "LCM", "lms": "LMS",
    "pndm": "PLMS", "unipc": "UniPC",
}  # fmt: skip


class Part(NamedTuple):
    """One labelled part: a PNG chunk, a JPEG segment or a RIFF chunk. ``raw`` is all of it."""

    kind: bytes
    body: memoryview
    raw: memoryview


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
        ValueError: it is another file or cut off, a checksum is wrong, or there are too many parts.
    """
    walks = {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp}
    kind = format_of(data)
    if kind is None:
        raise ValueError("it is no PNG, JPEG or WebP file")
    found: list[Part] = []
    for part in walks[kind](data):
        if len(found) == MAX_PARTS:
            raise ValueError(f"it has more than {MAX_PARTS} parts")
        found.append(part)
    return found


def _png(data: bytes) -> Iterator[Part]:
    view, at, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            raise ValueError("it is cut off")
        # Pillow looks neither at the checksums of the pixels nor for the end.
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ValueError(f"the checksum of its part {kind.decode('latin-1')!r} is wrong")
        yield Part(kind, view[at + 8 : end - 4], view[at:end])
        at = end


def check_png_pixels(parts: Sequence[Part]) -> None:
    """Raise ValueError if a PNG file holds fewer pixels than its header states: Pillow makes them black."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", parts[0].body)
    bits, starts = depth * {2: 3, 4: 2, 6: 4}.get(colour, 1), _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sides = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in starts]
    missing = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sides if columns > 0)
    stream = zlib.decompressobj()
    for kind, body, _ in parts:
        rest = bytes(body) if kind == b"IDAT" else b""
        while rest and missing > 0:
            missing -= len(stream.decompress(rest, 1 << 20))
            rest = stream.unconsumed_tail
    if missing > 0:
        raise ValueError("its pixels end early")


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
    while at + 8 <= end:
        last = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if last > min(end, len(data)):
            break
        yield Part(data[at : at + 4], view[at + 8 : last], view[at:last])
        at = last + last % 2
    if at < end or end > len(data):
        raise ValueError("it is cut off")


def _inflated(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, limit)
    except zlib.error:
        return b""
    if stream.unconsumed_tail:
        raise ValueError(f"a compressed text or profile in it is larger than {limit} bytes")
    return found


def png_texts(parts: Sequence[Part]) -> Iterator[tuple[str, str]]:
    """Yield key and content of every text in a PNG file.

    Raises:
        ValueError: a text has over 1 MiB, or all together over 8 MiB.
    """
    total = 0
    for kind, body, _ in parts:
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        key, _, text = bytes(body[: 256 + MAX_TEXT_BYTES]).partition(b"\0")
        if kind == b"zTXt":
            text = _inflated(text[1:], MAX_TEXT_BYTES)
        elif kind == b"iTXt":
            compressed, text = text[:1] == b"\1", text[2:].partition(b"\0")[2].partition(b"\0")[2]
            text = _inflated(text, MAX_TEXT_BYTES) if compressed else text
        total += len(text)
        if len(text) > MAX_TEXT_BYTES or len(body) > 256 + MAX_TEXT_BYTES or total > MAX_TEXTS_BYTES:
            raise ValueError(f"it holds a text of over {MAX_TEXT_BYTES} or texts of {MAX_TEXTS_BYTES} bytes")
        yield key.decode("latin-1"), text.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")


def exif(parts: Sequence[Part]) -> tuple[int, bytes]:
    """Return the orientation (1 unless a valid one is stated) and the raw user comment of a file's EXIF."""
    for kind, body, _ in parts:
        if kind in (b"eXIf", b"EXIF") or (kind == b"\xe1" and bytes(body[:6]) == b"Exif\0\0"):
            return parse_exif(bytes(body))
    return 1, b""


def parse_exif(block: bytes) -> tuple[int, bytes]:
    """Read orientation and user comment; whatever is damaged counts as not there."""
    tiff = block.removeprefix(b"Exif\0\0")
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return 1, b""
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(at: int, length: int) -> int:
        return int.from_bytes(tiff[at : at + length], order)

    found: dict[int, bytes] = {}
    directory = number(4, 4)
    for _ in range(2):  # the first directory, then the one that it names for EXIF
        for at in range(directory + 2, directory + 2 + 12 * min(number(directory, 2), 512), 12):
            tag, size = number(at, 2), number(at + 4, 4) * {2: 1, 3: 2, 4: 4, 7: 1}.get(number(at + 2, 2), 0)
            if tag in (ORIENTATION, EXIF, COMMENT) and tag not in found:
                start = at + 8 if size <= 4 else number(at + 8, 4)
                found[tag] = tiff[start : start + size]
        directory = int.from_bytes(found.get(EXIF, b""), order)
    turned = int.from_bytes(found.get(ORIENTATION, b""), order)
    return (turned if 1 <= turned <= 8 else 1), found.get(COMMENT, b"")


def profile(parts: Sequence[Part]) -> bytes | None:
    """Return the ICC profile of a file: None if it has none, empty if it is damaged.

    Raises:
        ValueError: it is larger than 4 MiB.
    """
    found, pieces = None, {}
    for kind, body, _ in parts:
        if kind == b"iCCP":
            found = _inflated(bytes(body).partition(b"\0")[2][1:], MAX_PROFILE_BYTES)
        elif kind == b"ICCP":
            found = bytes(body)
        elif kind == b"\xe2" and bytes(body[:12]) == b"ICC_PROFILE\0" and len(body) > 14:
            pieces[body[12]] = body
    if pieces:
        whole = sorted(pieces) == list(range(1, pieces[min(pieces)][13] + 1))
        found = b"".join(pieces[i][14:] for i in sorted(pieces)) if whole else b""
    if found is not None and len(found) > MAX_PROFILE_BYTES:
        raise ValueError(f"its colour profile is larger than {MAX_PROFILE_BYTES} bytes")
    return found


def xmp(parts: Sequence[Part]) -> str:
    """Return a file's XMP packet, empty if it has none."""
    for kind, body, _ in parts:
        if kind == b"XMP " or (kind == b"\xe1" and bytes(body[: len(ADOBE)]) == ADOBE):
            return bytes(body).removeprefix(ADOBE).decode("utf-8", "replace")
    return dict(png_texts(parts)).get("XML:com.adobe.xmp", "")


def ai_marks(packet: str, parts: Sequence[Part] = ()) -> str | None:
    """Return in words the marks of AI origin: IPTC's digital source type in an XMP packet, and C2PA."""
    stated = set(re.findall("digitalsourcetype/([A-Za-z]{1,60})", packet)) & _AI_TYPES
    signed = any(
        kind in (b"caBX", b"C2PA")
        or (kind == b"\xeb" and bytes(body[:2]) == b"JP" and b"c2pa" in bytes(body))
        for kind, body, _ in parts
    )
    found = ["a C2PA manifest"] * signed + [f"IPTC's mark {name}" for name in sorted(stated)]
    return " and ".join(found) or None


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is written beside the pixels: the web UI's text, our JSON, IPTC's digital source type."""

    text: str | None = None
    json: str | None = None
    source_type: str | None = None


def describe(parameters: Mapping[str, Any] | None, *, composite: bool = False, mark: bool = True) -> Metadata:
    """Return what a picture's file is to say about its making.

    Args:
        parameters: as ``edgediff run --json`` names them; None leaves them out and keeps the mark.
        composite: the picture was made from another one (image-to-image, inpainting).
        mark: state that a model drew it, as laws on media made by AI ask for.

    Raises:
        InputError: a parameter has no JSON form, or all together exceed 1 MiB.
    """
    source_type = (COMPOSITE if composite else DRAWN) if mark else None
    if parameters is None:
        return Metadata(source_type=source_type)
    try:
        plain = json.dumps(dict(parameters), allow_nan=False)  # ASCII, which every file and tool keeps
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"metadata: a parameter has no JSON form ({error}); give text and numbers."
        ) from error
    if len(plain) > MAX_TEXT_BYTES:
        raise InputError(f"metadata: {len(plain)} bytes are more than {MAX_TEXT_BYTES}; leave some out.")
    return Metadata(_web_ui(parameters), plain, source_type)


def _web_ui(values: Mapping[str, Any]) -> str:
    """Return what AUTOMATIC1111's web UI writes: prompt, negative prompt and a line of pairs."""
    prompt, negative = (one_line(str(values.get(k) or "")) for k in ("prompt", "negative_prompt"))
    if prompt.lstrip().startswith(_NEGATIVE):
        prompt = json.dumps(prompt, ensure_ascii=False)  # or it would be read as the negative one
    sampler, karras = str(values.get("sampler") or ""), None
    if sampler.removesuffix("_karras") in _SAMPLERS:
        karras = "Karras" if sampler.endswith("_karras") else None
        sampler = _SAMPLERS[sampler.removesuffix("_karras")]
    number = {label: values.get(key) for label, (key, _) in _NUMBERS.items()}
    size = f"{values['width']}x{values['height']}" if values.keys() >= {"width", "height"} else None
    pairs = {
        "Steps": number["Steps"], "Sampler": sampler or None, "Schedule type": karras, **number,
        "Size": size, "Model": values.get("model"), "Version": f"edgediff {__version__}",
    }  # fmt: skip
    said = ", ".join(f"{label}: {_quoted(value)}" for label, value in pairs.items() if value is not None)
    return "\n".join([prompt, *([f"{_NEGATIVE} {negative}"] if negative else []), said])


def one_line(text: str) -> str:
    """Return text without what ends a line anywhere, so that a prompt cannot forge other lines."""
    kinds = {"Cc": " ", "Zl": " ", "Zp": " ", "Cs": "\ufffd"}
    return "".join(kinds.get(unicodedata.category(c), c) for c in text.replace("\r\n", "\n"))


def _quoted(value: object) -> str:
    text = one_line(str(value))
    return json.dumps(text, ensure_ascii=False) if re.search('[,:"]', text) else text


def read_metadata(source: object) -> dict[str, Any]:
    """Return the generation parameters in a PNG, JPEG or WebP file (a path or bytes); empty if it has none.

    Those of edgediff come back as they were given; of the text of AUTOMATIC1111's web UI, what edgediff has a
    name for. They are claims of whoever wrote the file: pass them through the same checks as any argument.

    Raises:
        InputError: the file cannot be read, is no such picture or damaged, or its parameters are malformed.
    """
    from edgediff.pictures import file_bytes  # which imports this file

    data = file_bytes(source, "picture")
    try:
        ours, text = _written(split(data))
        return _strict(ours) if ours else _parsed(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"picture: its parameters cannot be read: {one_line(str(error))}.") from error


def _written(parts: Sequence[Part]) -> tuple[str, str]:
    """Return our JSON and the web UI's text, each empty if there is none."""
    texts, packet, comment = dict(png_texts(parts)), xmp(parts), exif(parts)[1]
    pieces = [bytes(b[len(OURS) :]) for k, b, _ in parts if k == b"\xfe" and bytes(b[: len(OURS)]) == OURS]
    inside = re.search('edgediff:parameters="([^"]*)"', packet)
    ours = texts.get("edgediff") or b"".join(pieces).decode("latin-1")
    ours = ours or (html.unescape(inside[1]) if inside else "")
    codecs = {b"UNICODE\0": ("utf-16-be", "utf-16-le"), b"ASCII\0\0\0": ("latin-1",)}.get(comment[:8], ())
    said = [comment[8:].decode(codec, "replace") for codec in codecs]
    text = texts.get("parameters") or next((t for t in said if "Steps: " in t), "")
    if max(len(ours), len(text)) > MAX_TEXT_BYTES:
        raise ValueError(f"they are longer than {MAX_TEXT_BYTES} bytes")
    return ours, text


def _strict(text: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    value = json.loads(text, object_pairs_hook=unique)
    # Writing it again refuses NaN, numbers beyond a float and halves of characters.
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    if not isinstance(value, dict):
        raise ValueError("they are no JSON object")
    return value


def _parsed(text: str) -> dict[str, Any]:
    """Read the web UI's text; whatever has another form than it writes is left out."""
    *lines, last = text.strip().split("\n")
    # The bounded length of keys keeps the time linear.
    found = re.findall(r'(\w[\w /-]{0,40}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last[: 1 << 16])
    if len(found) < 3:
        return {}
    pairs = {label: _unquoted(value.strip()) for label, value in found}
    at = next((i for i, line in enumerate(lines) if line.strip().startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[at:]).strip().removeprefix(_NEGATIVE).strip()
    values: dict[str, Any] = {"prompt": "\n".join(lines[:at]).strip()}
    values |= {"negative_prompt": negative} if negative else {}
    for label, (key, kind) in _NUMBERS.items():
        if re.fullmatch(
            r"[0-9]{1,20}" if kind is int else r"[0-9]{1,20}(\.[0-9]{1,20})?", pairs.get(label, "")
        ):
            values[key] = kind(pairs[label])
    if size := re.fullmatch("([0-9]{1,5})x([0-9]{1,5})", pairs.get("Size", "")):
        values |= {"width": int(size[1]), "height": int(size[2])}
    if "Sampler" in pairs:
        base = pairs["Sampler"].removesuffix(" Karras")
        karras = base != pairs["Sampler"] or pairs.get("Schedule type") == "Karras"
        ours = {theirs: name for name, theirs in _SAMPLERS.items()}.get(base)
        values["sampler"] = f"{ours}{'_karras' * karras}" if ours else pairs["Sampler"]
    return values | ({"model": pairs["Model"]} if pairs.get("Model") else {})


def _unquoted(value: str) -> str:
    try:
        return one_line(str(json.loads(value))) if value.startswith('"') else one_line(value)
    except ValueError:
        return one_line(value)
