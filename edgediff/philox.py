"""Philox 4x32-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") as CUDA lays it out.

A seed gives the noise that PyTorch draws on an NVIDIA card, up to 40,960 numbers a draw on every card: beyond
that PyTorch's own layout depends on the number of the card's processors. Other tools call this stream "NV".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgediff import elementary

Words = NDArray[np.uint64]
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_STEP = np.float32(2.0**-32)
_TURN = np.float32(2.0**-32 * 2 * np.pi)


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, ...]:
    """Return four 32-bit words for each counter of four 32-bit words: ten rounds of the cipher."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (second >> _HALF) ^ c1 ^ np.uint64(k0), second & _LOW,
            (first >> _HALF) ^ c3 ^ np.uint64(k1), first & _LOW,
        )  # fmt: skip
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


class PhiloxNoise:
    """Number i of draw n is made of the counter (n, 0, i, 0) and the seed as key, as one CUDA thread does it.

    Args:
        seed: 0 to 2^64 - 1.
    """

    def __init__(self, seed: int) -> None:
        self._key = (seed & 0xFFFFFFFF, seed >> 32)
        self._draws = 0

    def draw(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the next numbers of the stream, float32, of ``shape``."""
        count = int(np.prod(shape, dtype=np.int64))
        zero = np.zeros(1, np.uint64)
        index = np.arange(count, dtype=np.uint64)
        words = philox((zero + np.uint64(self._draws), zero, index, zero), self._key)
        self._draws += 1
        # Box and Muller (1958) on the first two words; each fused multiply-add of the kernel is rounded once.
        uniform, angle = (_fused(w, scale) for w, scale in zip(words[:2], (_STEP, _TURN), strict=True))
        radius = np.sqrt(np.float32(-2) * elementary.log(uniform).astype(np.float32))
        _, sin = elementary.cos_sin(angle)
        normal: NDArray[np.float32] = radius * sin.astype(np.float32)
        return normal.reshape(shape)


def _fused(words: Words, scale: np.float32) -> NDArray[np.float64]:
    """(w + 1/2) * scale as float32 numbers (held in float64)."""
    wide = words.astype(np.float32).astype(np.float64) * float(scale) + float(scale / np.float32(2))
    return wide.astype(np.float32).astype(np.float64)
