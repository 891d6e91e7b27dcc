"""Noise is a function of the seed: the same bits on every platform.

The default, :class:`TorchNoise`, reproduces PyTorch's CPU stream (``torch.Generator().manual_seed(seed)``,
``torch.randn``), so a seed gives the picture that diffusers gives with a CPU generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgediff import elementary
from edgediff.errors import InputError

Array = NDArray[np.float32]


class Noise(Protocol):
    """A stream of standard normal numbers."""

    def draw(self, shape: tuple[int, ...]) -> Array:
        """Return the next numbers of the stream, float32, of ``shape`` (batch first)."""
        ...


SOURCES = ("torch", "philox", "numpy")
"""Noise streams: PyTorch's on a CPU, PyTorch's on an NVIDIA card ("NV"), and NumPy's frozen one."""


def checked_seed(seed: object, source: str = "torch") -> int:
    """Return ``seed`` if the noise ``source`` tells it from every other one, else raise InputError.

    That is 0 to 2^32 - 1, and 0 to 2^64 - 1 for ``philox``: PyTorch's CPU generator, like NumPy's, uses the
    low 32 bits alone, so larger seeds would repeat the pictures of smaller ones.
    """
    highest = 2**64 - 1 if source == "philox" else 2**32 - 1
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise InputError(f"seed: {seed!r} is no integer; give one from 0 to {highest}.")
    if not 0 <= int(seed) <= highest:
        raise InputError(
            f"seed: {seed} is outside 0 to {highest}, which is all that the noise {source!r} tells apart."
        )
    return int(seed)


def stream(source: str, seed: int) -> Noise:
    """Return the noise stream ``source`` from ``seed``.

    Raises:
        InputError: the source is unknown, or the seed is out of its range.
    """
    if source not in SOURCES:
        raise InputError(f"noise: {source!r} is unknown; choose one of {', '.join(SOURCES)}.")
    seed = checked_seed(seed, source)
    if source == "philox":
        from edgediff.philox import PhiloxNoise

        return PhiloxNoise(seed)
    return TorchNoise(seed) if source == "torch" else NumpyNoise(seed)


class NumpyNoise:
    """``np.random.RandomState(seed).standard_normal``, whose stream NumPy's NEP 19 keeps as it is.

    Its float64 logarithm is the system's, so a last bit may differ from machine to machine before rounding.
    """

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(checked_seed(seed, "numpy"))

    def draw(self, shape: tuple[int, ...]) -> Array:
        """Return the next numbers of the stream, rounded to float32, of ``shape``."""
        return np.asarray(self._state.standard_normal(shape), np.float32)


class TorchNoise:
    """PyTorch's CPU stream: MT19937, Box-Muller in blocks of 16, a float64 path below 16 numbers.

    Args:
        seed: 0 to 2^32 - 1.

    Raises:
        InputError: the seed is no such integer.
    """

    def __init__(self, seed: int) -> None:
        # RandomState's stream is frozen by NumPy's NEP 19; Generator's is not.
        self._words = np.random.RandomState(checked_seed(seed))
        self._spare: float | None = None

    def draw(self, shape: tuple[int, ...]) -> Array:
        """Return the next numbers of the stream, float32, of ``shape``."""
        count = int(np.prod(shape, dtype=np.int64))
        values = self._blocks(count) if count >= 16 else self._singly(count)
        return values.reshape(shape)

    def _blocks(self, count: int) -> Array:
        # Whole blocks of 16 uniforms become 8 cosines, then 8 sines. A rest is served by redrawing the last
        # 16.
        uniforms = self._uniform24(count)
        out = np.empty(count, np.float32)
        whole = count - count % 16
        out[:whole] = _box_muller(uniforms[:whole])
        if count % 16:
            out[-16:] = _box_muller(self._uniform24(16))
        return out

    def _uniform24(self, count: int) -> NDArray[np.float64]:
        words = self._words.randint(0, 1 << 32, count, dtype=np.uint32)
        return (words & np.uint32(0xFFFFFF)).astype(np.float64) * 2.0**-24

    def _singly(self, count: int) -> Array:
        out = np.empty(count, np.float32)
        for i in range(count):
            if self._spare is not None:
                out[i], self._spare = self._spare, None
                continue
            turns, u = self._uniform53(), self._uniform53()
            # PyTorch computes log1p(-u); 1 - u is exact for 53-bit uniforms.
            radius = np.sqrt(-2 * elementary.log(np.asarray([1 - u])))
            cos, sin = elementary.cos_sin(np.asarray([2 * np.pi * turns]))
            out[i] = (radius * cos)[0]
            self._spare = float((radius * sin)[0])
        return out

    def _uniform53(self) -> float:
        high, low = self._words.randint(0, 1 << 32, 2, dtype=np.uint32)
        return float(((int(high) << 32 | int(low)) & ((1 << 53) - 1)) * 2.0**-53)


def _box_muller(uniforms: NDArray[np.float64]) -> Array:
    """Box and Muller (1958) on blocks of 16: the first 8 uniforms give radii, the last 8 angles.

    Rounded to float32 after each operation, where PyTorch's float32 kernel rounds.
    """
    blocks = uniforms.reshape(-1, 2, 8)
    logs = elementary.log(1 - blocks[:, 0]).astype(np.float32)
    radius = np.sqrt(np.float32(-2) * logs)
    angle = np.float32(2 * np.pi) * blocks[:, 1].astype(np.float32)
    cos, sin = elementary.cos_sin(angle.astype(np.float64))
    parts = [radius * cos.astype(np.float32), radius * sin.astype(np.float32)]
    return np.stack(parts, axis=1).reshape(-1)


class PerPicture:
    """One stream per picture of a batch, as diffusers draws for a list of generators."""

    def __init__(self, streams: Sequence[Noise]) -> None:
        self._streams = tuple(streams)

    def draw(self, shape: tuple[int, ...]) -> Array:
        """Return numbers of ``shape``; ``shape[0]`` must be the number of streams."""
        if shape[0] != len(self._streams):
            raise InputError(
                f"seeds: {len(self._streams)} were given for {shape[0]} results; give one each, or one."
            )
        return np.concatenate([stream.draw((1, *shape[1:])) for stream in self._streams])

    def first(self, count: int) -> PerPicture:
        """Return the streams of the first ``count`` pictures."""
        return PerPicture(self._streams[:count])
