"""Pictures and masks that a person hands over: the one place where any of them is decoded.

Everything becomes upright sRGB of 8 bits, or an error that names what was found. Limits are checked before
anything is decoded, and the decoder is given the pixels alone: texts, EXIF and previews never reach it. Of 16
bits the upper 8 are kept where there are colours; gAMA and cHRM of PNG files are ignored.
"""

from __future__ import annotations

import importlib
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgediff import media, metadata
from edgediff.errors import EdgediffError, InputError, ResourceError
from edgediff.media import Bytes, Unit

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_FILE_BYTES = 64 << 20
MAX_PICTURES = 64
MAX_FRAME_PIXELS = 500_000_000  # frames are decoded one after the other up to the one that is named
_PLUGINS = {"PNG": "PngImagePlugin", "JPEG": "JpegImagePlugin", "WEBP": "WebPImagePlugin"}
_PNG_KEPT, _APNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}, {b"acTL", b"fcTL", b"fdAT"}
_JPEG_KEPT = {*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD, 0xE0, 0xEE}  # frames, tables, JFIF and Adobe
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_OPAQUE = {"1": "L", "L": "L", "RGB": "RGB", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB", "CMYK": "CMYK"}
_WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
# littlecms: black stays black (0x2000), and tables of high resolution; names in Pillow vary with its version.
_FLAGS: Any = 0x2400


class SuspiciousInput(UserWarning):
    """An input can be used and is probably not what was meant."""


class _Opened(NamedTuple):
    image: Image
    orientation: int
    profile: bytes | None


def read_picture(
    source: Any, *, name: str = "image", background: Any = None, frame: int | None = None
) -> Bytes:
    """Return a picture as (H, W, 3), upright and in sRGB.

    Args:
        source: path or content of a PNG, JPEG or WebP file, a PIL image, or an array: (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4) of uint8, uint16 or floats in [0, 1].
        name: what errors call it.
        background: colour under transparent pixels, (r, g, b) or a name; without it they are an error.
        frame: which picture of an animated file, from 0; without it an animation is an error.

    Raises:
        InputError: it is none of these, is damaged, or is beyond a limit.
    """
    under = media.colour(background)
    if isinstance(source, np.ndarray):
        pixels = media.levels(media.checked_array(source, name, frame), name)
        return media.flat(pixels[..., :3], pixels[..., 3] if pixels.shape[2] == 4 else None, under, name)
    opened = _opened(source, name, frame)
    with _decoding(name):
        colours, alpha = _layers(opened.image, name)
        pixels = np.asarray(_srgb(colours, opened.profile, name))
    return _upright(media.flat(pixels, alpha, under, name), opened.orientation)


def read_array(source: Any, *, name: str = "image", background: Any = None, frame: int | None = None) -> Unit:
    """Return a picture as (H, W, 3) floats in [0, 1]: as :func:`read_picture`, but arrays keep their bits."""
    if not isinstance(source, np.ndarray):
        return media.per_255(read_picture(source, name=name, background=background, frame=frame))
    under, pixels = media.colour(background), media.unit(media.checked_array(source, name, frame), name)
    colours = np.ascontiguousarray(np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)))
    alpha = pixels[..., 3:]
    if alpha.size == 0 or alpha.min() == 1:
        return colours
    return colours * alpha + media.per_255(media.needed(under, alpha < 1, name)) * (1 - alpha)


def read_pictures(
    source: Any, *, name: str = "image", background: Any = None, frame: int | None = None
) -> list[Unit]:
    """Return 1 to 64 pictures in [0, 1]: a list's, an array's (B, H, W, C), or the one that all else is."""
    if not isinstance(source, (list, tuple)) and not (isinstance(source, np.ndarray) and source.ndim == 4):
        return [read_array(source, name=name, background=background, frame=frame)]
    if not 1 <= len(source) <= MAX_PICTURES:
        raise InputError(f"{name}: found {len(source)} pictures; give 1 to {MAX_PICTURES}.")
    names = [f"{name}[{i}]" for i in range(len(source))]
    given = zip(source, names, strict=True)
    return [read_array(one, name=label, background=background, frame=frame) for one, label in given]


