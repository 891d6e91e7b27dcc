"""Given pictures brought to the size that is drawn: as they are, or by a rule that the caller names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgediff import extents
from edgediff.bundle import Bundle
from edgediff.errors import InputError
from edgediff.media import per_255, to_bytes
from edgediff.pictures import read_pictures
from edgediff.sampler import Array
from edgediff.tasks import request as check

if TYPE_CHECKING:
    from PIL.Image import Image

FITS = ("resize", "crop", "fill")
"""Ways to another size: squeeze; keep the shape and cut what is over; keep the shape and repeat the edge."""


def framed(
    bundle: Bundle,
    image: Any,
    height: int | None,
    width: int | None,
    fit: str | None,
    background: Any,
    name: str = "image",
) -> tuple[list[Array], dict[str, int], tuple[int, int]]:
    """Read pictures; return them in [0, 1] at the size to draw, that size by axis, and the first one's own.

    Without ``height`` and ``width`` the first picture's size is drawn. A picture of any other size, or a size
    that the model cannot draw, is an error unless ``fit`` says how to get there. Errors call it ``name``.

    Raises:
        InputError: a picture cannot be read or is of another size.
    """
    if fit is not None and fit not in FITS:
        raise InputError(f"fit: {fit!r} is unknown; use {', '.join(FITS)}.")
    given = read_pictures(image, name=name, background=background)
    asked = {"height": height, "width": width}
    own = dict(zip(asked, given[0].shape[:2], strict=True))
    if fit is None:
        size = check.sizes(bundle, {axis: own[axis] if asked[axis] is None else asked[axis] for axis in own})
    else:
        wanted = {axis: _wanted(bundle, axis, asked, own) for axis in own}
        if height is None and width is None:
            wanted = extents.nearest(bundle, wanted)
        size = check.sizes(bundle, wanted)
    for picture in given:
        found = dict(zip(size, picture.shape[:2], strict=True))
        if found != size and fit is None:
            raise InputError(
                f"{name}: it is {found['width']}x{found['height']} and {size['width']}x{size['height']} is "
                f"to be drawn; resize it, or say how with fit ({', '.join(FITS)})."
            )
    return [fitted(picture, size, fit) for picture in given], size, (own["height"], own["width"])


def _wanted(bundle: Bundle, axis: str, asked: dict[str, int | None], own: dict[str, int]) -> int:
    """The size asked for, or the picture's own rounded to what the model can draw."""
    value = asked[axis]
    factor = bundle.latents.downscale.get(axis, 1)
    return max(factor, round(own[axis] / factor) * factor) if value is None else value


def fitted(picture: Array, size: dict[str, int], fit: str | None) -> Array:
    """Return a picture or a mask in [0, 1] at ``size``; Lanczos, of 8 bits, where pixels are made anew."""
    height, width = size["height"], size["width"]
    if picture.shape[:2] == (height, width):
        return picture
    from PIL import Image

    source = Image.fromarray(to_bytes(picture))
    if fit == "resize":
        return per_255(np.asarray(source.resize((width, height), Image.Resampling.LANCZOS)))
    return per_255(np.asarray(placed(source, width, height, cover=fit == "crop")))


def placed(source: Image, width: int, height: int, cover: bool) -> Image:
    """Scale a picture, its shape kept, and centre it: ``cover`` cuts what is over, else edges are repeated.

    Sizes are rounded as diffusers rounds them.
    """
    from PIL import Image

    wider = width / height > source.width / source.height
    by_width = wider if cover else width / height < source.width / source.height
    new_width = width if by_width else max(1, source.width * height // source.height)
    new_height = max(1, source.height * width // source.width) if by_width else height
    scaled = np.asarray(source.resize((new_width, new_height), Image.Resampling.LANCZOS))
    left, top = width // 2 - new_width // 2, height // 2 - new_height // 2
    rows = np.arange(height) - top
    columns = np.arange(width) - left
    if not cover:
        rows, columns = np.clip(rows, 0, new_height - 1), np.clip(columns, 0, new_width - 1)
        return Image.fromarray(scaled[rows][:, columns])
    canvas = np.zeros((height, width, *scaled.shape[2:]), np.uint8)
    inside = np.ix_((rows >= 0) & (rows < new_height), (columns >= 0) & (columns < new_width))
    y, x = rows[(rows >= 0) & (rows < new_height)], columns[(columns >= 0) & (columns < new_width)]
    canvas[inside] = scaled[y][:, x]
    return Image.fromarray(canvas)


def signed(pictures: Sequence[Array]) -> Array:
    """Return pictures as the encoder reads them: [-1, 1], shape (B, 3, H, W)."""
    return np.ascontiguousarray((2 * np.stack(pictures) - 1).transpose(0, 3, 1, 2))


def check_count(name: str, pictures: int, prompts: int) -> None:
    """One picture for all results, or one for each prompt."""
    if pictures not in (1, prompts):
        raise InputError(f"{name}: {pictures} were given for {prompts} prompts; give one, or one each.")
