"""Arrays to pictures and back, transparency, formats, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgediff import media
from edgediff.errors import InputError, ResourceError
from edgediff.pictures import read_array, read_picture
from tests.edgediff.test_pictures_in import SIGNATURE, chunk, file, pixels, png, refused


def test_rounding_is_to_the_nearest_even() -> None:
    values = np.array([0, 0.5, 1.5, 2.5, 254.5, 255], np.float32) / np.float32(255)
    assert media.to_bytes(values).tolist() == [0, 0, 2, 2, 254, 255]


def test_every_byte_survives() -> None:
    every = np.arange(256, dtype=np.float32) / np.float32(255)
    assert media.to_bytes(every).tolist() == list(range(256))


def test_the_range_is_clipped_and_axes_moved() -> None:
    decoded = np.zeros((1, 3, 2, 4), np.float32)
    decoded[0, 0], decoded[0, 1] = -3, 1.0000001
    pictures = media.unit_range(decoded)
    assert pictures.shape == (1, 2, 4, 3)
    assert pictures.dtype == np.float32
    assert pictures[0, 0, 0].tolist() == [0, 1, 0.5]
    assert media.to_bytes(pictures)[0, 0, 0].tolist() == [0, 255, 128]


def test_pil_pictures() -> None:
    (picture,) = media.to_pil(np.full((1, 2, 3, 3), 1 / 3, np.float32))
    assert (picture.mode, picture.size) == ("RGB", (3, 2))
    assert picture.getpixel((0, 0)) == (85, 85, 85)


def picture() -> Any:
    """Return a small picture with content."""
    content = np.random.RandomState(0).randint(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(content)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "PNG"), ("a.PNG", "PNG"), ("a.jpg", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP")],
)
def test_formats(tmp_path: Path, name: str, kind: str) -> None:
    media.save(picture(), tmp_path / name)
    with Image.open(tmp_path / name) as read:
        assert read.format == kind
        assert read.size == (16, 16)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_png_is_exact_and_carries_text(tmp_path: Path) -> None:
    text = {"edgediff": '{"prompt": "naïve 日本 🎈"}'}
    media.save(picture(), tmp_path / "a.png", text)
    with Image.open(tmp_path / "a.png") as read:
        assert read.text == text  # type: ignore[attr-defined]
        assert np.array_equal(np.asarray(read), np.asarray(picture()))


def test_names_with_odd_characters(tmp_path: Path) -> None:
    for name in ("100%s.png", "naïve 🎈.png", ".hidden.png", "two.dots.png", "-o.png"):
        media.save(picture(), media.checked_output(tmp_path / name))
        assert (tmp_path / name).is_file()


class FullDisk:
    """A stream that takes ``room`` bytes and then fails."""

    def __init__(self, stream: Any, room: int, code: int) -> None:
        self._stream, self._room, self._code = stream, room, code

    def write(self, data: bytes) -> int:
        self._room -= self._stream.write(data[: self._room])
        if self._room <= 0:
            raise OSError(self._code, os.strerror(self._code))
        return len(data)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    plain = Path.open
    for room in (0, 1, 100):
        monkeypatch.setattr(Path, "open", lambda self, mode, r=room: FullDisk(plain(self, mode), r, code))
        with pytest.raises(ResourceError) as caught:
            media.save(picture(), tmp_path / name)
        assert os.strerror(code) in str(caught.value)
        assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    media.save(picture(), tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_the_old_picture_stays_when_the_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
    with pytest.raises(ResourceError, match="Read-only"):
        media.save(picture(), file)
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_closed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be written to"):
        media.checked_output(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a", "suffix ''"),
        ("a.gif", "suffix '.gif'"),
        ("a.png/", "exists|folder"),
        ("nowhere/a.png", "does not exist"),
        ("there.png", "--overwrite"),
        ("folder.png", "exists"),
        ("nul\0.png", "control characters"),
        ("\udcff.png", "UTF-8"),
        ("x" * 300 + ".png", "too long"),
    ],
)
def test_outputs_are_refused_before_work(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "there.png").write_bytes(b"old")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InputError, match=says):
        media.checked_output(f"{tmp_path}/{name}")


def test_overwriting_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    file = media.checked_output(tmp_path / "a.png", overwrite=True)
    media.save(picture(), file)
    assert Image.open(file).format == "PNG"
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError):
        media.checked_output(tmp_path / "folder.png", overwrite=True)
    for format_too_small in ("a.webp", "a.jpg"):
        with pytest.raises(InputError, match=r"output .*70000x8 is more than the \d+ pixels .*use \.png"):
            media.checked_output(tmp_path / format_too_small, True, size=(8, 70000))
    media.checked_output(tmp_path / "a.png", True, size=(8, 70000))


@pytest.mark.parametrize(("name", "largest"), [("a.webp", 16383), ("a.jpg", 65500)])
def test_the_largest_sides_are_those_of_the_encoders(tmp_path: Path, name: str, largest: int) -> None:
    """A picture too large for its format is refused before it is drawn."""
    file = media.checked_output(tmp_path / name, size=(1, largest))
    media.save(Image.new("RGB", (largest, 1)), file)
    with pytest.raises((OSError, ValueError)):
        media.encoded(Image.new("RGB", (largest + 1, 1)), media.FORMATS[file.suffix])
    for size in ((1, largest + 1), (largest + 1, 1)):
        with pytest.raises(InputError, match="more than"):
            media.checked_output(tmp_path / f"other{name}", size=size)


def test_numbered_outputs(tmp_path: Path) -> None:
    def names(count: int) -> list[str]:
        return [file.name for file in media.checked_outputs(tmp_path / "a.b.png", count)]

    assert names(1) == ["a.b.png"]
    assert names(3) == ["a.b-1.png", "a.b-2.png", "a.b-3.png"]
    assert names(10) == [f"a.b-{i:02}.png" for i in range(1, 11)] == sorted(names(10))
    (tmp_path / "a.b-3.png").touch()
    with pytest.raises(InputError, match=r"a\.b-3\.png: it exists"):
        names(3)
    assert len(media.checked_outputs(tmp_path / "a.b.png", 3, overwrite=True)) == 3
    with pytest.raises(InputError, match="more than the 16383"):
        media.checked_outputs(tmp_path / "a.webp", 2, size=(8, 20000))


def test_suspicious_results() -> None:
    """F112: an output of one flat colour is said to be, noise and gradients are not."""
    plain, drawn = np.zeros((8, 8, 3), np.float32), pixels(8, 8) / np.float32(255)
    assert media.suspicious(np.stack([drawn, drawn])) is None
    assert media.suspicious(np.stack([drawn, plain])) == "picture 1 is of one colour, (0, 0, 0)"
    assert media.suspicious([Image.new("RGB", (8, 8), (3, 2, 1))]) == "picture 0 is of one colour, (3, 2, 1)"
    plain[0, 0, 0] = 1 / 255
    assert media.suspicious(plain[None]) is not None
    plain[0, 0, 0] = 2 / 255
    assert media.suspicious(plain[None]) is None


ARRAY = pixels()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((0, 8, 3), np.uint8), "8x0 pixels"),
        (np.zeros((8, 8, 0), np.uint8), r"\(8, 8, 0\)"),
        (ARRAY.transpose(2, 0, 1), r"channels come first: use \.transpose\(1, 2, 0\)"),
        (ARRAY[..., :2], r"\(16, 24, 2\)"),
        (ARRAY[0], r"\(24, 3\)|24x|3x24"),
        (np.zeros(8, np.uint8), r"\(8,\)"),
        (ARRAY.astype(np.int64), "int64"),
        (ARRAY.astype(np.uint32), "uint32"),
        (ARRAY.astype(complex), "complex128"),
        (ARRAY.astype(object), "object"),
        (ARRAY.astype(str), "U"),
        (ARRAY.astype(np.float32), "from 0 to 255"),
        (np.full((8, 8), np.nan), "from nan to nan"),
        (np.full((8, 8), np.inf), "from inf to inf"),
        (np.full((8, 8), -0.001), "from -0.001"),
        (np.where(np.arange(64).reshape(8, 8) == 5, np.nan, 0.5), "nan"),
    ],
)
def test_arrays_that_are_no_pictures(array: Any, says: str) -> None:
    """F098"""
    refused(array, says)
    with pytest.raises(InputError, match=says):
        read_array(array)


def test_arrays_of_any_layout() -> None:
    """F098: byte order and strides change nothing."""
    wide = np.random.RandomState(0).randint(0, 65536, (16, 24, 3)).astype(np.uint16)
    unit = np.random.RandomState(1).rand(16, 24, 3)
    for array in (ARRAY, wide, unit, unit.astype(np.float32), unit.astype(np.float16)):
        truth, exact = read_picture(array), read_array(array)
        top = {"uint8": 255, "uint16": 65535}.get(array.dtype.name, 1)
        assert np.abs(exact - array.astype(np.float64) / top).max() <= 6e-8
        assert np.abs(truth - array.astype(np.float64) / top * 255).max() <= 0.5 + 1e-4
        for same in (
            array.astype(array.dtype.newbyteorder(">")),
            array.astype(array.dtype.newbyteorder("<")),
            np.asfortranarray(array),
            np.repeat(array, 2, axis=1)[:, ::2],
            array[::-1][::-1],
        ):
            assert np.array_equal(read_picture(same), truth)
            assert np.array_equal(read_array(same), exact)
        for found in (truth, exact, read_picture(array[..., :1]), read_array(array[..., 0])):
            assert (found.shape, found.flags.c_contiguous, found.dtype.isnative) == ((16, 24, 3), True, True)
    assert np.array_equal(read_array(file(ARRAY)), ARRAY / np.float32(255))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "image", "array", "deep array"])
def test_transparency(kind: str) -> None:
    """F093: composed by the formula, to half a step; nothing is thrown away unasked."""
    four = pixels(channels=4)
    given: Any = {
        "image": Image.fromarray(four),
        "array": four,
        "deep array": four.astype(np.uint16) * 257,
    }.get(kind)
    given = file(four, kind) if given is None else given
    refused(given, "of 384 pixels are transparent; name a background")
    alpha = four[..., 3:] / 255
    for background, colour in (("white", 255), ((10, 20, 30), [10, 20, 30]), ("#0a141e", [10, 20, 30])):
        truth = four[..., :3] * alpha + np.array(colour) * (1 - alpha)
        assert np.abs(read_picture(given, background=background) - truth).max() <= 0.51
        assert np.abs(read_array(given, background=background) * 255.0 - truth).max() <= 0.51
    opaque = four.copy()
    opaque[..., 3] = 255
    assert np.array_equal(read_picture(opaque), four[..., :3])
    assert np.array_equal(read_picture(file(opaque)), four[..., :3])


@pytest.mark.parametrize(
    "background", ["no colour", (1, 2), (256, 0, 0), (0.5, 0, 0), (True, 0, 0), "#ffffff80", 7]
)
def test_backgrounds(background: Any) -> None:
    refused(pixels(), "is no colour", background=background)


def test_palettes_and_transparent_colours() -> None:
    """F092, F093: where Pillow draws black or forgets what is transparent."""
    indices = bytes(range(8)) * 8
    table = chunk(b"PLTE", bytes(range(100, 124)))
    truth = np.arange(100, 124).reshape(8, 3)
    assert np.array_equal(read_picture(png(8, 8, 8, 3, indices, table))[0], truth)
    refused(png(8, 8, 8, 3, indices, chunk(b"PLTE", bytes(6))), "palette lacks")
    refused(png(8, 8, 8, 3, indices), "palette lacks|decoded")
    half = png(8, 8, 8, 3, indices, table, chunk(b"tRNS", b"\xff\x80\0"))
    refused(half, "16 of 64 pixels are transparent")
    mixed = read_picture(half, background=(0, 0, 0))[0]
    assert np.abs(mixed[:3] - truth[:3] * np.array([[255], [128], [0]]) / 255).max() <= 0.5
    assert np.array_equal(mixed[3:], truth[3:])
    for depth, rows, key in (
        (1, b"\x0f", 1),
        (2, b"\x1b\xe4", 3),
        (4, b"\x0f\x1f\x2f\x3f", 15),
        (8, bytes(range(8)), 7),
    ):
        content = png(8, 8, depth, 0, rows * 8, chunk(b"tRNS", struct.pack(">H", key)))
        opaque = png(8, 8, depth, 0, rows * 8)
        top = key * 255 // (2**depth - 1)
        expected = np.where(read_picture(opaque) == top, 9, read_picture(opaque))
        assert (read_picture(opaque) == top).any()
        assert np.array_equal(read_picture(content, background=(9, 9, 9)), expected)
    deep = np.arange(64, dtype=">u2").tobytes()
    assert read_picture(png(8, 8, 16, 0, deep, chunk(b"tRNS", b"\0\1")), background="red")[0, 1].tolist() == [
        255,
        0,
        0,
    ]
    refused(png(8, 8, 16, 2, deep * 3, chunk(b"tRNS", bytes(6))), "16-bit")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_interlaced(depth: int) -> None:
    """All seven passes have to be there, for any size."""
    for side in (8, 9, 13, 16):
        row = (side * depth + 7) // 8
        plain = png(side, side, depth, 0, bytes(row * side))
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
        raw = b""
        for x, y, across, down in [*passes, (0, 1, 1, 2)]:
            columns, rows = len(range(x, side, across)), len(range(y, side, down))
            raw += bytes((1 + (columns * depth + 7) // 8) * rows)
        head = bytearray(plain[8:33])
        head[20] = 1
        whole = [SIGNATURE, chunk(b"IHDR", bytes(head[8:21])), b"", chunk(b"IEND", b"")]
        whole[2] = chunk(b"IDAT", zlib.compress(raw))
        assert read_picture(b"".join(whole)).shape == (side, side, 3)
        whole[2] = chunk(b"IDAT", zlib.compress(raw[:-1]))
        refused(b"".join(whole), "end early")


def test_sixteen_bits() -> None:
    """F091"""
    ramp = np.linspace(0, 65535, 64 * 48).astype(">u2").reshape(64, 48)
    truth = ramp.astype(np.float64) / 257
    grey = read_picture(png(48, 64, 16, 0, ramp.tobytes()))
    assert np.abs(grey - truth[..., None]).max() <= 0.5
    for colour, channels in ((2, 3), (4, 2), (6, 4)):
        wide = np.repeat(ramp[..., None], channels, 2)
        if colour != 2:
            wide[..., -1] = 65535
        found = read_picture(png(48, 64, 16, colour, wide.tobytes()))
        assert np.abs(found - truth[..., None]).max() < 1
    assert np.array_equal(read_picture(Image.fromarray(ramp.astype(np.uint16))), grey)
    assert np.array_equal(read_picture(ramp), grey)
    assert np.abs(read_array(ramp) - ramp.astype(np.float64)[..., None] / 65535).max() < 1e-7
