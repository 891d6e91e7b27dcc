"""Pictures: rounding, formats, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgediff import media
from edgediff.errors import InputError, ResourceError


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
