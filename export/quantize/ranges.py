"""From what a value was seen to be, to the span that 8-bit codes cover.

A few outliers should not make the steps coarse for all other numbers, and what is cut off is an error too.
The span is the one of least expected squared error, over the numbers seen, of quantizing and reading back. It
serves two codes: unsigned ones with a zero point, which lie from ``low`` to ``high``, and signed ones around
zero, which reach to the farther end. What is minimised is the product of the two errors, so that a span that
costs one form a tenth must save the other one as much.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from edgediff.export.emit.integers import Span

Array = np.ndarray[Any, Any]
_HELD = 1 << 16  # numbers kept of one value
_TAIL, _MIDDLE = 512, 2048  # of the sorted numbers: how many of each end count one by one, and all others
# Shares of the ends: from a 32nd to all, then around the best.
_GRIDS = (
    tuple(2.0 ** (-i / 2) for i in range(11)),
    tuple(2.0 ** (i / 8) for i in range(-3, 4)),
    tuple(2.0 ** (i / 24) for i in range(-2, 3)),
)
_NOTHING = 1e-12
_ROOM = 0.5  # added to the ends that one input shows


class Seen:
    """What passes showed of one value: exact ends, and numbers drawn from every pass alike."""

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf
        self.rows = 0
        self._samples: list[Array] = []
        self._share = _HELD // 4  # of one pass
        self._random = np.random.default_rng(0)

    def add(self, low: float, high: float, sample: Array, rows: int = 1) -> None:
        """Note one pass over a batch of ``rows``."""
        self.rows += rows
        self.low, self.high = min(self.low, low), max(self.high, high)
        # Drawn at random, since a stride may fall in with the number of channels.
        few = sample if sample.size <= self._share else sample[self._places(sample.size)]
        self._samples.append(np.array(few, np.float32))
        while sum(each.size for each in self._samples) > _HELD:
            self._share //= 2
            self._samples = [
                each if each.size <= self._share else each[self._places(each.size)] for each in self._samples
            ]

    def _places(self, size: int) -> Array:
        return self._random.choice(size, self._share, replace=False, shuffle=False)

    @property
    def samples(self) -> Array:
        """The numbers kept, unordered."""
        return np.concatenate(self._samples) if self._samples else np.empty(0, np.float32)


def ends(seen: Seen) -> Span:
    """Everything that was seen, outliers too."""
    return Span(min(seen.low, 0.0), max(seen.high, 0.0))


def with_room(seen: Seen) -> Span:
    """Everything that was seen, and the more room around it the fewer inputs there were.

    For networks between pictures and latents: each picture shows other colours than the last, and no later
    step mends what is cut off. (Pictures that the reference model's decoder was not calibrated with, its
    activations in 8 bits: with 48 prompts 1.2 dB more than by the least squared error.)
    """
    room = 1 + _ROOM / max(seen.rows, 1)
    whole = ends(seen)
    return Span(whole.low * room, whole.high * room)


def least_error(seen: Seen) -> Span:
    """The span of least expected squared error for both kinds of codes; see the module's text.

    A grid over both ends, then finer ones around the best: the farther end alone decides the signed codes,
    so that a walk along one end at a time stops where they are equal.
    """
    whole = ends(seen)
    points, weights = _condensed(seen.samples)
    if not points.size or whole.high - whole.low < _NOTHING:
        return whole
    best, least = (1.0, 1.0), np.inf
    for shares in _GRIDS:
        around = best
        for share_low, share_high in product(shares, repeat=2):
            tried = min(1.0, around[0] * share_low), min(1.0, around[1] * share_high)
            error = _joint(Span(whole.low * tried[0], whole.high * tried[1]), points, weights)
            if error < least:
                best, least = tried, error
    return Span(whole.low * best[0], whole.high * best[1])


def _condensed(samples: Array) -> tuple[Array, Array]:
    """Numbers in order with the weight of each: both ends whole, of the middle some that stand for all."""
    ordered = np.sort(samples.astype(np.float64))
    if ordered.size <= 2 * _TAIL + _MIDDLE:
        return ordered, np.ones(ordered.size)
    middle = ordered[_TAIL:-_TAIL]
    places = np.linspace(0, middle.size - 1, _MIDDLE).astype(np.int64)
    weight = np.full(_MIDDLE, middle.size / _MIDDLE)
    tails = np.ones(_TAIL)
    points = np.concatenate([ordered[:_TAIL], middle[places], ordered[-_TAIL:]])
    return points, np.concatenate([tails, weight, tails])


def _joint(span: Span, points: Array, weights: Array) -> float:
    """The sum of the logarithms of both errors."""
    scale, zero = span.unsigned()
    first = _error(points, weights, scale, -zero, 255 - zero)
    scale, _ = span.signed()
    second = _error(points, weights, scale, -127, 127)
    return float(np.log(first + 1e-30) + np.log(second + 1e-30))


def _error(points: Array, weights: Array, scale: float, lowest: int, highest: int) -> float:
    codes = np.clip(np.rint(points / scale), lowest, highest)
    return float(weights @ (codes * scale - points) ** 2) / float(weights.sum())
