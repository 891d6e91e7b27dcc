"""Several pictures in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgediff import media
from edgediff.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


def grid(images: Sequence[Image], columns: int | None = None, background: object = "white") -> Image:
    """Return one picture with all of ``images``, row by row; places left over are ``background``.

    Without ``columns`` the grid is as square as it can be, and wider rather than higher.

    Raises:
        InputError: there are none, their sizes differ, or the number of columns fits them not.
    """
    from PIL import Image

    sizes = sorted({image.size for image in images})
    if len(sizes) != 1:
        found = " and ".join(f"{w}x{h}" for w, h in sizes[:2]) if sizes else "none"
        raise InputError(f"grid: found {found}; give pictures of one size.")
    if columns is None:
        columns = math.ceil(math.sqrt(len(images)))
    if isinstance(columns, bool) or not isinstance(columns, int) or not 1 <= columns <= len(images):
        raise InputError(f"columns: {columns!r} is not a whole number from 1 to {len(images)}.")
    (width, height), rows = sizes[0], math.ceil(len(images) / columns)
    under = media.colour(background)
    fill = (0, 0, 0) if under is None else (int(under[0]), int(under[1]), int(under[2]))
    whole = Image.new("RGB", (columns * width, rows * height), fill)
    for i, image in enumerate(images):
        whole.paste(image, (i % columns * width, i // columns * height))
    return whole
