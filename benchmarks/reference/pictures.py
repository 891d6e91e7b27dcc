"""Pictures for training, and their way into and out of tensors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.reference.grammar import BACKGROUNDS, COLOURS, PAIRS, SHAPES, scenes
from benchmarks.reference.render import paint, render


def crowded(rng: np.random.Generator, n: int, objects: int = 5, size: int = 64) -> NDArray[np.uint8]:
    """Pictures with objects anywhere, overlapping: more outlines for the same arithmetic."""
    grounds = np.array(list(BACKGROUNDS.values()), np.float32)[rng.integers(len(BACKGROUNDS), size=n)]
    canvas = np.repeat(np.repeat(grounds[:, None, None, :], size, 1), size, 2)
    for _ in range(objects):
        pick = rng.integers(len(PAIRS), size=n)
        x, y = rng.uniform(6, 58, (2, n)).astype(np.float32)
        r = rng.uniform(7.5, 13.5, n).astype(np.float32)
        for shape in SHAPES:
            which = np.array([i for i in range(n) if PAIRS[pick[i]][1] == shape], np.int64)
            if len(which):
                colour = np.array([COLOURS[PAIRS[pick[i]][0]] for i in which], np.float32)
                paint(canvas, which, shape, x[which], y[which], r[which], colour)
    return np.round(canvas).astype(np.uint8)


def pictures(seed: int, n: int, share: float, size: int = 64) -> NDArray[np.uint8]:
    """One batch: a share of it crowded, the rest as the grammar draws them."""
    rng = np.random.default_rng((7, seed))
    many = round(n * share)
    return np.concatenate([crowded(rng, many, size=size), render(scenes(seed, n - many), size)])


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Bytes (N, H, W, 3) to numbers in [-1, 1] (N, 3, H, W), channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(x: Tensor) -> NDArray[np.uint8]:
    """Numbers in [-1, 1] to bytes."""
    scaled = ((x.clamp(-1, 1) + 1) * 127.5).round().byte()
    pixels: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).cpu().numpy()
    return pixels
