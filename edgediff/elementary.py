"""log, cos and sin from + - * / and sqrt alone, so that their bits do not depend on the processor.

NumPy's own float32 versions differ between AVX2, AVX-512 and NEON dispatch levels. The five operations used
here are exactly rounded by IEEE 754 on every machine, and NumPy never fuses them, so float64 results are the
same bits everywhere; they are accurate to about 1e-15, so rounding them to float32 gives the nearest float
but for rare ties.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LN2_HIGH = 0.6931471803691238  # 33 bits: times a whole exponent it is exact
_LN2_LOW = 1.9082149292705877e-10
_SQRT_HALF = 0.7071067811865476
_QUARTER_TURN_HIGH = 1.5707963267341256  # 33 bits: times 0 to 4 it is exact
_QUARTER_TURN_LOW = 6.077100506506192e-11


def log(x: Floats) -> Floats:
    """Return the natural logarithm of positive, normal ``x``.

    ``x = m * 2^e`` with m in [sqrt(1/2), sqrt(2)); ``log m = 2 atanh(s)`` with s = (m-1)/(m+1), |s| < 0.172,
    by the odd Taylor series to s^21.
    """
    mantissa, exponent = np.frexp(x)
    low = mantissa < _SQRT_HALF
    mantissa = np.where(low, mantissa * 2, mantissa)
    whole = np.where(low, exponent - 1, exponent).astype(np.float64)
    s = (mantissa - 1) / (mantissa + 1)
    square = s * s
    series = np.full_like(s, 1 / 21)
    for odd in range(19, 0, -2):
        series = series * square + 1 / odd
    result: Floats = whole * _LN2_HIGH + (2 * s * series + whole * _LN2_LOW)
    return result


def cos_sin(angle: Floats) -> tuple[Floats, Floats]:
    """Return cos and sin of ``angle`` in radians, for angles in [0, 2 pi].

    Reduced by the nearest quarter turn (pi / 2 in two parts), then Taylor series on [-pi/4, pi/4] to x^18 and
    x^19, whose remainders are below 1e-17.
    """
    quarter = np.floor(angle / _QUARTER_TURN_HIGH + 0.5)
    reduced = (angle - quarter * _QUARTER_TURN_HIGH) - quarter * _QUARTER_TURN_LOW
    square = reduced * reduced
    cos = np.ones_like(reduced)
    sin = np.ones_like(reduced)
    for even in range(18, 0, -2):
        cos = 1 - cos * square / (even * (even - 1))
        sin = 1 - sin * square / (even * (even + 1))
    sin = sin * reduced
    turn = quarter.astype(np.int64) % 4
    swapped = turn % 2 == 1
    out_cos = np.where(swapped, sin, cos)
    out_sin = np.where(swapped, cos, sin)
    return np.where((turn == 1) | (turn == 2), -out_cos, out_cos), np.where(turn >= 2, -out_sin, out_sin)
