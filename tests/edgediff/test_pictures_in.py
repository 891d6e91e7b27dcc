"""Pictures and masks that a person hands over: every input is made here, every truth is computed apart."""

from __future__ import annotations

import colorsys
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, WebPImagePlugin

from edgediff import pictures
from edgediff.errors import InputError, ResourceError
from edgediff.pictures import SuspiciousInput, read_mask, read_picture

FORMATS = ["PNG", "JPEG", "WEBP"]
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def pixels(height: int = 16, width: int = 24, channels: int = 3) -> Any:
    """Random bytes; the first channels are the same for any number of them."""
    return np.random.RandomState(0).randint(0, 256, (height, width, 4), dtype=np.uint8)[..., :channels]


def smooth(height: int = 32, width: int = 48) -> Any:
    """A gradient that JPEG keeps well."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5, y * 7, 255 - x * 2], -1).astype(np.uint8)


def file(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    """Return the content of a picture file, lossless if the format can."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}), **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """Return a PNG file of unfiltered rows; ``extra`` chunks stand before the pixels."""
    stride = len(rows) // height if height else 0
    raw = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return SIGNATURE + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail whatever decodes pixels."""

    def fail(*_: object) -> None:
        pytest.fail("pixels were decoded")

    for owner in (ImageFile.ImageFile, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(owner, "load", fail)


def refused(source: Any, says: str, **options: Any) -> None:
    """Expect an error of one line that names the argument."""
    with pytest.raises(InputError, match=says) as caught:
        read_picture(source, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(("image: ", "frame: ", "background: "))


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(tmp_path: Path, kind: str) -> None:
    content = file(smooth(), kind)
    (tmp_path / "picture").write_bytes(content)
    found = read_picture(tmp_path / "picture")
    assert (found.dtype, found.shape, found.flags.c_contiguous) == (np.uint8, (32, 48, 3), True)
    assert np.abs(found.astype(int) - smooth()).mean() <= (3 if kind == "JPEG" else 0)
    for same in (str(tmp_path / "picture"), content, bytearray(content), Image.open(io.BytesIO(content))):
        assert np.array_equal(read_picture(same), found)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0", b"8BPS\0\1", b"%PDF-1.7", b"MZ\x90\0", b"II*\0",
     file(pixels(), "GIF"), file(pixels(), "BMP"), file(pixels(), "TIFF"), b"RIFF\0\0\0\0WAVE", SIGNATURE],
)  # fmt: skip
@pytest.mark.usefixtures("undecoded")
def test_other_files(tmp_path: Path, content: bytes) -> None:
    """F083"""
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", "give a PNG, JPEG or WebP|cut off")
    refused(content, "give a PNG, JPEG or WebP|cut off")


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_cut_off(monkeypatch: pytest.MonkeyPatch, kind: str, lenient: bool) -> None:
    """F084: also where the host program asked Pillow to be lenient."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    content = file(pixels(64, 64), kind)
    for cut in [1, 2, 3, 4, 11, 12, 13, *np.linspace(20, len(content) - 1, 20).astype(int)]:
        refused(content[:-cut], "cut off|empty|begins with")


def test_damaged_pixels() -> None:
    """F084: sound parts around pixels that end early or are no zlib stream."""
    whole = png(8, 8, 8, 2, bytes(192))
    short = zlib.compress(bytes(100))
    for stream in (short, b"no zlib", b""):
        header, end = whole[:33], chunk(b"IEND", b"")
        refused(header + chunk(b"IDAT", stream) + end, "cannot be decoded")
    refused(whole[:33] + chunk(b"IEND", b""), "cannot be decoded")


def test_checksums() -> None:
    """F085: in every part of the file; Pillow itself looks at those before the pixels alone."""
    content = png(8, 8, 8, 2, bytes(192), chunk(b"tEXt", b"a\0b"))
    for at in range(29, len(content)):
        if content[at - 4 : at] in (b"IDAT", b"IEND", b"tEXt"):
            damaged = bytearray(content)
            damaged[at if content[at - 4 : at] != b"IEND" else at + 1] ^= 1
            refused(bytes(damaged), "checksum")


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG file whose header states another size than its pixels have."""
    content = bytearray(file(smooth(), "JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def webp_of(width: int, height: int) -> bytes:
    content = bytearray(file(smooth(), "WEBP"))
    assert content[12:16] == b"VP8L"
    content[21:25] = ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("width", "height"),
    [(50_000, 40_000), (10_000, 10_000), (16_385, 8), (1, 1), (1, 16_384), (0, 8), (8, 7)],
)
@pytest.mark.usefixtures("undecoded")
def test_sizes(width: int, height: int) -> None:
    """F086, F087, F088"""
    says = f"{width}x{height} pixels; sides of 8 to 16384"
    refused(png(width, height, 8, 2, b""), says)
    refused(jpeg_of(width, height), says)
    if 0 < width <= 16384:
        refused(webp_of(width, height), says)
    if width * height <= 10**8:
        refused(np.zeros((height, width), np.uint8), says)


@pytest.mark.filterwarnings("error")
def test_a_bomb(tmp_path: Path, undecoded: None) -> None:
    """F087: 169 megapixels of zeros in half a megabyte."""
    row = zlib.compressobj(9)
    body = b"".join([*(row.compress(bytes(1 + 13_000 * 3)) for _ in range(13_000)), row.flush()])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 13_000, 13_000, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(SIGNATURE + header + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    refused(tmp_path / "bomb.png", "13000x13000 pixels")


def test_a_header_that_states_two_sizes() -> None:
    """A second header is not what was checked."""
    content = file(smooth(), "JPEG")
    at = content.index(b"\xff\xc0")
    frame = bytearray(content[at : at + 19])
    frame[5:9] = struct.pack(">HH", 60_000, 60_000)
    refused(content[: at + 19] + bytes(frame) + content[at + 19 :], "60000x60000|cannot be decoded")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    refused(png(8, 8, 8, 2, bytes(192), header), "60000x60000|cannot be decoded")


FIFTY = zlib.compress(bytes(50 << 20))
ONE = zlib.compress(bytes(1 << 20))


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(b"zTXt", b"a\0\0" + FIFTY)],
        [chunk(b"iTXt", b"a\0\1\0\0\0" + FIFTY)],
        [chunk(b"iCCP", b"a\0\0" + FIFTY)],
        [chunk(b"zTXt", b"a\0\0" + ONE)] * 200,
        [chunk(b"tEXt", b"a\0" + b"x" * (2 << 20))],
        [chunk(b"puFF", b"")] * 70_000,
    ],
)
@pytest.mark.usefixtures("undecoded")
def test_texts_that_swell(chunks: list[bytes]) -> None:
    """F089"""
    refused(png(8, 8, 8, 2, bytes(192), *chunks), "larger than|over 1048576|more than 65536 parts")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", [*range(10), 65535])
