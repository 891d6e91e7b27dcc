"""Colours: a heat map that is ordered to the eye, made in Oklab, and those of plots.

Oklab (Ottosson, 2020, "A perceptual color space for image processing") has lightness as a coordinate of its
own. The map falls in it by equal steps, from almost white to a dark violet, so it stays ordered in grey print
and to colour-blind eyes; hue turns from yellow over red to violet beside that.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

# From Oklab to cube roots of cone responses, and from these to linear sRGB.
_TO_CONES = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_TO_LINEAR = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
_LIGHTEST, _DARKEST = 0.985, 0.25
_HUES = (100.0, 70.0, 35.0, 5.0, -40.0)  # degrees, at equal distances along the map
_CHROMA = (0.0, 0.14, 0.18, 0.17, 0.10)

TOP = 64
"""Differences, in levels of 255, from which on the heat map shows its last colour."""
TICKS = (0, 1, 4, 16, 64)

INK, SOFT, FAINT, PAPER = "#1a1a1a", "#5c5c5c", "#d8d8d8", "#ffffff"
BEST, BEST_FILL, OTHER = "#0b5394", "#9cc3e6", "#8a8a8a"


@cache
def heat_colours() -> NDArray[np.uint8]:
    """Return the heat map's 256 colours, (256, 3)."""
    along = np.linspace(0, 1, 256)
    knots = np.linspace(0, 1, len(_HUES))
    hue = np.deg2rad(np.interp(along, knots, _HUES))
    chroma = np.interp(along, knots, _CHROMA)
    lightness = _LIGHTEST + (_DARKEST - _LIGHTEST) * along
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    linear = np.clip((lab @ _TO_CONES.T) ** 3 @ _TO_LINEAR.T, 0, 1)
    # IEC 61966-2-1, the transfer function of sRGB.
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours: NDArray[np.uint8] = np.rint(shown * 255).astype(np.uint8)
    return colours


def place(difference: NDArray[np.uint8] | float) -> NDArray[np.float64]:
    """Return where differences, 0 to 255, stand on the heat map's scale, 0 to 1: by their square root."""
    found: NDArray[np.float64] = np.sqrt(np.minimum(np.asarray(difference, np.float64) / TOP, 1))
    return found


def heat(difference: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return differences (H, W), 0 to 255, as a picture (H, W, 3)."""
    return heat_colours()[np.rint(place(difference) * 255).astype(np.intp)]
