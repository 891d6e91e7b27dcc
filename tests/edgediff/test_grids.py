"""Several pictures: in a list, in one file, in one grid."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgediff import pictures
from edgediff.errors import InputError
from edgediff.grids import grid
from edgediff.pictures import read_picture, read_pictures
from tests.edgediff.test_pictures_in import file, pixels, refused


def test_several() -> None:
    one, two = pixels(), pixels(8, 8)
    assert [p.shape for p in read_pictures([one, file(two), Image.fromarray(one)])] == [
        (16, 24, 3),
        (8, 8, 3),
        (16, 24, 3),
    ]
    unit = one.astype(np.float32) / np.float32(255)
    assert all(np.array_equal(p, unit) for p in read_pictures(np.stack([one, one])))
    assert np.array_equal(read_pictures(file(one))[0], unit)
    with pytest.raises(InputError, match=r"image\[1\]: it is empty"):
        read_pictures([one, b""])
    for none in ([], [one] * 65, np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(InputError, match="give 1 to 64"):
            read_pictures(none)
    refused(np.stack([one, one]), r"\(2, 16, 24, 3\)")


def animation(kind: str, **options: Any) -> tuple[bytes, list[Any]]:
    frames = [np.full((16, 16, 3), 60 * i, np.uint8) for i in range(1, 4)]
    images = [Image.fromarray(frame) for frame in frames]
    return file(images[0], kind, save_all=True, append_images=images[1:], duration=50, **options), frames


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations(kind: str) -> None:
    """F094"""
    content, frames = animation(kind)
    refused(content, "animated; name one of its 3")
    for i, frame in enumerate(frames):
        assert np.array_equal(read_picture(content, frame=i), frame)
    for wrong in (3, -1, True, 1.0, "0"):
        refused(content, "from 0 to 2", frame=wrong)
    assert np.array_equal(read_picture(file(frames[0], kind), frame=0), frames[0])
    refused(file(frames[0], kind), "from 0 to 0", frame=1)
    refused(frames[0], "no frames", frame=0)
    refused(content[: len(content) // 2], "cut off", frame=0)
    image = Image.open(io.BytesIO(content))
    refused(image, "animated", frame=1)
    image.seek(1)
    assert np.array_equal(read_picture(image.copy()), frames[1])


def test_a_still_picture_before_an_animation() -> None:
    """F094: it counts as frame 0."""
    content, frames = animation("PNG", default_image=True)
    refused(content, "animated; name one of its 3")
    assert [int(read_picture(content, frame=i)[0, 0, 0]) for i in range(3)] == [f[0, 0, 0] for f in frames]


def test_a_frame_far_into_an_animation(monkeypatch: pytest.MonkeyPatch) -> None:
    """F094: the work is bounded."""
    monkeypatch.setattr(pictures, "MAX_FRAME_PIXELS", 16 * 16 * 2)
    content, _ = animation("PNG")
    read_picture(content, frame=1)
    refused(content, "too far", frame=2)


def flat(level: int, height: int = 4, width: int = 6) -> Any:
    return Image.new("RGB", (width, height), (level, level, level))


@pytest.mark.parametrize(
    ("count", "columns", "across", "down"),
    [(1, None, 1, 1), (2, None, 2, 1), (3, None, 2, 2), (4, None, 2, 2), (5, None, 3, 2), (7, None, 3, 3),
     (10, None, 4, 3), (4, 1, 1, 4), (4, 4, 4, 1), (5, 2, 2, 3)],
)  # fmt: skip
def test_grids(count: int, columns: int | None, across: int, down: int) -> None:
    whole = grid([flat(i + 1) for i in range(count)], columns, background=(200, 0, 0))
    assert whole.size == (6 * across, 4 * down)
    content = np.asarray(whole)
    for i in range(across * down):
        tile = content[i // across * 4 :, i % across * 6 :][:4, :6]
        assert (tile == ([i + 1] * 3 if i < count else [200, 0, 0])).all()


@pytest.mark.parametrize(
    ("images", "columns", "says"),
    [
        ([], None, "found none"),
        ([flat(0), flat(0, 5)], None, "6x4 and 6x5"),
        ([flat(0)], 0, "from 1 to 1"),
        ([flat(0)], 2, "from 1 to 1"),
        ([flat(0)], True, "from 1 to 1"),
        ([flat(0)], 1.0, "from 1 to 1"),
    ],
)
def test_grids_that_cannot_be(images: list[Any], columns: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        grid(images, columns)
    with pytest.raises(InputError, match="no colour"):
        grid([flat(0)], background="nothing")