def test_orientation(kind: str, orientation: int) -> None:
    """F090: against Pillow's own."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = file(smooth(), kind, exif=exif.tobytes())
    truth = Image.open(io.BytesIO(content))
    truth = ImageOps.exif_transpose(truth) if orientation in range(1, 9) else truth
    assert np.array_equal(read_picture(content), np.asarray(truth))
    assert np.array_equal(read_picture(Image.open(io.BytesIO(content))), np.asarray(truth))
    assert read_mask(content).shape == np.asarray(truth).shape[:2]


def truths() -> dict[str, tuple[Any, Any]]:
    """Images by mode with the RGB that they mean, by formula."""
    rgb, four = pixels(), pixels(channels=4).astype(np.float64)
    grey = rgb[..., 0]
    cmyk = (255 - four[..., :3]) * (255 - four[..., 3:]) / 255
    y, cb, cr = (rgb[..., i].astype(np.float64) for i in range(3))
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    ycc = np.stack([y + 1.402 * (cr - 128), green, y + 1.772 * (cb - 128)], -1)
    hsv = [colorsys.hsv_to_rgb(*(p / 255)) for p in rgb.reshape(-1, 3).astype(np.float64)]
    palette = Image.fromarray(grey % 8, "P")
    palette.putpalette(bytes(range(0, 240, 10)))
    table = np.arange(0, 240, 10).reshape(8, 3)
    three = np.repeat(grey[..., None], 3, 2)
    return {
        "1": (Image.fromarray(grey > 127), np.where(three > 127, 255, 0)),
        "L": (Image.fromarray(grey), three),
        "LA": (Image.fromarray(np.stack([grey, np.full_like(grey, 255)], -1)), three),
        "P": (palette, table[grey % 8]),
        "RGB": (Image.fromarray(rgb), rgb),
        "RGBA": (Image.fromarray(np.dstack([rgb, np.full_like(grey, 255)])), rgb),
        "CMYK": (Image.fromarray(pixels(channels=4), "CMYK"), cmyk),
        "YCbCr": (Image.fromarray(rgb, "YCbCr"), np.clip(ycc, 0, 255)),
        "HSV": (Image.fromarray(rgb, "HSV"), np.array(hsv).reshape(rgb.shape) * 255),
        "PA": (palette.convert("PA"), table[grey % 8]),
        "RGBX": (Image.fromarray(rgb).convert("RGBX"), rgb),
        "RGBa": (Image.fromarray(rgb).convert("RGBa"), rgb),
        "La": (Image.fromarray(np.stack([grey, np.full_like(grey, 255)], -1)).convert("La"), three),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "PA", "RGBX", "RGBa", "La"]
)
def test_modes(mode: str) -> None:
    """F092"""
    image, truth = truths()[mode]
    assert image.mode == mode
    tolerance = {"CMYK": 1, "YCbCr": 1.5, "HSV": 2}.get(mode, 0)
    assert np.abs(read_picture(image).astype(np.float64) - truth).max() <= tolerance
    if mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        assert np.array_equal(read_picture(file(image)), truth)


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_modes_without_a_range(mode: str) -> None:
    """F092"""
    refused(Image.new(mode, (16, 16)), f"mode {mode}")


@pytest.mark.parametrize("kind", ["fifo", "folder", "sparse", "missing", "nul", "empty name", "long", "url"])
def test_no_regular_files(tmp_path: Path, kind: str) -> None:
    """F099: refused at once, without a word from whoever writes the pipe."""
    path: Any = tmp_path / "a.png"
    if kind == "fifo":
        getattr(os, "mkfifo", lambda _: pytest.skip("no pipes here"))(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as stream:
            stream.truncate(10 << 30)
    path = {"nul": "a\0b.png", "empty name": "", "long": "x" * 5000, "url": "https://example.org/a.png"}.get(
        kind, path
    )
    refused(path, "no regular file|bytes are more|cannot be read")
    refused(str(path), "no regular file|bytes are more|cannot be read")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/stdin", "/proc/self/mem"])
def test_devices(device: str) -> None:
    """F099"""
    if not Path(device).exists():
        pytest.skip("no such device here")
    refused(device, "no regular file|cannot be read|is empty|give a PNG")


def test_too_many_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """F099"""
    content = file(pixels())
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", len(content) - 1)
    (tmp_path / "a.png").write_bytes(content)
    for source in (content, memoryview(content), tmp_path / "a.png"):
        refused(source, "bytes are more than")


@pytest.mark.parametrize("source", [None, 7, object(), [[1]], io.BytesIO()])
def test_other_things(source: Any) -> None:
    refused(source, "found .*give a path, bytes, a PIL image or a NumPy array")


def mask_refused(source: Any, says: str, **options: Any) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read_mask(source, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("mask_image: ")


def test_previews_are_no_frames() -> None:
    """F094: some cameras put more pictures behind the first; only that one is it."""
    content = file(smooth(), "MPO", save_all=True, append_images=[Image.fromarray(pixels())])
    assert np.abs(read_picture(content).astype(int) - smooth()).mean() < 3
    assert read_picture(content, frame=0).shape == smooth().shape


def test_masks() -> None:
    """F096: white is drawn anew, grey stays grey, and every form says the same."""
    grey = pixels(channels=1)[..., 0]
    truth = grey.astype(np.float32) / np.float32(255)
    three = np.repeat(grey[..., None], 3, 2)
    for form in (grey, grey[..., None], file(grey), Image.fromarray(grey), three, file(three), truth):
        found = read_mask(form, size=(16, 24))
        assert (found.dtype, found.shape) == (np.float32, (16, 24))
        assert np.array_equal(found, truth)
    for bits in (grey > 127, Image.fromarray(grey > 127)):
        assert np.array_equal(read_mask(bits), (grey > 127).astype(np.float32))
    assert np.abs(read_mask(grey.astype(np.uint16) * 257) - truth).max() < 1e-6
    luminance = pixels() @ np.array([0.299, 0.587, 0.114]) / 255
    assert np.abs(read_mask(pixels()) - luminance).max() < 1e-6
    assert np.abs(read_mask(file(pixels())) - luminance).max() < 1e-6


def test_masks_of_transparency() -> None:
    """F093, F096: the alpha channel is a mask only when it is asked for; opaque is drawn anew."""
    four = pixels(channels=4)
    for form in (four, file(four), Image.fromarray(four), four / 255):
        mask_refused(form, "partly transparent")
        assert np.abs(read_mask(form, from_alpha=True) - four[..., 3] / 255).max() < 1e-6
    mask_refused(pixels(), "no alpha channel", from_alpha=True)
    four[..., 3] = 255
    assert np.array_equal(read_mask(four), read_mask(pixels()))


def test_masks_that_cannot_be_meant() -> None:
    """F096"""
    with pytest.warns(SuspiciousInput, match="mask_image: it is all black, so nothing"):
        assert not read_mask(np.zeros((16, 24), bool)).any()
    with pytest.warns(SuspiciousInput, match="all white, so everything"):
        assert read_mask(file(np.full((16, 24), 255, np.uint8))).all()
    mask_refused(pixels(channels=1), "24x16 is not its picture's size, 16x24", size=(24, 16))
    mask_refused(np.full((16, 24), 1.5), "from 1.5 to 1.5")
    mask_refused(pixels()[..., :2], "shape")
    refused(np.zeros((16, 24), bool), "array of bool")
    with pytest.raises(InputError, match="my mask"):
        read_mask(b"", name="my mask")


def test_damage_anywhere() -> None:
    """Whatever is wrong in a file is an error of ours or a picture, and never anything else."""
    random = np.random.RandomState(1)
    for kind in FORMATS:
        content = file(smooth(), kind, exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0")
        for _ in range(200):
            damaged = bytearray(content)
            for at in random.randint(0, len(content), 3):
                damaged[at] = random.randint(256)
            try:
                assert read_picture(bytes(damaged), background="white", frame=0).dtype == np.uint8
            except InputError as error:
                assert "\n" not in str(error)


def test_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    content = file(pixels())
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(ResourceError, match="memory is too short"):
        read_picture(content)
