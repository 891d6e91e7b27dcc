"""Text on pictures, in the scalable font that Pillow brings: what it can show, how wide it is, its lines."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

_MORE = frozenset("…“”‘’·°")  # all that the font has beside ASCII
_ALIKE = str.maketrans({
    "–": "-", "—": "-", "−": "-", "„": "”", "«": "“", "»": "”", "×": "x", "\u00a0": " ", "ß": "ss", "æ": "ae",
    "Æ": "AE", "ø": "o", "Ø": "O", "œ": "oe", "Œ": "OE", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
})  # fmt: skip


def drawable(text: str) -> str:
    """Return text as the font can show it: without accents, and ``?`` for each letter that it lacks.

    The page, which a browser shows, has all of it.
    """
    kept = []
    for c in text.translate(_ALIKE):
        base = c if c in _MORE else unicodedata.normalize("NFKD", c)[0]
        if base.isascii() or base in _MORE:
            kept.append(base)
        elif not unicodedata.combining(c):
            kept.append("?")
    return "".join(kept)


@cache
def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def width(text: str, size: int) -> float:
    """Return how many pixels wide a line of text is."""
    return float(_font(size).getlength(drawable(text)))


def wrapped(text: str, room: float, size: int, lines: int) -> list[str]:
    """Return text in lines that are at most ``room`` pixels wide; an ellipsis ends the last one if more was
    there."""
    found: list[str] = []
    line = ""
    for word in drawable(text[:2000]).split():
        while width(word, size) > room and len(word) > 1:  # a word longer than a line is broken
            fits = max((n for n in range(1, len(word)) if width(word[:n], size) <= room), default=1)
            found, line = [*found, line, word[:fits]] if line else [*found, word[:fits]], ""
            word = word[fits:]
        longer = f"{line} {word}".strip()
        found, line = (found, longer) if width(longer, size) <= room else ([*found, line], word)
    found = [*found, line] if line else found
    if len(found) > lines:
        found = [*found[: lines - 1], f"{found[lines - 1]} …"]
        while len(found[-1]) > 1 and width(found[-1], size) > room:
            found[-1] = f"{found[-1][:-2].rstrip()}…"
    return found
