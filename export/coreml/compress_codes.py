"""What a weight is after it was stored under a scheme: the same numbers that a saved package decodes to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgediff.errors import InputError
from edgediff.export.coreml.palettes import palette
from edgediff.export.coreml.schemes import Scheme, fitted

_BLOCK = 1 << 16


def coded(weight: NDArray[Any], scheme: Scheme, dtype: DTypeLike = np.float16) -> NDArray[np.float32]:
    """A weight (output channels, input channels, ...) as it is decoded again.

    ``dtype`` is the float type that the program holds it in. A linear layer's matrix and its form as a 1x1
    kernel give the same numbers. Raises SourceError for weights that are not finite.
    """
    scheme = fitted(scheme, weight.shape)
    stored = weight.astype(dtype)
    if scheme.kind == "linear":
        return _scaled(stored, scheme)
    if scheme.kind != "palette":
        raise InputError(f"{scheme.name} is no way to store one weight; its search comes first.")
    if scheme.group_size is None:
        table, indices = palette(stored, scheme.bits)
        return table.astype(np.float32)[indices]
    found = np.empty(weight.shape, np.float32)
    for first in range(0, len(stored), scheme.group_size):
        group = slice(first, first + scheme.group_size)
        table, indices = palette(stored[group], scheme.bits)
        found[group] = table.astype(np.float32)[indices]
    return found


def error_of(weight: NDArray[Any], scheme: Scheme) -> float:
    """The sum of squared differences that ``scheme`` makes to a weight stored for a float16 program."""
    difference = (coded(weight, scheme) - weight).astype(np.float32, copy=False).ravel()
    # Blocks of float32, added in float64: no copy of the weight in float64.
    blocks = np.array_split(difference, difference.size // _BLOCK + 1)
    return sum(float(np.dot(block, block)) for block in blocks)


def bytes_of(shape: tuple[int, ...], scheme: Scheme | None) -> int:
    """Bytes that a weight takes in a float16 program's weights file, less alignment; None is float16."""
    count = int(np.prod(shape))
    if scheme is None:
        return 2 * count
    scheme = fitted(scheme, shape)
    indices = (count * scheme.bits + 7) // 8
    if scheme.kind == "palette":
        return indices + 2 * (1 << scheme.bits) * (shape[0] // (scheme.group_size or shape[0]))
    # Old affine weights carry a zero point for each scale too; it is part of the table here.
    blocks = shape[1] // scheme.group_size if scheme.group_size else 1
    return indices + (2 + (scheme.granularity == "per_channel")) * shape[0] * blocks


def _scaled(stored: NDArray[Any], scheme: Scheme) -> NDArray[np.float32]:
    """Symmetric integers times a scale, computed in the stored type as coremltools does."""
    largest = (1 << (scheme.bits - 1)) - 1
    size = scheme.group_size if scheme.granularity == "per_block" else None
    cut = stored.reshape(len(stored), -1, size or stored.shape[1], *stored.shape[2:])
    top = np.max(np.abs(cut), axis=tuple(range(2, cut.ndim)), keepdims=True)
    scale = ((top + top) / (2 * largest)).astype(stored.dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.nan_to_num(np.clip(np.round(cut / scale), -largest, largest), nan=0.0)
    return np.asarray((codes * scale).astype(stored.dtype), np.float32).reshape(stored.shape)
