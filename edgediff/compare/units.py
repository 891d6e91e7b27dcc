"""Numbers and texts as people read them."""

from __future__ import annotations

import math
import unicodedata

_TURNING = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def seconds(value: float) -> str:
    """Return a time with three digits."""
    if value < 0.9995:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 1000 else f"{value:.0f} s"


def decibel(value: float | None) -> str:
    """Return a ratio; an infinite one is that of equal arrays."""
    if value is None:
        return "not comparable"
    return "identical" if math.isinf(value) and value > 0 else f"{value:.1f} dB"


def similarity(value: float | None) -> str:
    """Return an SSIM; one below 1 is never rounded to it."""
    if value is None:
        return "too small"
    return "1" if value == 1 else f"{min(value, 0.9999):.4f}"


def size(count: float | None) -> str:
    """Return bytes in decimal units with three digits."""
    if count is None:
        return "unknown"
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            return f"{count:.3g} {unit}" if count < 999.5 else f"{count:.0f} {unit}"
        count /= 1000
    raise AssertionError


def visible(text: str) -> str:
    """Return text in which nothing turns the order of letters, breaks lines or is no text: such characters
    are written as escapes."""
    return "".join(
        ascii(c)[1:-1] if c in _TURNING or unicodedata.category(c) in ("Cc", "Cs") else c for c in text
    )


def shortened(text: str, most: int) -> str:
    """Return text of at most so many characters; an ellipsis stands for what was cut off."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
