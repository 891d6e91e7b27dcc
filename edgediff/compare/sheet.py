"""The contact sheet: a row for each prompt and seed, a column for each bundle beside its differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgediff.compare import units
from edgediff.compare.colours import FAINT, INK, SOFT, TICKS, heat, heat_colours, place
from edgediff.compare.figures import Figures
from edgediff.compare.letters import wrapped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SCALE = "largest difference of red, green and blue, of 255 levels; square-root scale, the same on all sheets"
_LARGEST = 256  # the longest side of a picture on the sheet; smaller ones are magnified by whole factors
_WORDS, _GAP, _GROUP, _EDGE = 210, 6, 26, 20
_HEAD, _FIGURES, _FOOT, _BAR = 62, 26, 74, 256


def sheet(found: Sequence[Figures], draws: Sequence[tuple[str, int]], footer: str) -> Image:
    """Return the sheet; ``footer`` says in a line what all pictures share."""
    from PIL import Image, ImageDraw

    wide, high = cell(found[0].drawn.pictures[0].shape[1], found[0].drawn.pictures[0].shape[0])
    starts = _columns(len(found), wide)
    last = starts[-1] + (wide if len(found) == 1 else 2 * wide + _GAP)
    row = high + _FIGURES + 14
    size = (max(last + _EDGE, 760), _HEAD + len(draws) * row + _FOOT)
    made = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(made)
    for start, each in zip(starts, found, strict=True):
        _head(pen, start, wide, each)
    for i, (prompt, seed) in enumerate(draws):
        top = _HEAD + i * row
        pen.line((_EDGE, top - 8, size[0] - _EDGE, top - 8), fill=FAINT)
        _words(pen, i, prompt, seed, top, high)
        for start, each in zip(starts, found, strict=True):
            _paste(made, pen, scaled(each.drawn.pictures[i], (wide, high)), (start, top))
            middle, under = start + wide // 2, top + high + _FIGURES // 2
            if each is found[0]:
                pen.text((middle, under), "reference", fill=SOFT, font_size=13, anchor="mm")
                continue
            of = each.pairs[i]
            _paste(made, pen, scaled(heat(of.difference), (wide, high)), (start + wide + _GAP, top))
            told = f"PSNR {units.decibel(of.psnr_db)}   SSIM {units.similarity(of.ssim)}"
            pen.text((start + wide + _GAP // 2, under), told, fill=INK, font_size=13, anchor="mm")
    _foot(made, pen, footer)
    return made


def cell(width: int, height: int, most: int = _LARGEST) -> tuple[int, int]:
    """Return width and height in which a picture is shown: its longest side is at most ``most``."""
    side = max(width, height)
    if side > most:
        return max(1, width * most // side), max(1, height * most // side)
    return width * (most // side), height * (most // side)


def scaled(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Image:
    """Return a picture in another size: pixels stay sharp when magnified, and are averaged when reduced."""
    from PIL import Image

    image = Image.fromarray(pixels)
    grows = size[0] >= image.width
    return image.resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.BOX)


def scale_bar() -> Image:
    """Return the heat map's colours from left to right, with their differences under them."""
    from PIL import Image, ImageDraw

    made = Image.new("RGB", (_BAR + 24, 38), "white")
    bar = Image.fromarray(heat_colours()[None]).resize((_BAR, 14), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(made)
    pen.rectangle((11, 1, 12 + _BAR, 16), outline=FAINT)
    made.paste(bar, (12, 2))
    for tick in TICKS:
        at = 12 + float(place(tick)) * (_BAR - 1)
        pen.line((at, 16, at, 20), fill=SOFT)
        pen.text((at, 29), f"{tick}{'+' * (tick == TICKS[-1])}", fill=INK, font_size=12, anchor="mm")
    return made


def _columns(count: int, wide: int) -> list[int]:
    """Where each bundle's pictures begin: the reference takes one cell, the others two."""
    first = _EDGE + _WORDS
    return [first] + [first + wide + _GROUP + i * (2 * wide + _GAP + _GROUP) for i in range(count - 1)]


def _head(pen: ImageDraw, start: int, wide: int, each: Figures) -> None:
    room = wide if each.entry.letter == "A" else 2 * wide + _GAP
    name = wrapped(f"{each.entry.letter}  {units.visible(each.entry.name)}", room, 16, 1)
    pen.text((start, 18), name[0], fill=INK, font_size=16, anchor="lm")
    told = f"{units.seconds(each.latency)}, {units.size(each.bytes)}"
    pen.text((start, 40), told, fill=SOFT, font_size=13, anchor="lm")


def _words(pen: ImageDraw, i: int, prompt: str, seed: int, top: int, high: int) -> None:
    room = max(1, (high - 24) // 19)
    lines = wrapped(units.visible(prompt), _WORDS - 24, 14, room)
    pen.multiline_text((_EDGE, top), "\n".join(lines), fill=INK, font_size=14, spacing=5)
    pen.text((_EDGE, top + high - 2), f"{i + 1}, seed {seed}", fill=SOFT, font_size=13, anchor="ls")


def _paste(made: Image, pen: ImageDraw, image: Image, at: tuple[int, int]) -> None:
    """Put a picture on the sheet, with an edge that a white one needs."""
    left, top = at
    pen.rectangle((left - 1, top - 1, left + image.width, top + image.height), outline=FAINT)
    made.paste(image, at)


def _foot(made: Image, pen: ImageDraw, footer: str) -> None:
    top, bar = made.height - _FOOT + 6, scale_bar()
    made.paste(bar, (_EDGE - 12, top))
    for line, text in enumerate(wrapped(SCALE, made.width - bar.width - 2 * _EDGE - 8, 12, 2)):
        at = (_EDGE + bar.width, top + 9 + 16 * line)
        pen.text(at, text, fill=SOFT, font_size=12, anchor="lm")
    text = wrapped(footer, made.width - 2 * _EDGE, 12, 1)[0]
    pen.text((_EDGE, top + 52), text, fill=SOFT, font_size=12, anchor="lm")
