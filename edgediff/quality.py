"""How far one result is from another: signal to noise, peak signal to noise, structural similarity.

All are computed in float64. Equal arrays have no noise, so their ratio is infinite; a result that holds NaN
or Inf is infinitely far. JSON has no infinity: :func:`stored` bounds a ratio by ``MOST`` (which stands for
equal; float32 arrays that differ at all stay below it) and by ``-MOST`` (which stands for not finite).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgediff.errors import InputError

MOST = 200.0
"""The largest ratio, in decibel, that a file holds."""
_WINDOW, _SPREAD = 11, 1.5
_K1, _K2 = 0.01, 0.03
Doubles = NDArray[np.float64]


def snr_db(reference: ArrayLike, found: ArrayLike) -> float:
    """Return the signal-to-noise ratio in decibel: 10 log10 of sum(reference^2) / sum((reference - found)^2).

    ``inf`` for equal arrays, ``-inf`` where ``found`` is not finite.

    Raises:
        InputError: the shapes differ, or the reference is empty or not finite.
    """
    tally = Tally()
    tally.add(reference, found)
    return tally.snr_db


def psnr_db(reference: ArrayLike, found: ArrayLike, peak: float | None = None) -> float:
    """Return the peak signal-to-noise ratio in decibel: 10 log10 of peak^2 / mean((reference - found)^2).

    ``peak`` is the largest difference that there can be: 1.0 or 255 for pictures; unless given, the
    reference's range (largest number less smallest). ``inf`` for equal arrays, ``-inf`` where ``found`` is
    not finite.

    Raises:
        InputError: the shapes differ, the reference is empty or not finite, or ``peak`` is not above 0.
    """
    tally = Tally(peak)
    tally.add(reference, found)
    return tally.psnr_db


class Tally:
    """Both ratios over several pairs of arrays, as if each side were one long array."""

    def __init__(self, peak: float | None = None) -> None:
        if peak is not None and not (math.isfinite(peak) and peak > 0):
            raise InputError(f"peak {peak}: expected a number above 0.")
        self._peak = peak
        self._signal, self._noise, self._count = 0.0, 0.0, 0
        self._low, self._high = math.inf, -math.inf

    def add(self, reference: ArrayLike, found: ArrayLike) -> None:
        """Count a pair.

        Raises:
            InputError: the shapes differ, or the reference is empty or not finite.
        """
        wanted, got = _pair(reference, found)
        if not np.isfinite(wanted).all():
            raise InputError("reference: it holds NaN or Inf; nothing can be compared with it.")
        self._count += wanted.size
        self._signal += float(np.square(wanted).sum())
        difference = np.square(wanted - got).sum() if np.isfinite(got).all() else math.inf
        self._noise += float(difference)
        self._low, self._high = min(self._low, float(wanted.min())), max(self._high, float(wanted.max()))

    @property
    def snr_db(self) -> float:
        """The signal-to-noise ratio of all that was added."""
        return _decibel(self._signal, self._noise)

    @property
    def psnr_db(self) -> float:
        """The peak signal-to-noise ratio of all that was added."""
        peak = self._high - self._low if self._peak is None else self._peak
        return _decibel(peak * peak * self._count, self._noise)


def ssim(a: ArrayLike, b: ArrayLike, peak: float | None = None) -> float:
    """Return the mean structural similarity of two pictures (H, W) or (H, W, C); 1 for equal ones.

    Wang, Bovik, Sheikh and Simoncelli (2004), eq. 13: Gaussian windows of 11x11 (standard deviation 1.5) that
    lie wholly inside the picture, K1 = 0.01, K2 = 0.03; the mean over windows and channels. ``peak`` is the
    range of the numbers: 255 for uint8 and 1.0 for floats unless given. ``-1`` where ``b`` is not finite.

    Raises:
        InputError: the shapes differ, are those of no picture, or a side is under 11.
    """
    given = np.asarray(a)
    x, y = _pair(a, b)
    if x.ndim not in (2, 3) or min(x.shape[:2]) < _WINDOW:
        raise InputError(f"ssim: shape {x.shape}; expected (H, W) or (H, W, C) with sides of 11 or more.")
    if not np.isfinite(x).all():
        raise InputError("reference: it holds NaN or Inf; nothing can be compared with it.")
    if not np.isfinite(y).all():
        return -1.0
    most = (255.0 if given.dtype == np.uint8 else 1.0) if peak is None else peak
    mean_x, mean_y = _blurred(x), _blurred(y)
    both = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    spread = _blurred(x * x) + _blurred(y * y) - squares
    shared = _blurred(x * y) - both
    c1, c2 = (_K1 * most) ** 2, (_K2 * most) ** 2
    similar = (2 * both + c1) * (2 * shared + c2) / ((squares + c1) * (spread + c2))
    return float(similar.mean())


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two lists of pictures are, over all of them: PSNR of their pixels, mean and lowest SSIM.

    The latter are None for pictures that are too small to have one.
    """

    psnr_db: float
    ssim: float | None
    lowest_ssim: float | None

    def stored(self) -> dict[str, float | None]:
        """As a file holds it."""
        return {
            "psnr_db": stored(self.psnr_db),
            "ssim": None if self.ssim is None else round(self.ssim, 5),
            "lowest_ssim": None if self.lowest_ssim is None else round(self.lowest_ssim, 5),
        }


def likeness(reference: Sequence[NDArray[np.uint8]], found: Sequence[NDArray[np.uint8]]) -> Likeness:
    """Compare lists of pictures of 8 bits, (H, W, C) each.

    Raises:
        InputError: a pair differs in shape, or there is none.
    """
    tally = Tally(255.0)
    each: list[float] = []
    for a, b in zip(reference, found, strict=True):
        tally.add(a, b)
        if min(a.shape[:2]) >= _WINDOW:
            each.append(ssim(a, b))
    return Likeness(tally.psnr_db, float(np.mean(each)) if each else None, min(each, default=None))


def stored(ratio: float) -> float:
    """Return a ratio in decibel as a file holds it: rounded, at most ``MOST`` and at least its opposite."""
    return -MOST if math.isnan(ratio) else round(min(MOST, max(-MOST, ratio)), 3)


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    if not math.isfinite(noise) or signal == 0:
        return -math.inf
    return 10 * math.log10(signal / noise)


def _pair(reference: ArrayLike, found: ArrayLike) -> tuple[Doubles, Doubles]:
    wanted, got = np.asarray(reference), np.asarray(found)
    if wanted.shape != got.shape:
        raise InputError(f"the shapes {wanted.shape} and {got.shape} differ; only like can be compared.")
    if not wanted.size:
        raise InputError("reference: it is empty; nothing can be compared with it.")
    return wanted.astype(np.float64), got.astype(np.float64)


def _blurred(x: Doubles) -> Doubles:
    """The weighted means over all windows inside a picture; a Gaussian window is a product of two rows."""
    at = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(at**2) / (2 * _SPREAD**2))
    weights /= weights.sum()
    for axis in (0, 1):
        last = x.shape[axis] - _WINDOW + 1
        x = np.sum([w * x.take(range(i, i + last), axis) for i, w in enumerate(weights)], axis=0)
    return x
