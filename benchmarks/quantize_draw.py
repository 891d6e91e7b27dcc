"""Draws held-out captions with a bundle and judges the pictures, in processes of one thread each.

Captions come 25 at a time under one seed, the same for every bundle, so that any two can be compared picture
by picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np

from edgediff.quality import psnr_db, stored

BATCH = 25
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a bundle made of the captions: each one's verdict, final latents, and picture (uint8)."""

    right: tuple[bool, ...]
    latents: Array
    pictures: Array


@contextmanager
def workers(count: int) -> Iterator[Pool]:
    """Processes that draw; threads inside them are one each."""
    os.environ |= {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    with get_context("spawn").Pool(count) as pool:
        yield pool


@dataclass(frozen=True, slots=True)
class Asked:
    """The first ``captions`` scenes of a split, in ``steps`` steps."""

    captions: int
    split: str
    steps: int


def draw(pool: Pool, bundle: Path, asked: Asked, profile: str | None = None, runtime: str = "auto") -> Drawn:
    """Draw and judge the scenes with a bundle; ``profile`` names a form other than the one a CPU gets."""
    opened = (str(bundle), profile, runtime)
    jobs = [(opened, asked, start) for start in range(0, asked.captions, BATCH)]
    done = pool.starmap(_batch, jobs, chunksize=1)
    right = tuple(mark for marks, _, _ in done for mark in marks)
    return Drawn(right, np.concatenate([d[1] for d in done]), np.concatenate([d[2] for d in done]))


_OPENED: dict[tuple[str, str | None, str], Any] = {}  # one at a time


def _opened(key: tuple[str, str | None, str]) -> Any:
    import edgediff
    from edgediff.bundle import Bundle

    bundle, profile, runtime = key
    if key not in _OPENED:
        for pipe in _OPENED.values():
            pipe.close()
        _OPENED.clear()
        opened = Bundle.open(bundle)
        if profile is not None:
            opened = replace(opened, profiles={"cpu": (profile,)})
        _OPENED[key] = edgediff.load(opened, device="cpu", runtime=runtime, threads=1)
    return _OPENED[key]


@cache
def _scenes(asked: Asked) -> list[Any]:
    from benchmarks.reference.grammar import scenes

    return list(scenes(2026, asked.captions, asked.split))


def _batch(key: tuple[str, str | None, str], asked: Asked, start: int) -> tuple[list[bool], Array, Array]:
    from benchmarks.reference.judge import judge
    from benchmarks.reference.score import marks
    from edgediff.media import to_bytes

    pipe = _opened(key)
    wanted = _scenes(asked)[start : start + BATCH]
    prompts = [scene.caption for scene in wanted]
    made = pipe(prompts, seed=start, num_inference_steps=asked.steps, output_type="latent").images
    pictures = to_bytes(pipe.decode(made, "np"))
    verdicts = [marks(scene, judge(picture)) for scene, picture in zip(wanted, pictures, strict=True)]
    return [all(all(v) for v in verdict.values()) for verdict in verdicts], made, pictures


def compared(reference: Drawn, found: Drawn) -> dict[str, Any]:
    """Decibels of one bundle's latents and pictures against another's; the peak of latents is their range."""
    peak = float(reference.latents.max() - reference.latents.min())
    pairs = zip(reference.latents, found.latents, strict=True)
    each = [psnr_db(ours, theirs, peak) for ours, theirs in pairs]
    ratios = {
        "latents_psnr_db": psnr_db(reference.latents, found.latents, peak),
        "latents_psnr_db_median": float(np.median(each)),
        "latents_psnr_db_worst": min(each),
        "pictures_psnr_db": psnr_db(reference.pictures, found.pictures, 255.0),
    }
    return {name: round(stored(ratio), 2) for name, ratio in ratios.items()}
