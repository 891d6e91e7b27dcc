"""Masks: 1 is drawn anew, 0 is kept; soft edges, the region around them, results laid over originals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import InputError
from edgediff.media import per_255, to_bytes
from edgediff.pictures import read_mask, read_pictures
from edgediff.tasks import framing

Mask = NDArray[np.float32]
"""(H, W) in [0, 1]."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


def read(
    mask_image: Any, own: tuple[int, int], fit: str | None, size: dict[str, int], blur: float
) -> list[Mask]:
    """Return masks of pictures that were (H, W) = ``own`` and are drawn at ``size``; grey stays grey.

    Raises:
        InputError: a mask cannot be read, or is not of its picture's size.
    """
    given = mask_image if isinstance(mask_image, (list, tuple)) else [mask_image]
    if not given:
        raise InputError("mask_image: an empty list was given; give one mask, or one for each prompt.")
    found = [read_mask(one, size=own, name="mask_image") for one in given]
    return [framing.fitted(_blurred(mask, blur), size, fit) for mask in found]


def _blurred(mask: Mask, radius: float) -> Mask:
    if radius == 0:
        return mask
    from PIL import Image, ImageFilter

    blurred = Image.fromarray(to_bytes(mask)).filter(ImageFilter.GaussianBlur(radius))
    return per_255(np.asarray(blurred))


@dataclass(frozen=True, slots=True)
class Original:
    """Pictures and masks as they were given; ``box`` is the region that is drawn, where it is not all."""

    pictures: list[NDArray[np.float32]]
    masks: list[Mask]
    box: Box | None

    def cropped(self, size: dict[str, int]) -> tuple[list[NDArray[np.float32]], list[Mask]]:
        """Return the region of each picture and mask, scaled to ``size``."""
        assert self.box is not None
        left, top, right, bottom = self.box
        pictures = [framing.fitted(p[top:bottom, left:right], size, "fill") for p in self.pictures]
        return pictures, [framing.fitted(m[top:bottom, left:right], size, "fill") for m in self.masks]

    def steered(self, control_image: Any, size: dict[str, int], background: Any) -> Any:
        """Return the region of control pictures, nested as they are given."""
        from edgediff.tasks.control import cropped

        assert self.box is not None
        height, width = self.pictures[0].shape[:2]
        return cropped(control_image, self.box, (height, width), size, background)

    def under(self, results: NDArray[np.float32]) -> NDArray[np.float32]:
        """Lay results in [0, 1], (B, h, w, 3), over the originals: what is masked 0 stays to the bit."""
        per_picture = len(results) // len(self.pictures)
        done = []
        for i, result in enumerate(results):
            original = self.pictures[i // per_picture]
            mask = self.masks[(i // per_picture) % len(self.masks)][..., None]
            done.append(original + mask * (self._whole(result, original) - original))
        return np.stack(done)

    def _whole(self, result: NDArray[np.float32], original: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put what was drawn of a region back in its place."""
        if self.box is None:
            return result
        left, top, right, bottom = self.box
        size = {"height": bottom - top, "width": right - left}
        whole = original.copy()
        whole[top:bottom, left:right] = framing.fitted(result, size, "crop")
        return whole


def original(
    image: Any, mask_image: Any, background: Any, blur: float, size: dict[str, int], pad: int
) -> Original:
    """Read one picture and its mask, and find the region around the mask to draw at ``size``.

    Raises:
        InputError: more than one was given, one cannot be read, or nothing is masked.
    """
    pictures = read_pictures(image, name="image", background=background)
    if len(pictures) != 1:
        raise InputError(f"padding_mask_crop: {len(pictures)} pictures were given; it takes one at a time.")
    own = pictures[0].shape[:2]
    masks = read(mask_image, own, None, {"height": own[0], "width": own[1]}, blur)
    if len(masks) != 1 or not masks[0].any():
        raise InputError("padding_mask_crop: one mask is needed, with something to draw in it.")
    return Original(pictures, masks, region(masks[0] > 0, size["width"] / size["height"], pad))


def region(masked: NDArray[np.bool_], ratio: float, pad: int) -> Box:
    """Return the box around what is masked, ``pad`` pixels wider, grown to width / height = ``ratio``.

    Where the picture ends, the box is moved inwards; where it is larger than the picture, it is cut.
    """
    height, width = masked.shape
    columns, rows = np.flatnonzero(masked.any(axis=0)), np.flatnonzero(masked.any(axis=1))
    left, right = max(int(columns[0]) - pad, 0), min(int(columns[-1]) + 1 + pad, width)
    top, bottom = max(int(rows[0]) - pad, 0), min(int(rows[-1]) + 1 + pad, height)
    if (right - left) / (bottom - top) > ratio:
        top, bottom = _grown(top, bottom, int((right - left) / ratio), height)
    else:
        left, right = _grown(left, right, int((bottom - top) * ratio), width)
    return left, top, right, bottom


def _grown(low: int, high: int, wanted: int, limit: int) -> tuple[int, int]:
    more = wanted - (high - low)
    low, high = low - more // 2, high + more - more // 2
    if high >= limit:
        low, high = low - (high - limit), limit
    if low < 0:
        low, high = 0, min(high - low, limit)
    return low, high