def read_mask(
    source: Any, *, size: Sequence[int] | None = None, name: str = "mask_image",
    frame: int | None = None, from_alpha: bool = False,
) -> Unit:  # fmt: skip
    """Return a mask as (H, W) in [0, 1]: white, 1, is drawn anew; black, 0, is kept; grey stays grey.

    Args:
        source: as for :func:`read_picture`, or an array of bool. Of colours the luminance counts, 0.299 R +
            0.587 G + 0.114 B; colour profiles do not count, because a mask's values are no colours.
        size: (height, width) that it must have.
        name: what errors call it.
        frame: which picture of an animated file.
        from_alpha: take the alpha channel instead: what is opaque is drawn anew.

    Raises:
        InputError: it cannot be read, is of another size, or is transparent and nothing says what that means.
    """
    turn, alpha = 1, None
    if isinstance(source, np.ndarray):
        colours = media.unit(media.checked_array(source, name, frame, mask=True), name)
        if colours.shape[2] == 4:
            colours, alpha = colours[..., :3], colours[..., 3]
    else:
        opened = _opened(source, name, frame)
        with _decoding(name):
            layer, opacity = _layers(opened.image, name)
            layer = layer if layer.mode == "L" else layer.convert("RGB")
            colours = np.atleast_3d(media.per_255(np.asarray(layer)))
        turn, alpha = opened.orientation, None if opacity is None else media.per_255(opacity)
    if from_alpha and alpha is None:
        raise InputError(f"{name}: it has no alpha channel; give it one, or a grey picture.")
    if from_alpha and alpha is not None:
        mask = alpha
    elif alpha is not None and alpha.min() < 1:
        raise InputError(f"{name}: it is partly transparent; make it opaque, or ask for its alpha channel.")
    else:
        grey = bool((colours == colours[..., :1]).all())  # which stays to the bit
        mask = colours[..., 0] if grey else (colours @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
    mask = _upright(mask, turn)
    if size is not None and mask.shape != tuple(size):
        height, width = mask.shape
        raise InputError(
            f"{name}: {width}x{height} is not its picture's size, {size[1]}x{size[0]}; resize it."
        )
    if mask.max() == 0 or mask.min() == 1:
        what = "black, so nothing" if mask.max() == 0 else "white, so everything"
        warnings.warn(f"{name}: it is all {what} is drawn anew.", SuspiciousInput, stacklevel=2)
    return mask


def provenance(source: Any, *, name: str = "image") -> str | None:
    """Return in words what marks of AI origin a picture carries (C2PA, IPTC), which a new file would lose."""
    if isinstance(source, np.ndarray):
        return None
    if isinstance(info := getattr(source, "info", None), dict):
        packet = info.get("xmp") or info.get("XML:com.adobe.xmp") or ""
        return metadata.ai_marks(packet if isinstance(packet, str) else packet.decode("utf-8", "replace"))
    data = file_bytes(source, name)
    with _decoding(name):
        parts = metadata.split(data)
        return metadata.ai_marks(metadata.xmp(parts), parts)


def file_bytes(source: Any, name: str) -> bytes:
    """Return a file's content, given itself or by path: at most 64 MiB.

    What its first bytes say against it is said before the rest is read. Only regular files are opened: a pipe
    would wait for its writer, and a device may never end.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        size = memoryview(source).nbytes
        if size > MAX_FILE_BYTES:
            raise InputError(f"{name}: {size} bytes are more than {MAX_FILE_BYTES}; make it smaller.")
        _check_head(bytes(source[:64]), name)
        return bytes(source)
    if not isinstance(source, (str, Path)):
        what = f"{type(source).__module__}.{type(source).__qualname__}"
        raise InputError(f"{name}: found {what}; give a path, bytes, a PIL image or a NumPy array.")
    what = f"{name}: {str(source)[:200]!a}"
    try:
        _check_state(Path(source).stat(), what)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(source, flags), "rb") as stream:
            _check_state(os.fstat(stream.fileno()), what)  # again: the name may lead elsewhere by now
            head = stream.read(64)
            _check_head(head, name)
            return head + stream.read(
                MAX_FILE_BYTES - len(head)
            )  # a file that grows is cut, and refused then
    except EdgediffError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{what} cannot be read ({reason}); give another file.") from error


def _check_state(state: os.stat_result, what: str) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise InputError(f"{what} is no regular file; give a PNG, JPEG or WebP file.")
    if state.st_size > MAX_FILE_BYTES:
        raise InputError(f"{what}: {state.st_size} bytes are more than {MAX_FILE_BYTES}; make it smaller.")


def _check_head(head: bytes, name: str) -> None:
    """Refuse what is no picture or too large a one by its first 64 bytes; JPEG states its size further on."""
    kind = metadata.format_of(head)
    if kind is None:
        what = f"it begins with {head[:8]!r}" if head else "it is empty"
        raise InputError(f"{name}: {what}; give a PNG, JPEG or WebP picture.")
    if len(head) < 30:
        raise InputError(f"{name}: it is cut off after {len(head)} bytes; get the whole file.")
    if kind == "PNG":
        media.check_size(int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"), name)
    elif kind == "WEBP":
        media.check_size(*_webp_size(head), name)


def _webp_size(head: bytes) -> tuple[int, int]:
    chunk, bits = head[12:16], int.from_bytes(head[21:25], "little")
    if chunk == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if chunk == b"VP8L":
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    frame = int.from_bytes(head[26:30], "little")
    return (frame & 0x3FFF, frame >> 16 & 0x3FFF) if chunk == b"VP8 " else (0, 0)


def _opened(source: Any, name: str, frame: int | None) -> _Opened:
    """Return a decoded picture of any mode, with how it lies and its colour profile."""
    from PIL import Image

    if isinstance(source, Image.Image):
        media.check_size(source.width, source.height, name)
        if getattr(source, "n_frames", 1) > 1:  # to leaf through it would move its owner's place
            raise InputError(f"{name}: it is an animated image; give the copy() of one frame of it.")
        with _decoding(name):
            image = _seeked(source, frame, 1, name)
            block, profile = image.info.get("exif"), image.info.get("icc_profile")
            turn = metadata.parse_exif(block)[0] if isinstance(block, bytes) else 1
            return _Opened(image, turn, profile if isinstance(profile, bytes) else None)
    data = file_bytes(source, name)
    kind = metadata.format_of(data) or ""
    with _decoding(name):
        parts = metadata.split(data)
        if kind == "JPEG":
            header = next((p.body for p in parts if p.kind[0] in _FRAMES), b"")
            media.check_size(int.from_bytes(header[3:5], "big"), int.from_bytes(header[1:3], "big"), name)
        list(metadata.png_texts(parts))  # refuses those that swell
        if kind == "PNG":
            metadata.check_png_pixels(parts)
        turn, profile, frames = metadata.exif(parts)[0], metadata.profile(parts), _frames(parts)
        importlib.import_module(f"PIL.{_PLUGINS[kind]}")  # or Pillow would look through all its formats
        with Image.open(io.BytesIO(_stripped(kind, data, parts, frames > 1)), formats=(kind,)) as image:
            media.check_size(image.width, image.height, name)  # what is decoded is what was checked
            image = _seeked(image, frame, frames, name)
        if kind == "PNG":
            image = _mended(image, parts)
        return _Opened(image, turn, profile)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn whatever a damaged or hostile file makes Pillow raise into one error."""
    try:
        yield
    except (EdgediffError, SuspiciousInput):
        raise
    except MemoryError as error:
        raise ResourceError(f"{name}: memory is too short to decode it; make it smaller.") from error
    except Exception as error:
        hidden = type(error).__name__ == "UnidentifiedImageError"  # its text is an address in memory
        reason = "its header is not valid" if hidden else metadata.one_line(str(error))[:120]
        raise InputError(f"{name}: it cannot be decoded: {reason}; save it again.") from error


def _stripped(kind: str, data: bytes, parts: Sequence[metadata.Part], animated: bool) -> bytes:
    """Return the file without what is no pixels."""
    if kind == "WEBP":
        return data
    kept = _PNG_KEPT | _APNG_KEPT if animated else _PNG_KEPT
    if kind == "JPEG":
        return data[:2] + b"".join(part.raw for part in parts if part.kind[0] in _JPEG_KEPT)
    return data[:8] + b"".join(part.raw for part in parts if part.kind in kept)


def _frames(parts: Sequence[metadata.Part]) -> int:
    """Return how many pictures a file holds, counted as Pillow does."""
    kinds = [part.kind for part in parts]
    if b"acTL" not in kinds or b"IDAT" not in kinds:
        return max(1, kinds.count(b"ANMF"))
    shown = int.from_bytes(parts[kinds.index(b"acTL")].body[:4], "big")
    alone = b"fcTL" not in kinds[: kinds.index(b"IDAT")]  # a still picture for those who cannot animate
    return shown + alone if shown else 1


def _seeked(image: Image, frame: int | None, frames: int, name: str) -> Image:
    """Return the picture that ``frame`` names, loaded."""
    if frame is None and frames > 1:
        raise InputError(f"{name}: it is animated; name one of its {frames} pictures with frame, from 0.")
    if frame is not None and (
        isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < frames
    ):
        raise InputError(
            f"frame: {frame!r} is not a whole number from 0 to {frames - 1}, as {name} has them."
        )
    if frame:
        if (frame + 1) * image.width * image.height > MAX_FRAME_PIXELS:
            raise InputError(f"frame: {frame} is too far into a picture of this size; save it by itself.")
        image.seek(frame)
    image.load()
    return image


def _mended(image: Image, parts: Sequence[metadata.Part]) -> Image:
    """Set right what Pillow makes of a PNG file's palette and transparent colour."""
    from PIL import Image as module

    depth, colour = parts[0].body[8], parts[0].body[9]
    key = next((bytes(part.body) for part in parts if part.kind == b"tRNS"), b"")
    if colour == 3:
        palette = next((part.body for part in parts if part.kind == b"PLTE"), b"")
        if np.asarray(image).max() >= len(palette) // 3:
            raise ValueError("it uses colours that its palette lacks")
    elif key and colour == 2 and depth == 16:
        raise ValueError("of 16-bit colours none can be transparent here")
    elif key and depth < 8:  # the key counts in steps of the file, the pixels were widened
        image.info["transparency"] = int.from_bytes(key[:2], "big") * 255 // ((1 << depth) - 1)
    if image.mode == "I":  # older versions of Pillow read 16 bits so
        transparent = image.info
        image = module.fromarray(np.asarray(image).astype(np.uint16))
        image.info.update(transparent)
    return image


def _layers(image: Image, name: str) -> tuple[Image, Bytes | None]:
    """Return the colours of an image, as L, RGB or CMYK, and its opacity if it has any."""
    from PIL import Image as module

    if image.mode.startswith("I;16"):
        values, key = np.asarray(image), image.info.get("transparency")
        alpha = None if key is None else np.where(values == key, 0, 255).astype(np.uint8)
        return module.fromarray(media.levels(values.astype(np.uint16), name)), alpha
    if image.mode in _WITH_ALPHA or image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA", "La")
        whole = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return whole.getchannel("R") if grey else whole.convert("RGB"), np.asarray(whole.getchannel("A"))
    if image.mode == "P":
        return image.convert("RGB"), None
    if image.mode not in _OPAQUE:
        raise InputError(f"{name}: images of mode {image.mode} have no one range; convert it to RGB or L.")
    return image.convert(_OPAQUE[image.mode]), None


def _srgb(colours: Image, profile: bytes | None, name: str) -> Image:
    """Convert to sRGB; a profile that is damaged or does not fit is ignored with a warning."""
    if profile is None:
        return colours.convert("RGB")
    try:
        from PIL import ImageCms

        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        grey = colours.mode == "L" and space == "RGB"  # grey pictures keep their file's profile
        fitting = colours.convert("RGB") if grey else colours
        if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != fitting.mode:
            raise ValueError(f"it is for {space}, the picture is {colours.mode}")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        srgb = ImageCms.createProfile("sRGB")
        found = ImageCms.profileToProfile(fitting, source, srgb, intent, "RGB", flags=_FLAGS)
        assert found is not None  # it is None only for a change in place
        return found
    except Exception as error:  # littlecms's errors have no common base
        reason = metadata.one_line(str(error))[:120]
        warnings.warn(f"{name}: its colour profile is ignored: {reason}.", SuspiciousInput, stacklevel=3)
        return colours.convert("RGB")


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo EXIF's orientation, 1 to 8: the upper four lie on their side, the others may be mirrored."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
